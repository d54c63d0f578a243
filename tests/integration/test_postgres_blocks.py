"""Tables read packed by column, compared with the same tables read by COPY."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import psycopg
import pytest
from polars.testing import assert_frame_equal

from fraud_lakehouse.sources.postgres.blocks import BlockReader
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.columns import SourceColumn, UnpackError
from fraud_lakehouse.sources.postgres.copy import columns_of_lines, copy_lines

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]
LIMIT = 1_000_000

COLUMNS = {
    "yes": ("bool", "g % 2 = 0"),
    "two": ("int2", "g % 30000 - 15000"),
    "four": ("int4", "g * 7919"),
    "eight": ("int8", "g * -1234567890123"),
    "number": ("oid", "(4294967295 - g)::oid"),
    "real four": ("float4", "case g % 5 when 0 then 'NaN' when 1 then '-0' else (g / 7.0)::text end::float4"),
    'real"eight': ("float8", "case g % 5 when 0 then '-Infinity' else (g / 7.0)::text end::float8"),
    "money": ("numeric(10,2)", "case when g % 50 = 0 then 'NaN' else g / 100.0 end"),
    "any": ("numeric", "case when g % 9 = 0 then 1e50 + g else 1.0 / g end"),
    "day": ("date", "case g % 7 when 0 then 'infinity' else date '2000-01-01' - g end"),
    "wall": (
        "timestamp",
        "case g % 7 when 0 then '-infinity' else timestamp '1999-12-31' + g * interval '1.00001 s' end",
    ),
    "moment": ("timestamptz", "timestamptz '0001-01-01 00:00:00+00' + g * interval '1 day'"),
    "said": ("text", "case g % 4 when 0 then '' when 1 then E'a\\tb\\\\n\\nc\\r\\\\N' else 'é🙂' || g end"),
    "padded": ("char(6)", "'x' || g % 100"),
    "raw": ("bytea", "int4send(g)"),
    "list": ("text[]", "array['a,b', null, g::text]"),
    "pair": ("pair", "case g % 3 when 0 then row(null, null)::pair else row(g, 'x')::pair end"),
    "kind": ("mood", "case g % 2 when 0 then 'so so' else 'good' end::mood"),
    "place": ("inet", "inet '10.0.0.1/24' + g"),
    "short": ("few", "(g % 10)::few"),
}


@pytest.fixture
def server(source: psycopg.Connection) -> psycopg.Connection:
    source.execute("create type mood as enum ('good', 'so so')")
    source.execute("create type pair as (n int, t text)")
    source.execute("create domain few as int check (value < 10)")
    return source


def create(server: psycopg.Connection, rows: int, nulls: str = "false") -> None:
    """A table with a column of each kind, `nulls` saying of g and the column's number c where it is null."""
    columns = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}" {kind}' for name, (kind, _) in COLUMNS.items())
    server.execute(f"create table wide (id int primary key, {columns})")  # type: ignore[arg-type]
    server.execute("alter table wide set (autovacuum_enabled = off)")
    values = ", ".join(
        f"case when {nulls.replace('c', str(number))} then null else {value} end"
        for number, (_, value) in enumerate(COLUMNS.values())
    )
    server.execute(f"insert into wide select g, {values} from generate_series(1, {rows}) g")  # type: ignore[arg-type]


def packed(reader: psycopg.Connection, table: TableInfo, max_rows: int) -> tuple[pl.DataFrame, int]:
    """All rows and their texts beside, and how many pieces had to be read as text."""
    blocks = BlockReader.of(reader, table)
    assert blocks is not None
    frames, left = [], []
    for piece in blocks.pieces(max_rows, 10_000_000):
        try:
            frames.append(framed(piece.unpacked(table, LIMIT)))
        except UnpackError:
            left.append(piece.where())
    for where in left:
        frames += [framed(columns_of_lines(table, one)) for one in copy_lines(reader, table, 10, 9999, LIMIT, where)]
    return pl.concat(frames), len(left)


def framed(columns: list[SourceColumn]) -> pl.DataFrame:
    beside = []
    for one in columns:
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, one.values.len())
        beside.append((nothing if one.beside is None else one.beside).alias(f"{one.values.name}?"))
    return pl.DataFrame([*(one.values for one in columns), *beside])


def compare(database: str, table: TableInfo, max_rows: int = 1000) -> int:
    """Both ways give the same rows; returns how many pieces had to be read as text."""
    with psycopg.connect(database, options="-c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex") as reader:
        reader.execute("begin isolation level repeatable read read only")
        found, left = packed(reader, table, max_rows)
        copied = pl.concat(framed(columns_of_lines(table, one)) for one in copy_lines(reader, table, 999, 10**7, LIMIT))
    assert_frame_equal(found.sort("id"), copied.sort("id"))
    assert found.height == found["id"].n_unique()
    return left


def wide(capture: PostgresCapture) -> TableInfo:
    return next(table for table in capture.tables() if table.name == "wide")


@pytest.mark.parametrize("nulls", ["false", "true", "(g + c) % 3 = 0", "g between c * 97 and c * 97 + 1500", "g > 40"])
def test_every_kind_of_column_says_the_same_packed(
    database: str, server: psycopg.Connection, capture_of: Open, nulls: str
) -> None:
    create(server, 3000, nulls)
    assert compare(database, wide(capture_of())) == 0


def test_rows_between_dead_ones_and_empty_blocks(database: str, server: psycopg.Connection, capture_of: Open) -> None:
    create(server, 6000, "(g + c) % 11 = 0")
    server.execute("delete from wide where id between 500 and 4500 or id % 3 = 0")
    server.execute("vacuum wide")
    server.execute("update wide set four = four + 1 where id % 5 = 0")
    for max_rows in (1, 700, 100_000):
        assert compare(database, wide(capture_of()), max_rows) == 0


def test_years_no_column_holds_are_read_as_text(database: str, server: psycopg.Connection, capture_of: Open) -> None:
    create(server, 4000)
    server.execute("update wide set moment = '0044-03-15 BC', wall = '294276-12-31', day = '10000-01-01' where id = 7")
    assert compare(database, wide(capture_of()), max_rows=500) == 1


def test_what_cannot_be_read_packed(server: psycopg.Connection, capture_of: Open) -> None:
    server.execute("create table long (id int primary key, note text)")
    server.execute("create table parts (id int primary key) partition by range (id)")
    server.execute("create table empty (id int primary key)")
    tables = {table.name: table for table in capture_of().tables()}
    assert BlockReader.of(server, tables["long"]) is not None
    server.execute("alter table long alter note set storage external")
    server.execute("insert into long values (1, repeat('x', 10000))")
    assert BlockReader.of(server, tables["long"]) is None
    assert BlockReader.of(server, tables["parts"]) is None
    empty = BlockReader.of(server, tables["empty"])
    assert empty is not None
    assert list(empty.pieces(10, 10)) == []
