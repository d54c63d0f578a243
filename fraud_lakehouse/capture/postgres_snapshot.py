"""The backfill: every table as of the slot's consistent point, so that snapshot and log meet exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import polars as pl
import psycopg
from psycopg import errors, pq, sql

from fraud_lakehouse.capture.pgoutput_tuple import texts_beside
from fraud_lakehouse.capture.postgres_catalog import EVENT_SCHEMA, TableInfo
from fraud_lakehouse.capture.postgres_connection import PostgresConnector
from fraud_lakehouse.capture.postgres_publication import ensure_publication
from fraud_lakehouse.capture.postgres_slot import ReplicationSlot
from fraud_lakehouse.capture.postgres_types import ColumnType
from fraud_lakehouse.errors import LakehouseError

_CHUNK_BYTES = 32 * 1024 * 1024
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\b": "\b", r"\f": "\f", r"\v": "\v"}
_MARK = "_first"  # a constant before the columns: no line is empty, and none begins with a byte order mark


class Snapshot:
    """A context in which the tables can be read as of `lsn`. It cannot be resumed: redo it whole.

    Order that makes the backfill exactly-once (steps 2 to 4 are the lake's):
    1. entering creates publication and slot; an unfinished earlier slot of this name is dropped first;
    2. each table: the first chunk REPLACES what an unfinished snapshot left, the others are appended, the
       last commit of the table carries its position `lsn`;
    3. all of it is made durable;
    4. the slot's position `lsn` is committed: only now the snapshot counts as taken;
    5. the log is read after `lsn`.
    A death before 4 leaves no slot position: the next start begins again at 1. Leaving the context by an
    exception drops the slot at once, so that the server does not keep log for nobody.

    For tables that join later (`temporary`), a temporary slot only lends its snapshot: the publication gets
    the tables first, so every later change is in the log of the permanent slot, and what the snapshot
    holds already (end LSN <= `lsn`) is dropped there by the table's own position.

    Args:
        connector: opens the connections.
        slot: the permanent slot.
        tables: what to read.
        max_rows: most rows of a chunk (a chunk also ends at 32 MB of text).
        temporary: read with a temporary slot.
    """

    def __init__(
        self,
        connector: PostgresConnector,
        slot: ReplicationSlot,
        tables: Sequence[TableInfo],
        max_rows: int,
        *,
        temporary: bool,
    ) -> None:
        self.tables = list(tables)
        self.lsn = 0
        self._connector = connector
        self._slot = slot
        self._max_rows = max_rows
        self._temporary = temporary
        self._walsender: psycopg.Connection[Any] | None = None
        self._reader: psycopg.Connection[Any] | None = None
        self._taken_at: datetime | None = None

    def __enter__(self) -> Snapshot:
        try:
            with self._connector.typed_errors():
                self._open()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in (self._reader, self._walsender):
            if connection is not None:
                connection.close()
        if kind is not None and not self._temporary and self.lsn:
            try:
                with self._connector.connect() as connection:
                    self._slot.drop(connection)
            except (
                psycopg.Error,
                LakehouseError,
            ) as failure:  # the first error is the one to see; the next snapshot drops it
                if error is not None:
                    error.add_note(f"the replication slot {self._slot.name} was left behind: {failure}")

    def chunks(self, table: TableInfo) -> Iterator[pl.DataFrame]:
        """The table's rows in key order as events `r`; at least one frame, empty if the table is.

        Yields:
            Frames with the columns of `table.frame_schema`; `_seq` counts from 1 through all of them.
        """
        assert self._reader is not None, "use the snapshot as a context manager"
        done = 0
        with self._connector.typed_errors():
            for lines in self._lines(self._reader, table):
                frame = self._frame(table, lines, done)
                done += frame.height
                yield frame
        if not done:
            yield pl.DataFrame(schema=table.frame_schema)

    def _open(self) -> None:
        with self._connector.connect() as connection:
            if not self._temporary:
                self._slot.drop(connection)
            ensure_publication(connection, self._slot.publication, self.tables)
        self._walsender = self._connector.connect(replication=True)
        created = self._slot.create(self._walsender, temporary=self._temporary)
        self.lsn = created.lsn
        self._reader = self._connector.connect()
        self._reader.execute("begin isolation level repeatable read read only")
        self._reader.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(created.snapshot)))
        row = self._reader.execute("select now()").fetchone()
        self._taken_at = row[0] if row else None

    def _lines(self, reader: psycopg.Connection[Any], table: TableInfo) -> Iterator[bytes]:
        """Rows in the text format of COPY (no raw tab or newline inside a field), in bounded pieces."""
        statement = sql.SQL("copy (select '.', {} from {} order by {}) to stdout").format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
            table.relation(),
            sql.SQL(", ").join(sql.Identifier(name) for name in table.key),
        )
        raw = reader.pgconn
        result = raw.exec_(statement.as_bytes(reader))
        if result.status != pq.ExecStatus.COPY_OUT:
            raise errors.error_from_result(result, encoding="utf-8")
        lines: list[bytes] = []
        size = 0
        while True:
            length, line = raw.get_copy_data(0)
            if length <= 0:
                break
            lines.append(bytes(line))
            size += length
            if len(lines) >= self._max_rows or size >= _CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
        while (ended := raw.get_result()) is not None:
            if ended.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(ended, encoding="utf-8")
        if lines:
            yield b"".join(lines)

    def _frame(self, table: TableInfo, lines: bytes, done: int) -> pl.DataFrame:
        texts = read_copy_text(lines, [column.name for column in table.columns])
        typed, lossy = [], {}
        for column in table.columns:
            text = texts[column.name]
            values, marks = column.type.parse(_unescaped(text, column.type))
            typed.append(values.alias(column.name))
            if marks is not None:
                lossy[column.name] = text.set(~marks, None)
        beside = texts_beside(lossy, texts.height)
        events = {
            "_op": pl.lit("r"),
            "_lsn": pl.lit(self.lsn),
            "_seq": pl.int_range(done + 1, done + 1 + texts.height),
            "_committed_at": pl.lit(self._taken_at),
            "_unchanged": pl.lit(None),
            "_text": pl.lit(beside),
        }
        columns = [expression.cast(EVENT_SCHEMA[name]).alias(name) for name, expression in events.items()]
        return pl.DataFrame(typed).with_columns(columns)


def read_copy_text(lines: bytes, names: Sequence[str]) -> pl.DataFrame:
    """Lines of COPY's text format, a constant first field, as String columns (escapes still inside)."""
    options: dict[str, Any] = {
        "has_header": False,
        "separator": "\t",
        "quote_char": None,
        "null_values": "\\N",
        "empty_string_is_null": False,
        "schema": {_MARK: pl.String(), **{f"c{number}": pl.String() for number in range(len(names))}},
    }
    try:
        frame = pl.read_csv(lines, **options)
    except pl.exceptions.ComputeError:  # not UTF-8: a SQL_ASCII database
        frame = pl.read_csv(lines.decode(errors="backslashreplace").encode(), **options)
    return frame.drop(_MARK).rename({f"c{number}": name for number, name in enumerate(names)})


def _unescaped(text: pl.Series, kind: ColumnType) -> pl.Series:
    if kind.dtype not in (pl.String(), pl.Binary()) or not text.str.contains("\\", literal=True).any():
        return text
    return text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
