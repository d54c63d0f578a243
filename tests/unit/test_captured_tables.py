"""When captured tables are read again: once their log has changed, however many of them do not change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.captured import CapturedTables
from fraud_lakehouse.transform.table_cache import Key, TableCache


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


def made(lake: Lake, name: str, column: str = "id") -> BronzeTable:
    return BronzeTable.open_or_create(lake, name, {column: pl.Int64()}, [column])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """The tables opened so far, with every log taken as old enough for its folder's time to tell."""
    monkeypatch.setattr("fraud_lakehouse.transform.table_cache.SETTLED_NS", -1)
    keys: list[Key] = []
    get = TableCache.get

    def counted(self: TableCache, key: Key) -> object:
        keys.append(key)
        return get(self, key)

    monkeypatch.setattr(TableCache, "get", counted)
    return keys


def test_only_tables_with_new_commits_are_opened_again(lake: Lake, opened: list[Key]) -> None:
    payees, _ = made(lake, "payees"), made(lake, "accounts")
    tables = CapturedTables(lake)
    first = tables.now()
    assert sorted(opened) == [("bronze", "accounts"), ("bronze", "payees")]
    opened.clear()
    assert tables.now() == first and opened == []
    payees.reshape({"name": pl.String()}, rewrite=False)
    assert ("name", "varchar") in tables.now()["payees"].columns
    assert opened == [("bronze", "payees")]


def test_new_rows_leave_the_description_the_same_object(lake: Lake) -> None:
    payees = made(lake, "payees")
    tables = CapturedTables(lake)
    first = tables.now()["payees"]
    payees.append(pl.DataFrame({"id": [1]}), {})
    assert tables.now()["payees"] is first


def test_a_table_made_anew_is_read_again(lake: Lake, opened: list[Key]) -> None:
    made(lake, "payees")
    tables = CapturedTables(lake)
    assert tables.now()["payees"].key == ["id"]
    shutil.rmtree(lake.uri("bronze", "payees"))
    assert tables.now() == {}
    made(lake, "payees", "number")
    assert tables.now()["payees"].key == ["number"]


def test_a_commit_within_the_clock_tick_of_the_one_before_is_seen(lake: Lake) -> None:
    payees = made(lake, "payees")
    log = f"{lake.uri('bronze', 'payees')}/_delta_log"
    tables = CapturedTables(lake)
    tables.now()
    before = os.stat(log)
    payees.reshape({"name": pl.String()}, rewrite=False)
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ("name", "varchar") in tables.now()["payees"].columns
