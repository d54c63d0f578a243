"""Rows of a table by COPY, as text. Works for every table; blocks.py is faster."""

from __future__ import annotations

import re
import select
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import polars as pl
import psycopg
from psycopg import errors, pq, sql

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.columns import SourceColumn
from fraud_lakehouse.sources.postgres.connection import end_copy, raw_text
from fraud_lakehouse.sources.postgres.field_limit import check_line
from fraud_lakehouse.sources.postgres.types import ColumnType, decode

_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\b": "\b", r"\f": "\f", r"\v": "\v"}
_ESCAPE = re.compile(rb"\\[\\ntrbfv]")
_MARK = "_first"  # a constant first column: no line is empty or begins with a byte order mark


def copy_lines(
    reader: psycopg.Connection[Any],
    table: TableInfo,
    max_rows: int,
    max_bytes: int,
    max_field_bytes: int,
    where: sql.Composable | None = None,
) -> Generator[bytes]:
    """Rows in COPY's text format (no raw tab or newline inside a field), in pieces of bounded size.

    Args:
        reader: a connection in the snapshot's transaction.
        max_rows: maximum rows of a piece; it also ends at `max_bytes` of text.
        max_field_bytes: a larger field is an error.
        where: which rows; default: all.

    Raises:
        FieldTooLargeError: a field is larger. psycopg.Error: the subclass of the server's SQLSTATE.
    """
    statement = sql.SQL("copy (select '.', {} from {} where {}) to stdout").format(
        sql.SQL(", ").join(sql.Identifier(column.source_name) for column in table.columns),
        table.relation(),
        where or sql.SQL("true"),
    )
    command = statement.as_bytes(reader)
    with raw_text(reader):
        lines = bytearray()
        rows = 0
        for line in _copied(reader, command):
            if len(line) > max_field_bytes:
                check_line(bytes(line), table, max_field_bytes)
            lines += line
            rows += 1
            if rows >= max_rows or len(lines) >= max_bytes:
                yield bytes(lines)
                lines, rows = bytearray(), 0
        if lines:
            yield bytes(lines)


def _copied(reader: psycopg.Connection[Any], command: bytes) -> Iterator[memoryview]:
    """The lines of a COPY."""
    raw = reader.pgconn
    result = raw.exec_(command)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise errors.error_from_result(result, encoding="utf-8")
    while (received := raw.get_copy_data(1))[0] >= 0:
        length, line = received
        if length:
            yield line
        else:
            select.select([raw.socket], [], [], 0.2)
            raw.consume_input()
    end_copy(reader)


def columns_of_lines(table: TableInfo, lines: bytes) -> list[SourceColumn]:
    """The table's columns from lines of `copy_lines`."""
    texts = read_copy_text(lines, [column.name for column in table.columns])
    columns = []
    for column in table.columns:
        values, beside = column.type.parse(_unescaped(texts[column.name], column.type))
        columns.append(SourceColumn(values.alias(column.name), beside))
    return columns


def read_copy_text(lines: bytes, names: Sequence[str]) -> pl.DataFrame:
    """Lines of COPY's text format, with a constant first field, as String columns (still escaped)."""
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
        frame = pl.read_csv(b"\n".join(map(_readable, lines.split(b"\n"))), **options)
    return frame.drop(_MARK).rename({f"c{number}": name for number, name in enumerate(names)})


def _readable(part: bytes) -> bytes:
    """A line or field; if it is not UTF-8, its bytes in the form that `ColumnType.parse` reads."""
    try:
        part.decode()
    except UnicodeDecodeError:
        if b"\t" in part:
            return b"\t".join(map(_readable, part.split(b"\t")))
        return decode(_ESCAPE.sub(_byte, part)).encode()
    return part


def _byte(escape: re.Match[bytes]) -> bytes:
    return _ESCAPES[escape[0].decode()].encode()


def _unescaped(text: pl.Series, kind: ColumnType) -> pl.Series:
    if kind.dtype not in (pl.String(), pl.Binary()) or not text.str.contains("\\", literal=True).any():
        return text
    return text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
