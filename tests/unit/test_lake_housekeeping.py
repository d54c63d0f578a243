"""However many commits: few files, a short log, every row once, and readers that are behind lose nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.lake import durable, failpoints, housekeeping, past_log
from fraud_lakehouse.lake.appender import Appender
from fraud_lakehouse.lake.compaction import Tier
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.maintenance import MARKER, DailyUpkeep, maintain_table
from fraud_lakehouse.lake.writer_lock import process_lock
from fraud_lakehouse.transform.changes import added_files
from tests.interruption import Crash, crash

SCHEMA: dict[str, pl.DataType] = {"x": pl.Int64()}
DAY = 86_400.0


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of commits: what is flushed when is another test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose life is ten times as short: a checkpoint every 10 commits, 20 entries kept, packs of 10."""
    monkeypatch.setattr(housekeeping, "CHECKPOINT_INTERVAL", 10)
    monkeypatch.setattr(housekeeping, "HOUSE_INTERVAL", 10)
    monkeypatch.setattr(housekeeping, "TIERS", (Tier(0, housekeeping.MEBIBYTE, 4),))
    monkeypatch.setattr(past_log, "KEPT", 20)
    monkeypatch.setattr(past_log, "PACK", 10)


def opened(tmp_path: Path) -> Appender:
    return Appender.open(Lake.at(tmp_path), "bronze", "t", SCHEMA)


def land(table: Appender, *numbers: int) -> None:
    for number in numbers:
        table.append(pl.DataFrame({"x": [number]}, schema=SCHEMA), {"a": number})


def root_of(tmp_path: Path) -> Path:
    return tmp_path / "bronze/t"


def rows(tmp_path: Path) -> list[int]:
    return pl.read_delta(str(root_of(tmp_path)))["x"].sort().to_list()


def new_rows(tmp_path: Path, after: int) -> list[int] | None:
    """What a reader at version `after` gets; None: it is told to start over."""
    added = added_files(DeltaTable(str(root_of(tmp_path))), after)
    return [x for file in added.files for x in pl.read_parquet(file)["x"]] if added.append_only else None


def age(folder: Path, seconds: float) -> None:
    """Make all that is in a folder older."""
    for path in folder.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))


def test_one_writer_at_a_time_trims_the_log(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    for number in range(1, 60):
        land(table, number)
    root = root_of(tmp_path)
    before = past_log.Log.of(root).entries
    with process_lock(root / past_log.PAST / "trimming.lock", 0.0, "is trimming"):
        for number in range(60, 100):
            land(table, number)
        assert past_log.trim(root) == 0
        assert set(before) <= set(past_log.Log.of(root).entries), "nothing goes while another trims"
    assert past_log.trim(root) > 0
    assert new_rows(tmp_path, 0) == list(range(1, 100))


def test_files_and_log_stay_bounded_and_every_row_is_there_once(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    commits = 350
    for number in range(1, commits + 1):
        land(table, number)
        if number % 90 == 0:
            maintain_table(Lake.at(tmp_path), "bronze", "t")
            table.refresh()
    log = past_log.Log.of(root_of(tmp_path))
    assert len(log.entries) <= past_log.KEPT + 2 * 10 + 5
    assert len(log.checkpoints) <= len(log.entries) // 10 + 5
    assert len(DeltaTable(str(root_of(tmp_path))).file_uris()) <= 10 + 4
    assert rows(tmp_path) == list(range(1, commits + 1))
    assert opened(tmp_path).position("a") == commits
    assert new_rows(tmp_path, 0) == list(range(1, commits + 1)), "what is packed is as good as the log"


def test_a_reader_at_any_version_gets_exactly_the_rows_after_it(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    reached = {table.version: 0}  # version -> newest row
    for number in range(1, 96):
        land(table, number)
        reached[table.version] = number
    assert log_starts_after(tmp_path, 20)
    for version, number in reached.items():
        assert new_rows(tmp_path, version) == list(range(number + 1, 96))


def log_starts_after(tmp_path: Path, version: int) -> bool:
    return past_log.Log.of(root_of(tmp_path)).entries[0] > version


def test_a_reader_whose_entries_or_files_are_gone_starts_over(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    land(table, *range(1, 96))
    packs = sorted((root_of(tmp_path) / past_log.PAST).glob("*.jsonl"))
    age(packs[0].parent, 8 * DAY)
    past_log.forget(root_of(tmp_path))
    assert not list(packs[0].parent.glob("*.jsonl"))
    assert new_rows(tmp_path, 0) is None
    start = past_log.Log.of(root_of(tmp_path)).entries[0]
    assert new_rows(tmp_path, start) is not None
    gone = added_files(DeltaTable(str(root_of(tmp_path))), start).files[0]
    Path(gone).unlink()
    assert new_rows(tmp_path, start) is None


def test_vacuum_keeps_what_a_version_of_the_last_week_needs(tmp_path: Path, busy: None) -> None:
    """Ages: rows 1..30 twelve days, 31..40 ten days, 41..80 six days, 81..90 now."""
    table = opened(tmp_path)
    land(table, *range(1, 31))
    age(tmp_path, 2 * DAY)
    land(table, *range(31, 41))
    age(tmp_path, 4 * DAY)
    land(table, *range(41, 81))
    age(tmp_path, 6 * DAY)
    land(table, *range(81, 91))
    versions = past_log.Log.of(root_of(tmp_path)).checkpoints
    week_ago = past_log.version_at(root_of(tmp_path), time.time() - 7 * DAY)
    assert week_ago is not None
    before = {version: content(tmp_path, version) for version in versions if version >= week_ago[0]}
    files = len(list(root_of(tmp_path).glob("*.parquet")))
    done = maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert done.files_vacuumed > 0
    assert len(list(root_of(tmp_path).glob("*.parquet"))) <= files + 1 - done.files_vacuumed
    assert {version: content(tmp_path, version) for version in before} == before
    assert rows(tmp_path) == list(range(1, 91))
    assert maintain_table(Lake.at(tmp_path), "bronze", "t").files_vacuumed == 0


def content(tmp_path: Path, version: int) -> list[int]:
    return pl.read_delta(str(root_of(tmp_path)), version=version)["x"].sort().to_list()


def test_a_writer_left_behind_by_the_log_is_refused(tmp_path: Path, busy: None) -> None:
    busy_one, stopped = opened(tmp_path), opened(tmp_path)
    land(busy_one, *range(1, 96))
    assert log_starts_after(tmp_path, 20)
    with pytest.raises(ConcurrentWriterError):
        stopped.append(pl.DataFrame({"x": [1]}, schema=SCHEMA), {"a": 1})
    assert stopped.position("a") == 95
    land(stopped, 96)
    assert rows(tmp_path) == list(range(1, 97))


INTERRUPTED = (
    "compaction.before_commit",
    "compaction.after_commit",
    "checkpoint.before_write",
    "checkpoint.after_write",
    "log.after_pack",
    "upkeep.before_vacuum",
    "upkeep.after_vacuum",
)


@pytest.mark.parametrize("point", INTERRUPTED)
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "a rival appends"])
def test_upkeep_interrupted_at_each_step(
    tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch, point: str, killed: bool
) -> None:
    monkeypatch.setattr(housekeeping, "is_due", lambda before, now: False)
    table = opened(tmp_path)
    land(table, *range(1, 21))
    housekeeping.checkpoint(table._handle, root_of(tmp_path))
    land(table, *range(21, 48))
    rival = opened(tmp_path)
    failpoints.arm(point, action=crash if killed else lambda: land(rival, 48))
    try:
        maintain_table(Lake.at(tmp_path), "bronze", "t")
    except Crash:
        pass
    finally:
        failpoints.disarm()
    newest = 47 if killed else 48
    assert rows(tmp_path) == list(range(1, newest + 1))
    land(opened(tmp_path), *range(newest + 1, 60))
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert rows(tmp_path) == list(range(1, 60))
    assert new_rows(tmp_path, 0) == list(range(1, 60))


STEPS = st.lists(st.sampled_from(["first", "second", "upkeep", "trim", "reader"]), min_size=30, max_size=90)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_writers_readers_and_upkeep_in_any_order(tmp_path: Path, busy: None, steps: list[str]) -> None:
    shutil.rmtree(root_of(tmp_path), ignore_errors=True)
    writers = {"first": opened(tmp_path), "second": opened(tmp_path)}
    committed, read, position = 0, 0, 0
    for step in steps:
        if step in writers:
            table = writers[step]
            try:
                land(table, (table.position("a") or 0) + 1)
                committed += 1
            except ConcurrentWriterError:
                assert table.position("a") == committed
        elif step == "upkeep":
            maintain_table(Lake.at(tmp_path), "bronze", "t")
        elif step == "trim":
            past_log.trim(root_of(tmp_path))
        else:
            version = DeltaTable(str(root_of(tmp_path))).version()
            assert new_rows(tmp_path, position) == list(range(read + 1, committed + 1))
            read, position = committed, version
    assert rows(tmp_path) == list(range(1, committed + 1))


def test_a_table_left_by_an_older_release_gets_its_properties(tmp_path: Path) -> None:
    DeltaTable.create(str(root_of(tmp_path)), opened(tmp_path / "new")._handle.schema())
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert DeltaTable(str(root_of(tmp_path))).metadata().configuration == housekeeping.properties(local=True)


def test_daily_upkeep_takes_a_table_a_call_once_a_day(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    for name in ("t", "u"):
        Appender.open(lake, "bronze", name, SCHEMA)
    daily = DailyUpkeep(lake, look_every=0.0)
    assert daily.step(idle=True) is None, "they are new"
    for name in ("t", "u"):
        os.utime(durable.log_entry(tmp_path / "bronze" / name, 0), (0, 0))
    done = [step.table for step in (daily.step(idle=True), daily.step(idle=True), daily.step(idle=True)) if step]
    assert sorted(done) == ["t", "u"]
    age(root_of(tmp_path), 1.5 * DAY)
    assert daily.step(idle=False) is None, "a busy process puts it off"
    idle = daily.step(idle=True)
    assert idle is not None
    assert idle.table == "t"
    os.utime(root_of(tmp_path) / MARKER, (0, 0))
    late = daily.step(idle=False)
    assert late is not None, "but not for ever"
    assert durable.log_entry(root_of(tmp_path), 0).exists()
