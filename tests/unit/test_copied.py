"""Tables written as one file by the engine: what any Delta reader sees of them, and what is not written so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.transform.copied import Copied, can_copy, copy_rows

KINDS = {
    "tiny": ("tinyint", 7),
    "small": ("smallint", -7),
    "whole": ("integer", 2_000_000_000),
    "big": ("bigint", -(2**62)),
    "real": ("real", 0.5),
    "double": ("double", 1e300),
    "flag": ("boolean", True),
    "text": ("varchar", "größer ' \" \n"),
    "day": ("date", date(1, 1, 1)),
    "local": ("timestamp", datetime(2019, 1, 1, 0, 0, 0, 1)),  # noqa: DTZ001  it has no zone
    "instant": ("timestamptz", datetime(2019, 1, 1, 12, tzinfo=UTC)),
    "money": ("decimal(12,2)", Decimal("-1234.50")),
}


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def committed(engine: duckdb.DuckDBPyConnection, sql: str, root: Path) -> DeltaTable:
    """A new Delta table of a query's rows."""
    file = copy_rows(engine, sql, root)
    table = created(root, [file], file.schema)
    assert json.loads(file.action.stats)["numRecords"] == file.rows
    return table


def created(root: Path, files: list[Copied], schema: pa.Schema) -> DeltaTable:
    """A new Delta table of these files."""
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    table = DeltaTable.create(str(root), nullable)
    table.create_write_transaction([file.action for file in files], "overwrite", nullable)
    table.update_incremental()
    return table


def test_any_reader_sees_the_rows_and_their_bounds(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    values = ", ".join(f"cast(? as {kind}) as {name}" for name, (kind, _) in KINDS.items())
    nulls = ", ".join(f"cast(null as {kind})" for kind, _ in KINDS.values())
    engine.execute(f"create table source as select {values}", [value for _, value in KINDS.values()])
    engine.execute(f"insert into source select {nulls}")
    sql = "select * from source"
    assert can_copy(engine, sql)
    table = committed(engine, sql, tmp_path / "table")
    read = pl.read_delta(str(tmp_path / "table"))
    given = {name: value for name, (_, value) in KINDS.items()}
    assert read.rows(named=True) == [given, dict.fromkeys(KINDS)]
    assert engine.sql(sql).to_arrow_table().schema.equals(pa.table(table.to_pyarrow_table()).schema)
    told = pl.DataFrame(table.get_add_actions(flatten=True)).row(0, named=True)
    assert told["num_records"] == 2
    for name in KINDS:
        assert told[f"null_count.{name}"] == 1
    for name in ("tiny", "small", "whole", "big", "day", "local", "instant"):
        assert told[f"min.{name}"] == told[f"max.{name}"] == given[name]


def test_bounds_hold_over_many_row_groups_and_without_values(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    late = "case when range < 200000 then null else range end as late"
    sql = f"select range as n, {late}, cast(null as date) as never from range(300000)"
    table = committed(engine, sql, tmp_path / "table")
    told = pl.DataFrame(table.get_add_actions(flatten=True)).row(0, named=True)
    assert (told["min.n"], told["max.n"], told["null_count.n"]) == (0, 299_999, 0)
    assert (told["min.late"], told["max.late"], told["null_count.late"]) == (200_000, 299_999, 200_000)
    assert told["null_count.never"] == 300_000 and told.get("min.never") is None


def test_a_time_that_python_has_not_is_kept_without_bounds(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    action = copy_rows(engine, "select timestamp '294246-12-31 00:00:00' as far, 1 as n", tmp_path).action
    assert json.loads(action.stats)["maxValues"] == {"n": 1}
    assert engine.sql(f"select year(far) from '{tmp_path / action.path}'").fetchall() == [(294246,)]


def test_a_query_without_rows_is_a_table_without_rows(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    committed(engine, "select 1 as n, current_date as day where false", tmp_path / "table")
    assert pl.read_delta(str(tmp_path / "table")).schema == {"n": pl.Int32, "day": pl.Date}


@pytest.mark.parametrize(
    "value", ["sum(1)", "[1]", "{'a': 1}", "time '12:00'", "uuid()", "interval 1 day", "1::utinyint"]
)
def test_kinds_that_a_parquet_file_of_the_engine_has_otherwise_are_not_copied(
    engine: duckdb.DuckDBPyConnection, value: str
) -> None:
    assert not can_copy(engine, f"select 1 as n, {value} as other")


def test_a_query_that_fails_leaves_no_file(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error):
        copy_rows(
            engine, "select cast(case when range = 250000 then 'x' else '1' end as int) from range(300000)", tmp_path
        )
    assert list(tmp_path.iterdir()) == []
