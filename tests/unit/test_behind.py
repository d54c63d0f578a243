"""How far the cycle is behind: what it counts, and when that is too far."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.checks.lag import keeping_up, live_state
from fraud_lakehouse.ingest import Ingested, Waiting
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.storage import lease
from fraud_lakehouse.storage.writer_lock import process_lock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batch(source: str, rows: int, age: float, spread: float = 0.0) -> Ingested:
    """Rows committed over `spread` seconds, the newest of them so many seconds ago."""
    newest = NOW - timedelta(seconds=age)
    return Ingested("t", rows, 0, 1, 1, newest, 0.1, source, newest - timedelta(seconds=spread))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def kafka_has(rows: int, end: int) -> Waiting:
    return Waiting(rows=rows, ends={"0": end})


def test_rows_are_behind_from_their_landing_to_their_scoring() -> None:
    backlog = Backlog()
    first, second = batch("cards", 10, 60.0), batch("cards", 500, 20.0, spread=5.0)
    backlog.ingested([first])
    assert (backlog.now(NOW)["cards"].rows, backlog.now(NOW)["cards"].seconds) == (10, 60.0)
    backlog.scored([first])
    assert (backlog.now(NOW)["cards"].rows, backlog.now(NOW)["cards"].seconds) == (0, 0.0)
    backlog.ingested([second])
    assert backlog.now(NOW)["cards"].seconds == 25.0, "its oldest row's age; the quiet time before it is none"
    backlog.ingested([batch("cards", 1, 5.0)])
    backlog.scored([second])
    assert backlog.now(NOW)["cards"].seconds == 5.0


def test_rows_without_a_time_are_as_old_as_their_landing() -> None:
    backlog = Backlog()
    backlog.ingested([Ingested("t", 3, 0, 1, 1, None, 0.1, "cards")], ago(4.0))
    assert backlog.now(NOW)["cards"].seconds == 4.0


def test_a_source_with_an_update_delay_is_late_only_beyond_it(tmp_path: Path) -> None:
    backlog = Backlog({"bank": 1800.0, "cards": 0.0}, 15.0, ago(1814.0))
    backlog.ingested([batch("bank", 1, 1805.0), batch("cards", 1, 5.0)])
    behind = backlog.now(NOW)
    assert behind["bank"].away_since is None and behind["cards"].away_since is not None
    assert not behind["bank"].exceeds(10.0) and behind["bank"].exceeds(4.0)
    write(tmp_path, bank=one(1805.0, 1) | {"delay": 1800.0}, cards=one(5.0, 1))
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        assert keeping_up(tmp_path, 10.0, NOW).passed
        assert not keeping_up(tmp_path, 4.0, NOW).passed


def test_what_the_source_still_holds_is_as_old_as_the_first_look_at_it() -> None:
    backlog = Backlog({"cards": 0.0}, at=ago(60.0))
    backlog.at_source("cards", kafka_has(0, 100), {"0": 100}, ago(40.0))
    backlog.at_source("cards", kafka_has(70_000, 70_100), {"0": 100}, ago(30.0))
    backlog.at_source("cards", kafka_has(80_000, 80_100), {"0": 100}, ago(10.0))
    behind = backlog.now(NOW)["cards"]
    assert (behind.seconds, behind.source_rows) == (30.0, 80_000)
    assert str(behind) == "30.0 s, 0 rows, 80,000 more in the source"
    backlog.read("cards", {"0": 70_100})
    assert backlog.now(NOW)["cards"].seconds == 10.0, "what was there 30 s ago has been landed"
    backlog.read("cards", {"0": 80_100})
    assert backlog.now(NOW)["cards"].seconds == 0.0


def test_a_busy_source_is_not_behind_because_there_is_always_something() -> None:
    backlog = Backlog({"cards": 0.0}, at=ago(60.0))
    for age in range(50, 0, -5):
        backlog.at_source("cards", kafka_has(7, 1000 - age), {"0": 993 - age}, ago(age))
        backlog.read("cards", {"0": 1000 - age})
        backlog.ingested([batch("cards", 7, age - 0.2)], ago(age - 0.5))
        backlog.scored([batch("cards", 7, age - 0.2)])
        assert backlog.now(ago(age - 1))["cards"].seconds == 0.0


def test_a_partition_that_is_stuck_is_behind_whatever_the_others_do() -> None:
    backlog = Backlog({"cards": 0.0}, at=ago(60.0))
    backlog.at_source("cards", Waiting(rows=20, ends={"0": 10, "1": 10}), {"0": 0, "1": 0}, ago(20.0))
    backlog.read("cards", {"0": 5000, "1": 0})
    assert backlog.now(NOW)["cards"].seconds == 20.0


def test_a_log_that_is_longer_than_capture_can_read_is_behind() -> None:
    backlog = Backlog({"bank": 0.0}, at=ago(60.0))
    for age, end, position in ((50, 9_000, 1_000), (40, 19_000, 3_000), (30, 29_000, 5_000)):
        backlog.at_source("bank", Waiting(size=end - position, ends={"log": end}), {"log": position}, ago(age))
    assert backlog.now(NOW)["bank"].seconds == 50.0
    backlog.read("bank", {"log": 9_000})
    assert backlog.now(NOW)["bank"].seconds == 40.0


def test_after_a_restart_rows_that_are_landed_late_tell_how_old_the_rest_is() -> None:
    backlog = Backlog({"bank": 0.0}, at=ago(20.0))
    backlog.at_source("bank", Waiting(size=99_000, ends={"log": 100_000}), {"log": 1_000}, ago(18.0))
    assert backlog.now(NOW)["bank"].seconds == 18.0
    late = batch("bank", 500, 3600.0)
    backlog.ingested([late], ago(15.0))
    backlog.read("bank", {"log": 30_000})
    backlog.scored([late])
    assert backlog.now(NOW)["bank"].seconds == 3600.0, "what is left was committed after that, an hour ago"
    backlog.read("bank", {"log": 100_000})
    assert backlog.now(NOW)["bank"].seconds == 0.0


def test_a_source_that_does_not_answer_is_away_since_its_last_answer() -> None:
    backlog = Backlog({"cards": 0.0, "bank": 0.0}, 15.0, ago(60.0))
    backlog.at_source("bank", Waiting(size=0, retained=4096, ends={"log": 1}), {"log": 1}, ago(15.0))
    behind = backlog.now(NOW)
    assert behind["cards"].away_since == ago(60.0), "it never did"
    assert behind["bank"].away_since is None and behind["bank"].retained_bytes == 4096
    assert behind["cards"].exceeds(3600.0) and not behind["bank"].exceeds(0.0)
    assert backlog.now(NOW + timedelta(seconds=1))["bank"].away_since == ago(15.0)
    backlog.at_source("cards", kafka_has(0, 5), {"0": 5}, NOW)
    assert backlog.now(NOW)["cards"].away_since is None


def test_a_full_backlog_leaves_rows_in_the_source_unless_models_fail() -> None:
    backlog, many = Backlog(), batch("cards", 500, 20.0)
    backlog.ingested([many])
    assert backlog.is_full("cards", 500) and not backlog.is_full("cards", 501)
    assert not backlog.is_full("bank", 500)
    backlog.scored([], failing={"bank"})
    assert backlog.is_full("cards", 500), "the other source's models fail"
    backlog.scored([], failing={"cards"})
    assert not backlog.is_full("cards", 500), "else the source would keep its log until a person comes"
    backlog.scored([many])
    backlog.ingested([many])
    assert backlog.is_full("cards", 500)


@given(st.lists(st.tuples(st.sampled_from(["bank", "cards"]), st.integers(1, 1000), st.booleans()), max_size=30))
def test_the_rows_behind_are_those_landed_and_not_scored(steps: list[tuple[str, int, bool]]) -> None:
    backlog, waiting = Backlog(), list[Ingested]()
    for source, rows, is_scored in steps:
        waiting.append(batch(source, rows, 1.0))
        backlog.ingested(waiting[-1:])
        if is_scored:
            backlog.scored(waiting)
            waiting.clear()
    found = backlog.now(NOW)
    for source in found:
        assert found[source].rows == sum(one.rows for one in waiting if one.source == source)


def write(work: Path, age: float = 0.0, **behind: Any) -> None:
    """The summary of a cycle in this process."""
    work.mkdir(exist_ok=True)
    at = (NOW - timedelta(seconds=age)).isoformat()
    (work / "live.json").write_text(json.dumps({"pid": os.getpid(), "at": at, "behind": behind}))


def one(seconds: float, rows: int, source_rows: int | None = None) -> dict[str, Any]:
    return {"seconds": seconds, "rows": rows, "source_rows": source_rows, "source_bytes": None}


def test_a_cycle_that_is_too_far_behind_is_told_with_its_figures(tmp_path: Path) -> None:
    write(tmp_path, cards=one(42.0, 30_000, 5_000), bank=one(1.5, 200))
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert not found.passed and found.running
    assert found.reasons == ("cards is 42 s behind, with 30,000 rows ingested and not scored",)
    assert found.rows == {"cards": 35_000, "bank": 200} and found.seconds["bank"] == 1.5


def test_a_source_that_does_not_answer_is_not_kept_up_with(tmp_path: Path) -> None:
    write(tmp_path, cards=one(0.0, 0) | {"away_since": ago(20.0).isoformat()}, bank=one(1.5, 200))
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert not found.passed
    (reason,) = found.reasons
    assert reason.startswith("cards has not reported since 2026-03-01T11:59:40+00:00")


@pytest.mark.parametrize("age, passed", [(5.0, True), (90.0, False)])
def test_a_cycle_that_says_nothing_is_stuck(tmp_path: Path, age: float, passed: bool) -> None:
    write(tmp_path, age)
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        assert keeping_up(tmp_path, limit=10.0, now=NOW).passed == passed


def test_a_process_that_hangs_does_not_keep_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    with process_lock(tmp_path / "live.lock", 0, "runs") as held:
        lease._heart.forget(held)  # no heartbeat any more, as of a process that is stopped
        later = time.monotonic() + 30
        monkeypatch.setattr(lease, "clock", lambda: later)
        found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert not found.passed and not found.running
    (reason,) = found.reasons
    assert reason.startswith(f"process {os.getpid()} runs the live cycle and has not responded for 30 s")


def test_without_a_live_cycle_nothing_can_be_behind(tmp_path: Path) -> None:
    assert live_state(tmp_path) is None
    assert keeping_up(tmp_path, limit=10.0).passed
    write(tmp_path, 900.0, cards=one(42.0, 30_000))
    found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert found.passed and not found.running
    state = live_state(tmp_path, NOW)
    assert state is not None and not state.running and state.age == 900.0
