"""Staged rows are seen by nobody until one commit takes all of them, and refused or forgotten ones leave no file."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake

SCHEMA: dict[str, pl.DataType] = {"id": pl.Int64(), "note": pl.String()}


def appender(tmp_path: Path) -> Appender:
    return Appender.open(Lake.at(tmp_path), "bronze", "t", SCHEMA)


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "note": [f"n{i}" for i in ids]}, schema=SCHEMA)


def ids(tmp_path: Path) -> list[int]:
    return pl.read_delta(str(tmp_path / "bronze/t"))["id"].sort().to_list()


def files(tmp_path: Path) -> int:
    return len(list((tmp_path / "bronze/t").glob("*.parquet")))


def test_all_that_is_staged_appears_in_one_commit_with_the_positions(tmp_path: Path) -> None:
    table = appender(tmp_path)
    for number in range(3):
        table.stage(rows(number))
        assert ids(tmp_path) == []
        assert table.version == 0
    assert table.commit({"a": 9}) == 1
    assert (ids(tmp_path), table.position("a")) == ([0, 1, 2], 9)
    assert table.commit({"a": 10}) == 2
    assert ids(tmp_path) == [0, 1, 2], "rows are committed once"


def test_a_staged_file_is_durable_before_the_commit_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = appender(tmp_path)
    synced: list[str] = []
    monkeypatch.setattr(durable, "_sync", lambda path, _flags: synced.append(path.suffix or path.name))
    table.stage(rows(1))
    assert synced == [".parquet", "t"]
    table.commit({"a": 1})
    assert synced == [".parquet", "t", ".json", "_delta_log"]


def test_a_refused_commit_and_a_discard_leave_no_file(tmp_path: Path) -> None:
    first, second = appender(tmp_path), appender(tmp_path)
    second.stage(rows(7))
    second.stage(rows(8))
    first.append(rows(1), {"a": 1})
    with pytest.raises(ConcurrentWriterError):
        second.commit({"a": 1})
    assert files(tmp_path) == 1
    second.stage(rows(9))
    second.discard()
    assert files(tmp_path) == 1
    second.commit({"a": 2})
    assert ids(tmp_path) == [1]


def test_a_column_that_comes_late_is_null_in_what_was_staged_before(tmp_path: Path) -> None:
    table = appender(tmp_path)
    table.stage(rows(1))
    table.stage(rows(2).with_columns(city=pl.lit("Bonn")))
    table.commit({"a": 1})
    ingested = pl.read_delta(str(tmp_path / "bronze/t")).sort("id")
    assert ingested.select("id", "city").rows() == [(1, None), (2, "Bonn")]


def test_a_rival_between_the_look_at_positions_and_a_new_column_is_seen(tmp_path: Path) -> None:
    first, second = appender(tmp_path), appender(tmp_path)
    first.append(rows(1), {"a": 1})
    with pytest.raises(ConcurrentWriterError):
        second.stage(rows(1).with_columns(city=pl.lit("Bonn")))
    assert ids(tmp_path) == [1]


def test_without_a_folder_rows_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lake, "is_local", property(lambda _lake: False))
    table = appender(tmp_path)
    table.stage(rows(1))
    table.stage(rows(2).with_columns(city=pl.lit("Bonn")))
    assert files(tmp_path) == 0
    table.commit({"a": 3})
    assert (ids(tmp_path), table.position("a")) == ([1, 2], 3)
