"""How far the cycle is behind: what it counts, and when that is too far."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.detect.behind import keeping_up, live_state
from fraud_lakehouse.lake.landed import Landed
from fraud_lakehouse.lake.writer_lock import process_lock
from fraud_lakehouse.live.behind import Backlog, Waiting

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batch(source: str, rows: int, age: float) -> Landed:
    return Landed("t", rows, 0, 1, 1, NOW - timedelta(seconds=age), 0.1, source)


def test_rows_are_behind_from_their_landing_to_their_scoring() -> None:
    backlog = Backlog()
    first, second = batch("kafka", 10, 60.0), batch("kafka", 500, 20.0)
    backlog.landed([first])
    assert backlog.now(NOW)["kafka"].rows == 10
    backlog.scored([first])
    assert (backlog.now(NOW)["kafka"].rows, backlog.now(NOW)["kafka"].seconds) == (0, 0.0)
    backlog.landed([second])
    assert backlog.now(NOW)["kafka"].seconds == 60.0, "what came after the newest scored row waits"
    backlog.scored([second])
    assert backlog.now(NOW)["kafka"].seconds == 0.0


def test_what_the_source_still_holds_counts_too() -> None:
    backlog = Backlog()
    backlog.landed([batch("kafka", 1, 30.0)])
    backlog.scored([batch("kafka", 1, 30.0)])
    backlog.at_source("kafka", Waiting(rows=70_000))
    backlog.at_source("postgres", Waiting(size=4096))
    behind = backlog.now(NOW)
    assert (behind["kafka"].seconds, behind["kafka"].source_rows) == (30.0, 70_000)
    assert str(behind["kafka"]) == "30.0 s, 0 rows, 70,000 more in the source"
    assert (behind["postgres"].source_bytes, behind["postgres"].seconds) == (4096, 0.0)


def test_a_full_backlog_leaves_rows_in_the_source_unless_models_fail() -> None:
    backlog, many = Backlog(), batch("kafka", 500, 20.0)
    backlog.landed([many])
    assert backlog.is_full("kafka", 500) and not backlog.is_full("kafka", 501)
    assert not backlog.is_full("postgres", 500)
    backlog.failed()
    assert not backlog.is_full("kafka", 500), "else the source would keep its log until a person comes"
    backlog.scored([many])
    backlog.landed([many])
    assert backlog.is_full("kafka", 500)


@given(st.lists(st.tuples(st.sampled_from(["postgres", "kafka"]), st.integers(1, 1000), st.booleans()), max_size=30))
def test_the_rows_behind_are_those_landed_and_not_scored(steps: list[tuple[str, int, bool]]) -> None:
    backlog, waiting = Backlog(), list[Landed]()
    for source, rows, is_scored in steps:
        waiting.append(batch(source, rows, 1.0))
        backlog.landed(waiting[-1:])
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
    write(tmp_path, kafka=one(42.0, 30_000, 5_000), postgres=one(1.5, 200))
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert not found.passed and found.running
    assert found.reasons == ("kafka is 42 s behind, with 30,000 rows landed and not scored",)
    assert found.rows == {"kafka": 35_000, "postgres": 200} and found.seconds["postgres"] == 1.5


@pytest.mark.parametrize("age, passed", [(5.0, True), (90.0, False)])
def test_a_cycle_that_says_nothing_is_stuck(tmp_path: Path, age: float, passed: bool) -> None:
    write(tmp_path, age)
    with process_lock(tmp_path / "live.lock", 0, "runs"):
        assert keeping_up(tmp_path, limit=10.0, now=NOW).passed == passed


def test_without_a_live_cycle_nothing_can_be_behind(tmp_path: Path) -> None:
    assert live_state(tmp_path) is None
    assert keeping_up(tmp_path, limit=10.0).passed
    write(tmp_path, 900.0, kafka=one(42.0, 30_000))
    found = keeping_up(tmp_path, limit=10.0, now=NOW)
    assert found.passed and not found.running
    state = live_state(tmp_path, NOW)
    assert state is not None and not state.running and state.age == 900.0
