"""The backfill: every table as of the slot's consistent point, where the log continues without gap or overlap."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any

import polars as pl
import psycopg
from psycopg import sql

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.postgres.blocks import BlockReader
from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA, TableInfo
from fraud_lakehouse.sources.postgres.columns import SourceColumn, UnpackError
from fraud_lakehouse.sources.postgres.connection import PostgresConnector, abandon
from fraud_lakehouse.sources.postgres.copy import columns_of_lines, copy_lines
from fraud_lakehouse.sources.postgres.errors import one_table
from fraud_lakehouse.sources.postgres.pgoutput.tuples import texts_alongside
from fraud_lakehouse.sources.postgres.publication import ensure_publication
from fraud_lakehouse.sources.postgres.slot import ReplicationSlot
from fraud_lakehouse.sources.protection import NOT_PROTECTED, Protection
from fraud_lakehouse.sources.read_ahead import read_ahead

_CHUNK_BYTES = 32 * 1024 * 1024


class Snapshot:
    """A context in which the tables can be read as of `lsn`. It cannot be resumed, only repeated as a whole.

    The order makes the backfill exactly-once (the lake does steps 2 to 4):
    1. Entering creates publication and slot. An earlier, unfinished slot of this name is dropped first.
    2. Each table is emptied of an unfinished snapshot, and the chunks are appended. Its last commit has the position
       `lsn`.
    3. All of it is made durable.
    4. The slot's position `lsn` is committed. Only now the snapshot is complete.
    5. The log is read after `lsn`.
    A crash before 4 leaves no slot position, so the next start begins at 1. Leaving the context by an exception drops
    the slot at once, so that the server retains no log for it.

    For tables added later (`temporary`), a temporary slot only provides the snapshot. The publication gets the tables
    first, so every later change is in the log of the permanent slot. Changes that the snapshot includes
    (end LSN <= `lsn`) are skipped there by the table's own position.

    Args:
        connector: opens the connections.
        slot: the permanent slot.
        tables: what to read.
        max_rows: maximum rows of a chunk (a chunk also ends at 32 MB of text).
        temporary: read with a temporary slot.
        max_field_bytes: a larger field is an error.
        protections: by bronze table, what is done to its sensitive columns.
    """

    def __init__(
        self,
        connector: PostgresConnector,
        slot: ReplicationSlot,
        tables: Sequence[TableInfo],
        max_rows: int,
        *,
        temporary: bool,
        max_field_bytes: int,
        protections: Mapping[str, Protection] | None = None,
    ) -> None:
        self.tables = list(tables)
        self._protections = protections or {}
        self.lsn = 0
        self._connector = connector
        self._slot = slot
        self._max_rows = max_rows
        self._temporary = temporary
        self._max_field_bytes = max_field_bytes
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
            ) as failure:  # report the first error; the next snapshot drops the slot
                if error is not None:
                    error.add_note(f"the replication slot {self._slot.name} was left behind: {failure}")

    def chunks(self, table: TableInfo) -> Generator[pl.DataFrame]:
        """The table's rows as events `r`; at least one frame, empty if the table is.

        Close the iterator unless it is read to the end: the other tables are read on the same connection.

        Yields:
            Frames with the columns of the protected table's `frame_schema`; `_seq` counts from 1 across all frames.

        Raises:
            TableFailedError: this table cannot be read; others of the snapshot can.
        """
        assert self._reader is not None, "use the snapshot as a context manager"
        done = 0
        table = next(one for one in self.tables if one.name == table.name)  # with all columns
        protection = self._protections.get(table.name, NOT_PROTECTED)
        with one_table(table.name, table.oid, f"reading {table.source_name}"), self._savepoint(self._reader):
            for columns in self._columns(self._reader, table):
                frame = self._frame(columns, done)
                done += frame.height
                yield from protection.frame(frame).iter_slices(self._max_rows)
        if not done:
            yield pl.DataFrame(schema=table.protected(protection).frame_schema)

    @contextmanager
    def _savepoint(self, reader: psycopg.Connection[Any]) -> Iterator[None]:
        """Restores the transaction after an error, or if not every row was read."""
        with self._connector.typed_errors():
            reader.execute("savepoint before_table")
            try:
                yield
            finally:
                abandon(reader)
                reader.execute("rollback to savepoint before_table")

    def _open(self) -> None:
        self._connect()
        assert self._reader is not None and self._walsender is not None
        if not self._temporary:
            self._slot.drop(self._reader)
        ensure_publication(self._reader, self._slot.publication, self.tables)
        created = self._slot.create(self._walsender, temporary=self._temporary)
        self.lsn = created.lsn
        self._reader.execute("begin isolation level repeatable read read only")
        self._reader.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(created.snapshot)))
        row = self._reader.execute("select now()").fetchone()
        self._taken_at = row[0] if row else None

    def _connect(self) -> None:
        """Open both connections concurrently: opening one takes as long as all queries on it."""
        with ThreadPoolExecutor(1, "walsender") as thread:
            walsender = thread.submit(self._connector.connect, replication=True)
            try:
                self._reader = self._connector.connect()
            finally:
                self._walsender = walsender.result()

    def _columns(self, reader: psycopg.Connection[Any], table: TableInfo) -> Iterator[list[SourceColumn]]:
        """All rows in pieces: packed by column where possible, otherwise as text."""
        wheres: list[sql.Composable | None] = []
        packed = BlockReader.of(reader, table)
        if packed is None:
            wheres.append(None)
        else:
            with closing(packed.pieces(self._max_rows, _CHUNK_BYTES)) as read, read_ahead(read) as pieces:
                for piece in pieces:
                    try:
                        columns = piece.unpacked(table, self._max_field_bytes)
                    except UnpackError:
                        wheres.append(piece.where())
                    else:
                        yield columns
        for where in wheres:
            lines = copy_lines(reader, table, self._max_rows, _CHUNK_BYTES, self._max_field_bytes, where)
            with closing(lines), read_ahead(lines) as pieces_of_lines:
                for piece_of_lines in pieces_of_lines:
                    yield columns_of_lines(table, piece_of_lines)

    def _frame(self, columns: Sequence[SourceColumn], done: int) -> pl.DataFrame:
        height = columns[0].values.len()
        beside = texts_alongside({one.values.name: one.beside for one in columns if one.beside is not None}, height)
        events = {
            "_op": pl.lit("r"),
            "_lsn": pl.lit(self.lsn),
            "_seq": pl.int_range(done + 1, done + 1 + height),
            "_committed_at": pl.lit(self._taken_at),
            "_unchanged": pl.lit(None),
            "_text": pl.lit(beside),
        }
        added = [expression.cast(EVENT_SCHEMA[name]).alias(name) for name, expression in events.items()]
        return pl.DataFrame([one.values for one in columns]).with_columns(added)
