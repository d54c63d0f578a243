"""What becomes of a bronze table when the columns of its source change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import evolve, resync_reason, settle
from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA, ColumnInfo, TableInfo
from fraud_lakehouse.sources.postgres.fingerprint import Column, Shape
from fraud_lakehouse.sources.postgres.types import ColumnType
from fraud_lakehouse.storage import parquet
from fraud_lakehouse.storage.commit_numbers import commits_of
from fraud_lakehouse.storage.lake import Lake

INT4, INT8, TEXT, NUMERIC_10_2 = ColumnType(23), ColumnType(20), ColumnType(25), ColumnType(1700, ((10 << 16) | 2) + 4)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def source(*columns: tuple[str, ColumnType], lsn: int = 10, shape: str = "{}", **more: Any) -> TableInfo:
    """A description of table t with the key `id`; without a shape it is the log's."""
    own = tuple(ColumnInfo(name, kind) for name, kind in (("id", INT4), *columns))
    return TableInfo("t", "public", "t", own, ("id",), lsn=lsn, shape=shape, **more)


def shape_of(*columns: tuple[str, int], oid: int = 1, file: int = 1) -> str:
    return Shape(oid, ["id"], {n: Column(c, kind, -1, "3") for n, (c, kind) in enumerate(columns)}, {oid: file},
                 frozenset()).text()  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


def opened(lake: Lake, info: TableInfo) -> BronzeTable:
    return BronzeTable.open_or_create(lake, "t", info.frame_schema, info.key)


def land(table: BronzeTable, info: TableInfo, lsn: int, **values: Any) -> None:
    row = {"_op": "c", "_lsn": lsn, "_seq": 1, "_committed_at": AT, **values}
    frame = pl.DataFrame([{name: row.get(name) for name in info.frame_schema}], schema=info.frame_schema)
    table.append(frame, {"pg:t": lsn})


def rows(lake: Lake, *names: str) -> list[tuple[Any, ...]]:
    return pl.read_delta(lake.uri("bronze", "t")).sort("_lsn").select(names).rows()


def described(table: BronzeTable) -> list[tuple[str, str]]:
    return [(c["name"], c["type"]) for c in json.loads(table.properties["fraud_lakehouse.columns"])]


def test_the_sources_columns_are_recorded_in_its_order(lake: Lake) -> None:
    first = source(("amount", NUMERIC_10_2), ("note", TEXT))
    table = opened(lake, first)
    assert evolve(table, first)
    assert not evolve(table, first)
    land(table, first, 1, id=1, note="old")
    later = source(("kind", TEXT), ("amount", NUMERIC_10_2), lsn=20)
    assert evolve(table, later)
    assert described(table) == [("id", "integer"), ("kind", "string"), ("amount", "decimal(10,2)")]
    land(table, later, 2, id=2, kind="new")
    assert rows(lake, "id", "note", "kind") == [(1, "old", None), (2, None, "new")]
    assert described(opened(lake, later)) == described(table)


def test_another_type_rewrites_the_files_and_loses_no_value(lake: Lake) -> None:
    first = source(("v", TEXT))
    table = opened(lake, first)
    evolve(table, first)
    for number, value in enumerate(("7", "seven", None)):
        land(table, first, number, id=number, v=value, _text='{"id": "x"}' if number == 1 else None)
    files = len(list(Path(lake.uri("bronze", "t")).glob("*.parquet")))
    before = lake.open("bronze", "t")
    assert evolve(table, source(("v", INT8), lsn=20))
    assert described(table) == [("id", "integer"), ("v", "long")]
    assert rows(lake, "id", "v") == [(0, 7), (1, None), (2, None)]
    assert [json.loads(text or "{}") for (text,) in rows(lake, "_text")] == [{}, {"id": "x", "v": "seven"}, {}]
    assert table.position("pg:t") == 2
    assert len(list(Path(lake.uri("bronze", "t")).glob("*.parquet"))) == 2 * files, "older versions have their files"
    assert pl.read_delta(lake.uri("bronze", "t"), version=before.version())["v"].to_list() is not None
    after = commits_of(lake.open("bronze", "t"))
    assert after.position_of(commits_of(before).newest, keeps_rows=True) is None, "its readers start over"
    land(table, source(("v", INT8)), 3, id=3, v=2**40)
    land(table, first, 4, id=4, v="nine")  # a piece of the log from before the change
    assert rows(lake, "id", "v", "_text")[3:] == [(3, 2**40, None), (4, None, '{"v": "nine"}')]


def test_the_log_may_be_describing_the_past(lake: Lake) -> None:
    now = source(("amount", INT4), ("kind", TEXT), lsn=100)
    table = opened(lake, now)
    assert not evolve(table, replace(now, shape="", lsn=200)), "the catalog comes first"
    evolve(table, now)
    past = source(("amount", INT8), ("note", TEXT), lsn=90, shape="")
    assert not evolve(table, past)
    land(table, past, 90, id=1, amount=2**40, note="old")
    assert rows(lake, "amount", "note", "_text") == [(None, "old", json.dumps({"amount": str(2**40)}))]
    assert evolve(table, source(("amount", INT8), ("more", TEXT), lsn=110, shape=""))
    waiting = described(table)
    assert waiting == [("id", "integer"), ("amount", "integer"), ("more", "string")], "types wait for the catalog"
    assert evolve(table, source(("amount", INT8), ("more", TEXT), lsn=120))
    assert described(table) == [("id", "integer"), ("amount", "long"), ("more", "string")]


def test_a_name_that_changes_its_case_is_the_same_column(lake: Lake) -> None:
    first = source(("note", TEXT))
    table = opened(lake, first)
    evolve(table, first)
    land(table, first, 1, id=1, note="a")
    renamed = source(("Note", TEXT), lsn=20)
    evolve(table, renamed)
    land(table, renamed, 2, id=2, Note="b")
    assert described(table) == [("id", "integer"), ("note", "string")]
    assert rows(lake, "note") == [("a",), ("b",)]


def test_a_rival_is_never_overwritten(lake: Lake) -> None:
    info = source(("v", TEXT))
    table, rival = opened(lake, info), opened(lake, info)
    land(rival, info, 1, id=1, v="7")
    with pytest.raises(ConcurrentWriterError):
        evolve(table, source(("v", INT8), lsn=20))
    land(rival, info, 2, id=2, v="8")
    with pytest.raises(ConcurrentWriterError):
        table.set_properties({"fraud_lakehouse.columns": "[]"})
    assert rows(lake, "id", "v") == [(1, "7"), (2, "8")]
    assert evolve(table, source(("v", INT8), lsn=20))
    with pytest.raises(ConcurrentWriterError):
        land(rival, info, 3, id=3, v="9")  # its file would have the old type
    land(rival, info, 3, id=3, v="9")
    assert rows(lake, "id", "v") == [(1, 7), (2, 8), (3, 9)]


def test_a_rewrite_that_fails_leaves_no_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    info = source(("v", TEXT))
    table = opened(lake, info)
    for number in range(3):
        land(table, info, number, id=number, v="7")
    files = set(Path(lake.uri("bronze", "t")).glob("*.parquet"))
    written: list[int] = []

    def fail_at_the_second(root: Path, frame: pl.DataFrame, **options: Any) -> Any:
        written.append(frame.height)
        if len(written) == 2:
            raise KeyboardInterrupt
        return parquet.write_parquet(root, frame, **options)

    monkeypatch.setattr("fraud_lakehouse.storage.reshape.write_parquet", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evolve(table, source(("v", INT8), lsn=20))
    assert set(Path(lake.uri("bronze", "t")).glob("*.parquet")) == files
    assert rows(lake, "v") == [("7",)] * 3


def test_a_resync_is_due_until_it_is_settled(lake: Lake) -> None:
    first = source(("v", TEXT), shape=shape_of(("id", 23), ("v", 25)))
    table = opened(lake, first)
    evolve(table, first)
    assert resync_reason(table, first, "m") is None
    truncated = replace(first, shape=shape_of(("id", 23), ("v", 25), file=2))
    assert resync_reason(table, truncated, "m") is None
    assert table.properties["fraud_lakehouse.shape"] == truncated.shape
    grown = source(("v", TEXT), ("w", TEXT), shape=shape_of(("id", 23), ("v", 25), ("w", 25), file=2))
    evolve(table, grown)
    for _ in range(2):
        assert resync_reason(table, grown, "m") == "column w was added"
    settle(table, grown, "m")
    assert resync_reason(table, grown, "m") is None
    anew = replace(grown, shape=shape_of(("id", 23), ("v", 25), ("w", 25), oid=2))
    assert resync_reason(table, grown, None) == "it is no longer in the publication"
    assert resync_reason(table, grown, "n") == "it was removed from the publication, or the publication was altered"
    assert "oid 1, now 2" in (resync_reason(table, anew, "m") or "")


def test_a_table_of_an_older_lake_is_resynced_only_if_its_columns_differ(lake: Lake) -> None:
    same = source(("v", TEXT), shape=shape_of(("id", 23), ("v", 25)))
    other = source(("w", TEXT), shape=shape_of(("id", 23)))
    table = opened(lake, same)
    assert set(table.properties) & {"fraud_lakehouse.shape", "fraud_lakehouse.columns"} == set()
    evolve(table, same)
    assert resync_reason(table, same, "m") is None
    older = BronzeTable.open_or_create(lake, "older", same.frame_schema, ["id"])
    evolve(older, other)
    assert resync_reason(older, other, "m") == "its columns changed while it was not captured"


def test_generated_columns_that_are_left_out_are_named_once(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    info = source(("v", TEXT), left_out=("gross",))
    table = opened(lake, info)
    evolve(table, info)
    assert not evolve(opened(lake, info), info)
    assert [record.getMessage() for record in caplog.records] == [
        'generated columns of public.t that the log does not carry: ["gross"]'
    ]


def test_names_that_are_patterns_elsewhere_are_names(lake: Lake) -> None:
    info = source(("^.*$", INT4), ("*", TEXT), ("a.b", TEXT))
    table = opened(lake, info)
    evolve(table, info)
    land(table, info, 1, id=1, **{"^.*$": 2, "*": "x", "a.b": "y"})
    evolve(table, source(("^.*$", TEXT), ("*", TEXT), ("a.b", TEXT), lsn=20))
    frame = pl.read_delta(lake.uri("bronze", "t"))
    assert [frame.get_column(name).to_list() for name in ("id", "^.*$", "*", "a.b")] == [[1], ["2"], ["x"], ["y"]]
    assert set(EVENT_SCHEMA) < set(frame.columns)
