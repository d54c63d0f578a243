"""`_commit` of Kafka records grows by one with each commit of rows, whoever writes it, whatever happens in between."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.sources.postgres.catalog import named_columns
from fraud_lakehouse.sources.postgres.types import ColumnType
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.maintenance import maintain
from fraud_lakehouse.storage.schemas import INGESTED_AT, UTC_MICROSECONDS

SCHEMA: dict[str, pl.DataType] = {"_topic": pl.String(), "_partition": pl.Int32(), "_offset": pl.Int64()}


def records(*offsets: int) -> pl.DataFrame:
    return pl.DataFrame([{"_topic": "t", "_partition": 0, "_offset": offset} for offset in offsets], schema=SCHEMA)


def bronze(root: Path) -> BronzeTable:
    return BronzeTable.open_or_create(Lake.at(root), "t", SCHEMA, ())


def numbers(root: Path) -> list[tuple[int, int | None]]:
    """Offset and commit number of each record, by offset."""
    found = pl.read_delta(str(root / "bronze/t")).sort("_offset")
    return list(found.select("_offset", "_commit").iter_rows())


def test_rows_of_one_commit_have_one_number_however_they_were_staged(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    table.append(records(0, 1), {"a": 2})
    table.stage(records(2))
    table.stage(records(3).with_columns(more=pl.lit("x")))  # a commit of its own, which has no rows
    table.commit({"a": 4})
    table.append(records(), {"a": 9})  # positions alone
    table.append(records(9), {"a": 10})
    assert numbers(tmp_path) == [(0, 1), (1, 1), (2, 2), (3, 2), (9, 3)]


def test_two_writers_never_give_the_same_number(tmp_path: Path) -> None:
    """They move other positions, so without the number Delta would take both commits."""
    first, second = bronze(tmp_path), bronze(tmp_path)
    first.append(records(0), {"a": 1})
    with pytest.raises(ConcurrentWriterError):
        second.append(records(1), {"b": 1})
    second.append(records(1), {"b": 1})
    assert numbers(tmp_path) == [(0, 1), (1, 2)]
    assert len(DeltaTable(str(tmp_path / "bronze/t")).file_uris()) == len(
        list((tmp_path / "bronze/t").glob("*.parquet"))
    )


def test_rows_staged_before_a_rivals_commit_are_not_committed_after_a_refresh(tmp_path: Path) -> None:
    first, second = bronze(tmp_path), bronze(tmp_path)
    second.stage(records(1))
    first.append(records(0), {"a": 1})
    second.refresh()
    with pytest.raises(ConcurrentWriterError, match="after rows were staged"):
        second.commit({"b": 1})
    assert numbers(tmp_path) == [(0, 1)]


def test_a_table_of_an_older_version_goes_on(tmp_path: Path) -> None:
    columns = {**SCHEMA, INGESTED_AT: UTC_MICROSECONDS}
    old = Appender.open(Lake.at(tmp_path), "bronze", "t", columns, numbered=False)
    old.append(records(0, 1), {"a": 2})
    bronze(tmp_path).append(records(2), {"a": 3})
    bronze(tmp_path).append(records(3), {"a": 4})
    assert numbers(tmp_path) == [(0, None), (1, None), (2, 1), (3, 2)]


def test_change_events_are_in_order_by_their_lsn_and_keep_their_columns(tmp_path: Path) -> None:
    """A source may have a column called `_offset`, and one called `_commit`, which has another name in the lake."""
    text = ColumnType(25, -1)
    named = [column.name for column in named_columns([("_commit", text), ("_offset", text)])]
    assert named[0].startswith("source_commit_") and named[1] == "_offset"
    columns = {"_lsn": pl.Int64(), named[0]: pl.String(), "_offset": pl.Int64()}
    table = BronzeTable.open_or_create(Lake.at(tmp_path), "t", columns, ())
    table.append(pl.DataFrame({"_lsn": [7], named[0]: ["abc"], "_offset": [5]}, schema=columns), {"a": 1})
    assert numbers(tmp_path) == [(5, 1)]


actions = st.lists(st.sampled_from(["first", "second", "reopen", "compact", "positions", "foreign"]), max_size=12)


@settings(max_examples=25, deadline=None)
@given(actions)
def test_numbers_follow_versions_whatever_comes_between(done: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        writers = {"first": bronze(root), "second": bronze(root)}
        offset = 0
        for action in [*done, "first"]:
            if action == "reopen":
                writers["first"] = bronze(root)
            elif action == "compact":
                DeltaTable(str(root / "bronze/t")).optimize.compact()
            elif action == "foreign":  # a commit that is none of ours
                DeltaTable(str(root / "bronze/t")).alter.set_table_properties(
                    {"other": str(offset)}, raise_if_not_exists=False
                )
            else:
                writer = writers["second" if action == "positions" else action]
                writer.refresh()
                added = records() if action == "positions" else records(offset)
                writer.append(added, {"a": offset} if action == "positions" else {})
                offset += added.height
        assert numbers(root) == [(number, number + 1) for number in range(offset)]


def test_upkeep_and_a_new_checkpoint_keep_the_numbers(tmp_path: Path) -> None:
    table = bronze(tmp_path)
    for offset in range(45):
        table.append(records(offset), {"a": offset + 1})
    maintain(Lake.at(tmp_path))
    bronze(tmp_path).append(records(45), {"a": 46})
    assert numbers(tmp_path) == [(number, number + 1) for number in range(46)]
