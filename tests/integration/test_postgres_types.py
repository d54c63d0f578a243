"""Every type of PostgreSQL through both paths, compared with what the server itself says of the value."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal

import polars as pl
import psycopg
import pytest
from psycopg import sql

from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from tests.integration.replayed import Replayed, read_whole

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]

TEXT, INSTANT, WALL = pl.String(), pl.Datetime("us", "UTC"), pl.Datetime("us")
ANY_NUMERIC = pl.Decimal(38, 9)
TYPES: list[tuple[str, pl.DataType, list[str]]] = [
    ("boolean", pl.Boolean(), ["true", "false"]),
    ("smallint", pl.Int16(), ["-32768"]),
    ("integer", pl.Int32(), ["2147483647"]),
    ("bigint", pl.Int64(), ["-9223372036854775808"]),
    ("oid", pl.Int64(), ["4294967295"]),
    ("real", pl.Float32(), ["1e-45", "3.4028235e38", "NaN", "-Infinity", "-0"]),
    ("double precision", pl.Float64(), ["5e-324", "1.7976931348623157e308", "NaN", "Infinity", "0.1"]),
    ("numeric(10,2)", pl.Decimal(10, 2), ["12345678.90", "NaN", "-0.01"]),
    ("numeric(38,38)", pl.Decimal(38, 38), ["0.12345678901234567890123456789012345678"]),
    ("numeric(50,40)", ANY_NUMERIC, ["1.0000000000000000000000000000000000000001", "9999999999"]),
    ("numeric(5,-2)", ANY_NUMERIC, ["1234567"]),
    ("numeric(3,5)", ANY_NUMERIC, ["0.00123"]),
    ("numeric", ANY_NUMERIC, ["NaN", "Infinity", "-Infinity", "1e100", "-1e-100", "0.1234567895", "1.5", "0"]),
    ("money", TEXT, ["-1234.56"]),
    ('"char"', TEXT, ["x", ""]),
    ("name", TEXT, ["x y"]),
    ("regclass", TEXT, ["public.payments", "pg_class"]),
    ("regtype", TEXT, ["public.mood"]),
    ("text", TEXT, ["", "a\tb\\n\nc\r", "\\N", "é🙂", "NULL"]),
    ("varchar(10)", TEXT, ["ab "]),
    ("char(5)", TEXT, ["ab"]),
    ("bytea", pl.Binary(), ["\\x00ff5c0a", "\\x"]),
    ("date", pl.Date(), ["0001-01-01", "9999-12-31", "10000-01-01", "5874897-12-31", "0044-03-15 BC", "infinity"]),
    ("timestamp", WALL, ["2024-02-29 23:59:59.999999", "294276-12-31 23:59:59.999999", "4713-01-01 BC", "-infinity"]),
    ("timestamp(0)", WALL, ["0001-01-01 00:00:00", "9999-12-31 23:59:59"]),
    ("timestamptz", INSTANT, ["2024-02-29 23:59:59.5+05:30", "294276-12-31 00:00:00+00", "0044-03-15 BC", "infinity"]),
    ("time", TEXT, ["24:00:00", "00:00:00.000001"]),
    ("timetz", TEXT, ["12:34:56.789-15:59"]),
    ("interval", TEXT, ["1 year -2 months 3 days -04:05:06.789", "0"]),
    ("json", TEXT, ['{"k": [1, "\\\\u00e9",  null]}']),
    ("jsonb", TEXT, ['{"k": [1, "\\\\u00e9",  null]}']),
    ("jsonpath", TEXT, ["$.a[*] ? (@ > 1)"]),
    ("uuid", TEXT, ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("inet", TEXT, ["192.168.0.1/24", "::1"]),
    ("cidr", TEXT, ["10.0.0.0/8"]),
    ("macaddr", TEXT, ["08:00:2b:01:02:03"]),
    ("macaddr8", TEXT, ["08:00:2b:01:02:03:04:05"]),
    ("bit(3)", TEXT, ["101"]),
    ("bit varying", TEXT, ["", "1"]),
    ("tsvector", TEXT, ["'a':1A 'it''s':2"]),
    ("tsquery", TEXT, ["'a' & !'b'"]),
    ("point", TEXT, ["(1.5,-2)"]),
    ("polygon", TEXT, ["((0,0),(1,1),(1,0))"]),
    ("pg_lsn", TEXT, ["16/B374D848"]),
    ("mood", TEXT, ['it\'s, "fine"']),
    ("cents", pl.Decimal(12, 3), ["1.125", "NaN"]),
    ("fee", pl.Decimal(12, 3), ["-1.5"]),
    ("scores", TEXT, ["{1,NULL,3}"]),
    ("information_schema.cardinal_number", pl.Int32(), ["7"]),
    ("place", TEXT, ['(1,"a ""b"", c",{2024-02-29})', "(,,)"]),
    ("place[]", TEXT, ['{"(1,x,)",NULL}']),
    ("integer[]", TEXT, ["{{1,2},{3,NULL}}", "[0:1]={5,6}", "{}"]),
    ("text[]", TEXT, ['{"a,b","\\\\\\\\","NULL",NULL,""}']),
    ("timestamptz[]", TEXT, ["{2024-02-29 12:00:00+02}"]),
    ("box[]", TEXT, ["{(1,1),(0,0);(2,2),(1,1)}"]),
    ("int4range", TEXT, ["[1,5)", "empty", "(,)"]),
    ("numrange", TEXT, ["(1.5,NaN]"]),
    ("tstzrange", TEXT, ["[2024-02-29 00:00:00+00,infinity)"]),
    ("int4multirange", TEXT, ["{[1,2),[5,7)}"]),
]


@pytest.fixture
def kinds(source: psycopg.Connection) -> Callable[[int], None]:
    """A table with a column of each type; the result inserts every value (and a row of nulls) from an id on."""
    source.execute("create type mood as enum ('it''s, \"fine\"', 'fraud')")
    source.execute("create domain cents as numeric(12,3)")
    source.execute("create domain fee as cents check (value < 0)")
    source.execute("create domain scores as int[]")
    source.execute("create type place as (x int, y text, days date[])")
    columns = [sql.SQL("c{} {}").format(n, sql.SQL(kind)) for n, (kind, _, _) in enumerate(TYPES)]
    source.execute(sql.SQL("create table kinds (id int primary key, {})").format(sql.SQL(", ").join(columns)))
    rows = max(len(values) for *_, values in TYPES) + 1

    def insert(first: int) -> None:
        for row in range(rows):
            given = [values[row] if row < len(values) else None for *_, values in TYPES]
            casts = [sql.SQL("%s::text::{}").format(sql.SQL(kind)) for kind, *_ in TYPES]
            statement = sql.SQL("insert into kinds values (%s, {})").format(sql.SQL(", ").join(casts))
            source.execute(statement, [first + row, *given])

    return insert


def output(source: psycopg.Connection, number: int) -> list[str | None]:
    # format() takes what the type itself writes; a cast of char(5) to text would take the blanks away.
    written = sql.SQL("select case when c{0} is distinct from null then format('%s', c{0}) end from kinds order by id")
    return [row[0] for row in source.execute(written.format(number)).fetchall()]


def heard(frame: pl.DataFrame, number: int) -> list[str | None]:
    """The values as text, as the server would be told them: the typed value, or the text beside it."""
    result: list[str | None] = []
    for value, beside in frame.select(f"c{number}", "_text").iter_rows():
        kept = json.loads(beside or "{}").get(f"c{number}")
        if kept is not None:
            result.append(kept)
        elif isinstance(value, bytes):
            result.append("\\x" + value.hex())
        else:
            result.append(None if value is None else str(value))
    return result


def number(text: str | None) -> Decimal | str | None:
    return text if text is None or text == "NaN" else Decimal(text)


def test_every_type_says_what_the_server_says(
    source: psycopg.Connection, capture_of: Open, kinds: Callable[[int], None]
) -> None:
    kinds(0)
    model, capture = Replayed(), capture_of(postgres_tables=("kinds",))
    with capture.snapshot() as snapshot:
        (table,) = snapshot.tables
        snapshotted = pl.concat(snapshot.chunks(table))
        model.after, model.position = {"kinds": snapshot.lsn}, snapshot.lsn
    kinds(100)
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    logged = batch.frames["kinds"]

    own = ["id", "_op", "_lsn", "_seq", "_committed_at"]
    assert snapshotted.drop(own).equals(logged.drop(own))
    both = pl.concat([snapshotted, logged]).sort("id")
    for setting in ("timezone = 'UTC'", "datestyle = 'ISO'", "search_path = pg_catalog, public"):
        source.execute(f"set {setting}")
    for place, (kind, dtype, values) in enumerate(TYPES):
        assert both.schema[f"c{place}"] == dtype, kind
        expected, found = output(source, place), heard(both, place)
        assert sum(value is not None for value in found) == 2 * len(values), f"{kind}: a value became null"
        if isinstance(dtype, pl.Decimal):
            assert [number(text) for text in found] == [number(text) for text in expected], kind
        elif dtype != TEXT:
            reported = sql.SQL("select case when t is not null then format('%%s', t::{}) end from unnest(%s::text[]) t")
            assert [row[0] for row in source.execute(reported.format(sql.SQL(kind)), (found,))] == expected, kind
        elif not kind.startswith("reg"):
            assert found == expected, kind
        else:
            assert found[0] == values[0]


def test_values_that_every_reader_holds_are_typed(
    source: psycopg.Connection, capture_of: Open, kinds: Callable[[int], None]
) -> None:
    kinds(0)
    with capture_of(postgres_tables=("kinds",)).snapshot() as snapshot:
        frame = pl.concat(snapshot.chunks(snapshot.tables[0]))
    beside: dict[str, int] = {}
    for text in frame["_text"].drop_nulls():
        for name in json.loads(text):
            beside[TYPES[int(name[1:])][0]] = beside.get(TYPES[int(name[1:])][0], 0) + 1
    assert beside == {
        "numeric(10,2)": 1,
        "numeric(50,40)": 1,
        "numeric": 6,
        "cents": 1,
        "date": 4,
        "timestamp": 3,
        "timestamptz": 3,
    }
