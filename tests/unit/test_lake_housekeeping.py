"""However many commits: few files, a short log, every row once, and readers that are behind lose nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse import failpoints
from fraud_lakehouse.alerts.deliveries import Attempt, DeliveryLog
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.storage import durable, housekeeping
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.commit_numbers import rows_since
from fraud_lakehouse.storage.compaction import Tier
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake, data_files
from fraud_lakehouse.storage.maintenance import MARKER, DailyUpkeep, maintain_table
from tests.interruption import Crash, crash

SCHEMA: dict[str, pl.DataType] = {"x": pl.Int64()}
DAY = 86_400.0
LOG_SECONDS = 60.0 * housekeeping.LOG_MINUTES + 60


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of commits: what is flushed when is another test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose life is ten times as short: a checkpoint every 10 commits."""
    monkeypatch.setattr(housekeeping, "CHECKPOINT_INTERVAL", 10)
    monkeypatch.setattr(housekeeping, "HOUSE_INTERVAL", 10)
    monkeypatch.setattr(housekeeping, "TIERS", (Tier(0, housekeeping.MEBIBYTE, 4),))


def opened(tmp_path: Path) -> Appender:
    return Appender.open(Lake.at(tmp_path), "bronze", "t", SCHEMA)


def land(table: Appender, *numbers: int) -> None:
    for number in numbers:
        table.append(pl.DataFrame({"x": [number]}, schema=SCHEMA), {"a": number})


def root_of(tmp_path: Path) -> Path:
    return tmp_path / "bronze/t"


def rows(tmp_path: Path) -> list[int]:
    return pl.read_delta(str(root_of(tmp_path)))["x"].sort().to_list()


def log_of(tmp_path: Path) -> Path:
    return root_of(tmp_path) / durable.LOG


def entries(tmp_path: Path) -> list[int]:
    """Versions with an entry in the log."""
    return sorted(int(path.stem) for path in log_of(tmp_path).glob("*.json"))


def new_rows(tmp_path: Path, after: int) -> list[int]:
    """What a reader at position `after` gets."""
    table = DeltaTable(str(root_of(tmp_path)))
    return rows_since(table, after).scan(table).collect()["x"].sort().to_list()


def age(folder: Path, seconds: float) -> None:
    """Make all that is in a folder older."""
    for path in folder.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))


def test_files_and_log_stay_bounded_and_every_row_is_there_once(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    commits = 350
    for number in range(1, commits + 1):
        land(table, number)
        if number % 50 == 0:
            age(log_of(tmp_path), LOG_SECONDS)
        if number % 90 == 0:
            maintain_table(Lake.at(tmp_path), "bronze", "t")
            table.refresh()
    assert len(entries(tmp_path)) <= 50 + 2 * 10 + 5
    assert len(list(log_of(tmp_path).glob("*.checkpoint*"))) <= 10
    assert len(DeltaTable(str(root_of(tmp_path))).file_uris()) <= 10 + 4
    assert rows(tmp_path) == list(range(1, commits + 1))
    assert opened(tmp_path).position("a") == commits
    assert new_rows(tmp_path, 0) == list(range(1, commits + 1))


def test_a_reader_at_any_position_gets_exactly_the_rows_after_it(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    land(table, *range(1, 91))
    age(log_of(tmp_path), LOG_SECONDS)
    land(table, *range(91, 103))
    assert entries(tmp_path)[0] > 20
    for number in range(-1, 103):
        assert new_rows(tmp_path, number) == list(range(max(number, 0) + 1, 103))


def test_entries_from_a_clock_that_went_ahead_stay_until_it_is_past_them(tmp_path: Path, busy: None) -> None:
    table = opened(tmp_path)
    land(table, *range(1, 31))
    age(log_of(tmp_path), -3600)
    land(table, *range(31, 62))
    assert entries(tmp_path)[0] == 0
    assert rows(tmp_path) == list(range(1, 62))
    age(log_of(tmp_path), 3600 + LOG_SECONDS)
    land(table, *range(62, 72))
    assert entries(tmp_path)[0] > 50
    assert rows(tmp_path) == list(range(1, 72))


def test_vacuum_keeps_what_was_in_the_table_a_week_ago_or_since(tmp_path: Path, busy: None) -> None:
    """Rows 1..30 are eight days old, in files that were merged then; 31..40 are merged with them now."""
    table = opened(tmp_path)
    land(table, *range(1, 31))
    age(tmp_path, 8 * DAY)
    before = {Path(file) for file in data_files(DeltaTable(str(root_of(tmp_path))))}
    land(table, *range(31, 41))
    done = maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert done.files_vacuumed > 0
    assert all(file.exists() for file in before), "who reads them since before the merge may go on"
    age(root_of(tmp_path), 8 * DAY)
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert not any(file.exists() for file in before)
    assert rows(tmp_path) == list(range(1, 41))
    assert maintain_table(Lake.at(tmp_path), "bronze", "t").files_vacuumed == 0


def test_what_version_0_1_had_cut_from_the_log_goes(tmp_path: Path) -> None:
    land(opened(tmp_path), 1)
    (root_of(tmp_path) / "_past").mkdir()
    (root_of(tmp_path) / "_past" / "00000000000000000000.jsonl").write_text("{}")
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert not (root_of(tmp_path) / "_past").exists()


def test_a_writer_left_behind_by_the_log_is_refused(tmp_path: Path, busy: None) -> None:
    """A process that was suspended for 300 commits, with the entries after its own gone."""
    busy_one, stopped, staged = opened(tmp_path), opened(tmp_path), opened(tmp_path)
    staged.stage(pl.DataFrame({"x": [0]}, schema=SCHEMA))
    land(busy_one, *range(1, 301))
    age(log_of(tmp_path), LOG_SECONDS)
    land(busy_one, *range(301, 311))
    assert entries(tmp_path)[0] > 200
    assert new_rows(tmp_path, 10) == list(range(11, 311)), "a reader as far behind goes on"
    with pytest.raises(ConcurrentWriterError):
        staged.commit({"a": 1})
    with pytest.raises(ConcurrentWriterError):
        stopped.append(pl.DataFrame({"x": [1]}, schema=SCHEMA), {"a": 1})
    assert stopped.position("a") == 310
    land(stopped, 311)
    assert rows(tmp_path) == list(range(1, 312))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.set_properties({"other": "1"}),
        lambda table: table.replace(SCHEMA),
        lambda table: table.reshape({"more": pl.String()}, rewrite=False),
        lambda table: table.reshape({"x": pl.String()}, rewrite=True),
        lambda table: table.append(pl.DataFrame(schema=SCHEMA), {"a": 1}),
    ],
    ids=["properties", "replace", "columns", "types", "positions"],
)
def test_no_commit_of_a_writer_left_behind_counts(
    tmp_path: Path, busy: None, change: Callable[[Appender], object]
) -> None:
    busy_one, stopped = opened(tmp_path), opened(tmp_path)
    land(busy_one, *range(1, 41))
    age(log_of(tmp_path), LOG_SECONDS)
    land(busy_one, *range(41, 51))
    first = entries(tmp_path)[0]
    assert first > 1
    with pytest.raises(ConcurrentWriterError):
        change(stopped)
    assert entries(tmp_path)[0] == first
    assert rows(tmp_path) == list(range(1, 51))


def test_a_handle_left_behind_by_the_log_is_brought_to_the_newest_version(tmp_path: Path, busy: None) -> None:
    busy_one, suspended = opened(tmp_path), opened(tmp_path)
    land(suspended, 1)
    busy_one.refresh()
    land(busy_one, *range(2, 41))
    age(log_of(tmp_path), LOG_SECONDS)
    land(busy_one, *range(41, 51))
    assert entries(tmp_path)[0] > suspended.version
    suspended.refresh()
    assert (suspended.version, suspended.position("a")) == (busy_one.version, 50)


def test_an_attempt_is_recorded_though_the_log_was_cleaned_meanwhile(tmp_path: Path, busy: None) -> None:
    lake = Lake.at(tmp_path)
    suspended, successor = DeliveryLog(lake), DeliveryLog(lake)
    suspended.append([attempt(0)])
    for number in range(1, 40):
        successor.append([attempt(number)])
    age(tmp_path / "gold/alert_deliveries" / durable.LOG, LOG_SECONDS)
    for number in range(40, 51):
        successor.append([attempt(number)])
    suspended.append([attempt(50), attempt(51)])
    recorded = pl.read_delta(str(tmp_path / "gold/alert_deliveries"))["alert_id"]
    assert sorted(recorded) == sorted(f"a{number}" for number in range(52))


def attempt(number: int) -> Attempt:
    return Attempt(f"a{number}", "json", 1, datetime(2026, 1, 1, tzinfo=UTC), "delivered")


def test_a_commit_that_was_suspended_in_the_middle_counts_for_nothing(
    tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta has listed the log when the process is suspended; it wakes and adds its entry, below all there are."""
    busy_one, stopped = opened(tmp_path), opened(tmp_path)
    before = stopped.version

    class Handle:
        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

        def create_write_transaction(self, *given: Any, **options: Any) -> None:
            handle.create_write_transaction(*given, **options)
            entry = durable.log_entry(root_of(tmp_path), before + 1)
            made = entry.read_text()
            entry.unlink()
            land(busy_one, *range(1, 41))
            age(log_of(tmp_path), LOG_SECONDS)
            land(busy_one, *range(41, 51))
            entry.write_text(made)

    handle = stopped._handle
    monkeypatch.setattr(stopped, "_handle", Handle())
    with pytest.raises(ConcurrentWriterError, match="cleaned"):
        stopped.append(pl.DataFrame({"x": [99]}, schema=SCHEMA), {"a": 99})
    assert rows(tmp_path) == list(range(1, 51))
    assert opened(tmp_path).position("a") == 50


INTERRUPTED = (
    "compaction.before_commit",
    "compaction.after_commit",
    "checkpoint.before_write",
    "checkpoint.after_write",
    "log.before_clean",
    "log.after_clean",
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
    age(log_of(tmp_path), LOG_SECONDS)
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
    assert new_rows(tmp_path, 30) == list(range(31, 60))


STEPS = st.lists(st.sampled_from(["first", "second", "upkeep", "time", "reader"]), min_size=30, max_size=90)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_writers_readers_and_upkeep_in_any_order(tmp_path: Path, busy: None, steps: list[str]) -> None:
    shutil.rmtree(root_of(tmp_path), ignore_errors=True)
    writers = {"first": opened(tmp_path), "second": opened(tmp_path)}
    committed, read = 0, 0
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
        elif step == "time":
            age(log_of(tmp_path), LOG_SECONDS)
        else:
            assert new_rows(tmp_path, read) == list(range(read + 1, committed + 1))
            read = committed
    assert rows(tmp_path) == list(range(1, committed + 1))


def test_a_table_left_by_an_older_release_gets_its_properties(tmp_path: Path) -> None:
    DeltaTable.create(str(root_of(tmp_path)), opened(tmp_path / "new")._handle.schema())
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    assert DeltaTable(str(root_of(tmp_path))).metadata().configuration == housekeeping.properties(local=True, columns=2)


def test_daily_upkeep_takes_a_table_a_call_once_a_day(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    for name in ("t", "u"):
        Appender.open(lake, "bronze", name, SCHEMA)
    daily = DailyUpkeep(lake, poll_every=0.0)
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


@pytest.mark.parametrize("kind", [DeltaError, FileNotFoundError, OSError])
def test_a_log_entry_that_goes_away_while_the_log_is_read_is_another_writers_doing(
    tmp_path: Path, kind: type[Exception]
) -> None:
    gone = f"Object at location {tmp_path}/control/batches/_delta_log/00000000000000000275.json not found"
    with pytest.raises(ConcurrentWriterError), lake_errors(Lake.at(tmp_path), "control", "batches"):
        raise kind(gone)
    with pytest.raises(LakeError) as refused, lake_errors(Lake.at(tmp_path), "control", "batches"):
        raise kind("Permission denied")
    assert not isinstance(refused.value, ConcurrentWriterError)
