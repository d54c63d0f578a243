"""The sensor that keeps one live run alive, over real ticks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.sensors import pause_after_failures
from tests.definitions.ticks import Ticks

FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS
RUN_KEY_TAG = "dagster/run_key"


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
    assert f"Live run {first.run_id[:8]} is being stopped." in why
    other.tick()
    assert len(told) == 2, "once each"
    for run in (first, standby):
        live.instance.report_run_canceled(live.now(run))
    again = live.submitted()
    assert again is not None and again.tags[RUN_KEY_TAG] == f"after-{standby.run_id}", "and the other way round"


def test_no_live_run_with_an_update_delay_or_without_sources(ticks: Callable[..., Ticks]) -> None:
    assert "Every source has an update delay" in ticks("keep_live").tick()[1]
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
