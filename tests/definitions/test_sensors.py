"""Sensors driven over real ticks: the cursor is carried from tick to tick, requested runs are executed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs import LIVE_SECONDS
from fraud_lakehouse.defs.positions import NewData, lsn_range, offset_range
from fraud_lakehouse.defs.run_lock import lock_state, run_lock
from fraud_lakehouse.defs.sensors import (
    GRACE_SECONDS,
    RANGE_TAG,
    SOURCE_TAG,
    bury_dead_runs,
    pause_after_failures,
    successor_of,
    watch_over,
)
from fraud_lakehouse.errors import GapError, SourceError

FIRST = NewData("postgres", "0/16B3748-0/16B5F10")
FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


class Ticks:
    """Drives one sensor as the daemon does: keeps the cursor, drops run keys it has seen."""

    def __init__(self, stand: Any, sensor: str, instance: dg.DagsterInstance) -> None:
        self.stand = stand
        self.sensor = stand.sensor(sensor)
        self.instance = instance
        self.cursor: str | None = None
        self.keys: set[str] = set()

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """One tick: the run requests that would start a run, and the sentence of a skip."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        fresh = [one for one in data.run_requests or [] if one.run_key is None or one.run_key not in self.keys]
        self.keys |= {one.run_key for one in fresh if one.run_key}
        return fresh, data.skip_message or ""

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Execute a requested run."""
        return self.stand.materialize(self.instance, tags=request.tags, asset_selection=request.asset_selection)


@pytest.fixture
def ticks(stand: Callable[..., Any], instance: dg.DagsterInstance) -> Callable[..., Ticks]:
    return lambda sensor, **settings: Ticks(stand(**settings), sensor, instance)


def test_no_data_is_a_skip_with_a_sentence(ticks: Callable[..., Ticks]) -> None:
    assert ticks("new_data_postgres").tick() == ([], "Nothing new in postgres.")


def test_data_is_one_run_named_by_its_range(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = FIRST
    (request,), _ = postgres.tick()
    assert request.run_key == "postgres:0/16B3748-0/16B5F10"
    keys = {key.to_user_string() for key in request.asset_selection or []}
    assert {"bronze/users", "bronze/transactions", "gold/alerts"} <= keys
    assert "bronze/card_transactions" not in keys
    assert postgres.run(request).success


def test_the_same_data_twice_is_one_run(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = FIRST
    first, _ = postgres.tick()
    again, _ = postgres.tick()
    assert (len(first), len(again)) == (1, 0)


def test_a_run_under_way_is_not_requested_again(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = FIRST
    run = postgres.instance.create_run_for_job(
        postgres.stand.definitions.resolve_job_def("update"),
        tags={RANGE_TAG: FIRST.run_key, SOURCE_TAG: "postgres"},
        status=dg.DagsterRunStatus.STARTED,
    )
    requests, why = postgres.tick()
    assert requests == []
    assert run.run_id[:8] in why and FIRST.run_key in why


def test_a_range_whose_run_failed_is_requested_again(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = FIRST
    (request,), _ = postgres.tick()
    postgres.stand.ingests["postgres"].steps = [SourceError("the database went away")]
    assert not postgres.run(request).success
    (again,), _ = postgres.tick()
    assert again.run_key == f"{FIRST.run_key}#2"
    assert postgres.run(again).success


def test_a_source_that_is_not_configured_is_skipped(ticks: Callable[..., Ticks]) -> None:
    requests, why = ticks("new_data_kafka", kafka_bootstrap_servers=None).tick()
    assert requests == []
    assert "FRAUD_KAFKA_BOOTSTRAP_SERVERS is not set" in why


def test_an_unreachable_source_is_skipped_with_the_reason(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = SourceError("no answer from db:5432", "check that it runs")
    requests, why = postgres.tick()
    assert requests == []
    assert "no answer from db:5432" in why and "check that it runs" in why and "secret" not in why


def test_a_gap_fails_the_tick_loudly(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres")
    postgres.stand.new["postgres"] = GapError("the slot was dropped")
    with pytest.raises(GapError, match="the slot was dropped"):
        postgres.tick()


def test_live_mode_leaves_capturing_to_the_live_run(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_postgres", update_delay=0.0)
    postgres.stand.new["postgres"] = FIRST
    requests, why = postgres.tick()
    assert requests == [] and "live run" in why


def test_exactly_one_live_run_is_kept(ticks: Callable[..., Ticks]) -> None:
    live = ticks("keep_live", update_delay=0.0)
    requests, _ = live.tick()
    assert len(requests) == 1
    run = live.instance.create_run_for_job(
        live.stand.definitions.resolve_job_def("live"), status=dg.DagsterRunStatus.STARTING
    )
    requests, why = live.tick()
    assert requests == [] and run.run_id[:8] in why
    live.instance.report_run_failed(run, "killed")
    requests, _ = live.tick()
    assert len(requests) == 1, "one crash is replaced at once"


def _live_runs(ages: list[float], status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> list[dg.RunRecord]:
    """Live runs, newest first, that started so many seconds before 10,000."""
    now = datetime.now(UTC)
    return [
        dg.RunRecord(
            storage_id=number,
            dagster_run=dg.DagsterRun(job_name="live", run_id=f"{number:08}", status=status),
            create_timestamp=now,
            update_timestamp=now,
            start_time=10_000.0 - age,
        )
        for number, age in enumerate(ages)
    ]


def test_the_next_live_run_is_requested_while_the_one_before_it_still_runs() -> None:
    young = successor_of(_live_runs([LIVE_SECONDS - 1]), 10_000)
    assert isinstance(young, dg.SkipReason)
    over = successor_of(_live_runs([LIVE_SECONDS + 1]), 10_000)
    assert isinstance(over, dg.RunRequest) and over.run_key == "after-00000000"
    standing_by = successor_of(_live_runs([5, LIVE_SECONDS + 6]), 10_000)
    assert isinstance(standing_by, dg.SkipReason) and "follows" in str(standing_by.skip_message)
    stopping = successor_of(_live_runs([LIVE_SECONDS + 1], dg.DagsterRunStatus.CANCELING), 10_000)
    assert isinstance(stopping, dg.SkipReason)


def test_no_live_run_with_an_update_delay_or_without_sources(ticks: Callable[..., Ticks]) -> None:
    assert "60 s" in ticks("keep_live").tick()[1]
    alone = ticks("keep_live", update_delay=0.0, postgres_dsn=None, kafka_bootstrap_servers=None)
    assert "no source" in alone.tick()[1]


@pytest.mark.parametrize(
    ("ended", "seconds"),
    [
        ([], 0),
        ([(FAILURE, 100.0)], 0),
        ([(FAILURE, 100.0), (SUCCESS, 90.0)], 0),
        ([(FAILURE, 100.0), (FAILURE, 90.0)], 9),
        ([(FAILURE, 100.0)] * 3, 19),
        ([(FAILURE, 100.0)] * 10, 119),
        ([(FAILURE, 1.0)] * 3, 0),
    ],
)
def test_live_runs_that_keep_failing_pause(ended: list[tuple[dg.DagsterRunStatus, float]], seconds: float) -> None:
    assert pause_after_failures(ended, now=101.0) == seconds


def test_a_started_run_whose_process_is_gone_is_ended(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    job = made.definitions.resolve_job_def("update")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    with run_lock(made.settings, run.run_id):
        assert lock_state(made.settings, run.run_id) == "held"
        assert bury_dead_runs(instance, made.settings) == []
    (made.settings.work_dir / "runs" / f"{run.run_id}.lock").touch()  # what a killed process leaves
    assert bury_dead_runs(instance, made.settings) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status == FAILURE
    assert lock_state(made.settings, run.run_id) == "absent"


def test_the_end_of_a_live_run_is_seen_during_the_tick(
    stand: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, naps = stand().settings, 0

    def nap(_seconds: float) -> None:
        nonlocal naps
        naps += 1
        assert naps < 10, "the tick goes on though the run's process is gone"
        if naps == 3:
            alive.__exit__(None, None, None)
            killed.touch()

    monkeypatch.setattr(time, "sleep", nap)
    watch_over(settings, ["not-begun"], 60.0)
    assert naps == 0, "a run that has not begun is not waited for"
    alive, killed = run_lock(settings, "run"), settings.work_dir / "runs" / "run.lock"
    alive.__enter__()
    watch_over(settings, ["not-begun", "run"], 60.0)
    assert naps == 3


def test_a_run_may_take_its_time_to_reach_its_first_step(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    job = made.definitions.resolve_job_def("update")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    now = time.time()
    assert bury_dead_runs(instance, made.settings, now) == []
    assert bury_dead_runs(instance, made.settings, now + GRACE_SECONDS + 1) == [run.run_id]


def test_ranges_read_as_their_source_writes_them() -> None:
    assert lsn_range(0x16B3748, 0x1_016B5F10) == "0/16B3748-1/16B5F10"
    assert offset_range({0: (100, 250), 1: (90, 90), 2: (1, 200)}) == "0:100-250,2:1-200"
    many = offset_range(dict.fromkeys(range(50), (0, 10)))
    assert many.startswith("500-records-") and len(many) < 40
