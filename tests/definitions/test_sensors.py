"""Sensors driven over real ticks: the cursor is carried from tick to tick, requested runs are executed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.positions import NewData, lsn_range, offset_range
from fraud_lakehouse.defs.run_lock import hold_lock, lock_state
from fraud_lakehouse.defs.sensors import (
    GRACE_SECONDS,
    RANGE_TAG,
    SOURCE_TAG,
    bury_dead_runs,
    forget_ended_runs,
    pause_after_failures,
    watch_over,
)
from fraud_lakehouse.errors import GapError, SourceError

FIRST = NewData("postgres", "0/16B3748-0/16B5F10")
FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS
RUN_KEY_TAG = "dagster/run_key"


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


class LiveTicks(Ticks):
    """Drives keep_live and submits what it requests as the daemon does (dagster/_daemon/sensor.py): a run key whose
    run exists is skipped whatever became of that run, unless it was never submitted: then that run is."""

    def submitted(self) -> dg.DagsterRun | None:
        """One tick; the run that was submitted, if there was one."""
        context = dg.build_sensor_context(instance=self.instance)
        (request,) = self.sensor.evaluate_tick(context).run_requests or [None]
        return None if request is None else self.submit(request)

    def submit(self, request: dg.RunRequest) -> dg.DagsterRun | None:
        """The run of a request, now starting; none where there has been one of its key."""
        assert request.run_key
        tags = {**request.tags, RUN_KEY_TAG: request.run_key}
        if existing := self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key})):
            (run,) = existing
            return self.report(run, "RUN_STARTING") if run.status == dg.DagsterRunStatus.NOT_STARTED else None
        job = self.stand.definitions.resolve_job_def("live")
        return self.report(self.instance.create_run_for_job(job, tags=tags), "RUN_STARTING")

    def report(self, run: dg.DagsterRun, what: str) -> dg.DagsterRun:
        """Let Dagster record an event that changes a run's status."""
        event = dg.DagsterEvent(dg.DagsterEventType[what].value, job_name="live")
        self.instance.report_dagster_event(event, run_id=run.run_id)
        return self.now(run)

    def now(self, run: dg.DagsterRun) -> dg.DagsterRun:
        """The run as it is now."""
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found


@pytest.fixture
def live(stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> LiveTicks:
    """Ticks of keep_live, which waits for nothing; a live run's time is over as soon as it has started."""
    monkeypatch.setattr("fraud_lakehouse.defs.sensors.LIVE_SECONDS", 0.0)
    return LiveTicks(stand(update_delay=0.0), "keep_live", instance)


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


def test_one_live_run_is_kept_and_a_crashed_one_replaced_at_once(live: LiveTicks) -> None:
    first = live.submitted()
    assert first is not None
    assert live.submitted() is None, "it is starting"
    live.instance.report_run_failed(first, "killed")
    second = live.submitted()
    assert second is not None and second.run_id != first.run_id
    assert live.submitted() is None


def test_a_live_run_is_followed_by_one_when_its_time_is_over(live: LiveTicks, monkeypatch: pytest.MonkeyPatch) -> None:
    first = live.submitted()
    assert first is not None
    live.report(first, "RUN_START")
    monkeypatch.setattr("fraud_lakehouse.defs.sensors.LIVE_SECONDS", 300.0)
    assert "is started" in live.tick()[1], "its time is not over"
    monkeypatch.setattr("fraud_lakehouse.defs.sensors.LIVE_SECONDS", 0.0)
    standby = live.submitted()
    assert standby is not None and standby.tags[RUN_KEY_TAG] == f"after-{first.run_id}"
    live.report(standby, "RUN_START")
    assert f"follows {first.run_id[:8]}" in live.tick()[1], "one stands by, though both have started long ago"
    live.report(first, "RUN_SUCCESS")
    third = live.submitted()
    assert third is not None and third.tags[RUN_KEY_TAG] == f"after-{standby.run_id}"


@pytest.mark.parametrize("end", ["RUN_FAILURE", "RUN_CANCELED"])
def test_a_standby_that_is_lost_is_replaced_while_its_predecessor_lives(live: LiveTicks, end: str) -> None:
    first = live.submitted()
    assert first is not None
    live.report(first, "RUN_START")
    for _ in range(2):
        standby = live.submitted()
        assert standby is not None, "the predecessor ends only when somebody stands by"
        assert live.submitted() is None, "never two"
        live.report(standby, end)
    assert live.now(first).status == dg.DagsterRunStatus.STARTED


def test_standbys_that_keep_failing_pause(live: LiveTicks) -> None:
    first = live.submitted()
    assert first is not None
    live.report(first, "RUN_START")
    for _ in range(2):
        standby = live.submitted()
        assert standby is not None
        live.report(standby, "RUN_FAILURE")
    assert "the next starts in" in live.tick()[1]


def test_what_is_asked_twice_of_the_same_state_is_one_live_run(live: LiveTicks) -> None:
    context = dg.build_sensor_context(instance=live.instance)
    (one,), (again,) = (live.sensor.evaluate_tick(context).run_requests or [] for _ in range(2))
    assert live.submit(one) is not None
    assert live.submit(again) is None, "the daemon was killed before it had noted the tick"


def test_a_live_run_that_was_never_submitted_is_submitted_later(live: LiveTicks) -> None:
    job = live.stand.definitions.resolve_job_def("live")
    created = live.instance.create_run_for_job(job, tags={RUN_KEY_TAG: "first"})
    assert created.status == dg.DagsterRunStatus.NOT_STARTED, "the daemon was killed at this moment"
    run = live.submitted()
    assert run is not None and run.run_id == created.run_id
    assert live.submitted() is None


def test_a_live_run_that_is_being_stopped_is_followed_when_it_has_ended(live: LiveTicks) -> None:
    first = live.submitted()
    assert first is not None
    live.instance.report_run_canceling(live.report(first, "RUN_START"))
    assert live.submitted() is None
    live.instance.report_run_canceled(live.now(first))
    assert live.submitted() is not None


@pytest.mark.parametrize(
    "changes", [{"update_delay": 60.0}, {"update_delay": 0.0, "postgres_dsn": None, "kafka_bootstrap_servers": None}]
)
def test_live_runs_are_stopped_once_the_settings_have_none(
    live: LiveTicks, stand: Callable[..., Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def terminate(
        _launcher: object, run_id: str
    ) -> bool:  # Dagster's own launcher does as much, and signals the process
        told.append(run_id)
        (run,) = live.instance.get_runs(dg.RunsFilter(run_ids=[run_id]))
        live.instance.report_run_canceling(run)
        return True

    monkeypatch.setattr(type(live.instance.run_launcher), "terminate", terminate)
    first = live.submitted()
    assert first is not None
    live.report(first, "RUN_START")
    standby = live.submitted()
    assert standby is not None
    other = Ticks(stand(**changes), "keep_live", live.instance)
    requests, why = other.tick()
    assert requests == [] and sorted(told) == sorted([first.run_id, standby.run_id])
    assert f"Live run {first.run_id[:8]} is told to stop." in why
    other.tick()
    assert len(told) == 2, "once each"
    for run in (first, standby):
        live.instance.report_run_canceled(live.now(run))
    again = live.submitted()
    assert again is not None and again.tags[RUN_KEY_TAG] == f"after-{standby.run_id}", "and the other way round"


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


def _started(made: Any, instance: dg.DagsterInstance) -> dg.DagsterRun:
    job = made.definitions.resolve_job_def("update")
    return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)


def _status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_started_run_whose_process_is_gone_is_ended(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    run = _started(made, instance)
    process = hold_lock(made.settings, run.run_id)
    assert lock_state(made.settings, run.run_id) == "held"
    assert bury_dead_runs(instance, made.settings) == []
    os.close(process)  # what the kernel does when a process is killed
    assert bury_dead_runs(instance, made.settings) == [run.run_id]
    assert _status(instance, run) == FAILURE
    assert lock_state(made.settings, run.run_id) == "absent"


def test_a_run_that_was_being_stopped_when_its_process_went_is_canceled(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    run = _started(made, instance)
    os.close(hold_lock(made.settings, run.run_id))
    instance.report_run_canceling(run)
    assert bury_dead_runs(instance, made.settings) == [run.run_id]
    assert _status(instance, run) == dg.DagsterRunStatus.CANCELED


def test_a_run_is_not_dead_between_its_last_step_and_the_end_that_dagster_writes(
    stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stand()
    buried: list[list[str]] = []
    write = type(instance).handle_new_event

    def look_before_the_end_is_written(self: dg.DagsterInstance, event: Any, **more: Any) -> Any:
        if event.is_dagster_event and event.dagster_event_type == dg.DagsterEventType.RUN_SUCCESS:
            (run,) = self.get_runs()
            assert run.status == dg.DagsterRunStatus.STARTED
            buried.append(bury_dead_runs(self, made.settings, time.time() + 10 * GRACE_SECONDS))
        return write(self, event, **more)

    monkeypatch.setattr(type(instance), "handle_new_event", look_before_the_end_is_written)
    result = made.materialize(instance)
    assert result.success and buried == [[]]
    assert _status(instance, result.dagster_run) == SUCCESS


def test_what_ended_runs_leave_is_removed(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    alive, ended, killed = (_started(made, instance) for _ in range(3))
    process = hold_lock(made.settings, alive.run_id)
    for run in (ended, killed):
        os.close(hold_lock(made.settings, run.run_id))
    os.close(hold_lock(made.settings, "deleted-from-the-history"))
    instance.report_run_canceled(ended)
    forget_ended_runs(instance, made.settings)
    states = [lock_state(made.settings, run.run_id) for run in (alive, ended, killed)]
    assert states == ["held", "absent", "free"], "a killed run's is left to those who end it"
    assert lock_state(made.settings, "deleted-from-the-history") == "absent"
    os.close(process)


def test_the_end_of_a_live_run_is_seen_during_the_tick(
    stand: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, naps = stand().settings, 0

    def nap(_seconds: float) -> None:
        nonlocal naps
        naps += 1
        assert naps < 10, "the tick goes on though the run's process is gone"
        if naps == 3:
            os.close(process)

    monkeypatch.setattr(time, "sleep", nap)
    watch_over(settings, ["not-begun"], 60.0)
    assert naps == 0, "a run that has not begun is not waited for"
    process = hold_lock(settings, "run")
    watch_over(settings, ["not-begun", "run"], 60.0)
    assert naps == 3


def test_a_run_may_take_its_time_to_reach_its_first_step(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    run = _started(made, instance)
    now = time.time()
    assert bury_dead_runs(instance, made.settings, now) == []
    assert bury_dead_runs(instance, made.settings, now + GRACE_SECONDS + 1) == [run.run_id]


def test_ranges_read_as_their_source_writes_them() -> None:
    assert lsn_range(0x16B3748, 0x1_016B5F10) == "0/16B3748-1/16B5F10"
    assert offset_range({0: (100, 250), 1: (90, 90), 2: (1, 200)}) == "0:100-250,2:1-200"
    many = offset_range(dict.fromkeys(range(50), (0, 10)))
    assert many.startswith("500-records-") and len(many) < 40
