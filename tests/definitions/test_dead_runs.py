"""Runs whose process is gone: they are ended, and what they leave is removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.resources import Lakehouse, Parts
from fraud_lakehouse.defs.run_lock import hold_lock, lock_state
from fraud_lakehouse.defs.sensors import GRACE_SECONDS, forget_ended_runs, reap_dead_runs, watch_over
from fraud_lakehouse.storage import lease
from fraud_lakehouse.storage.lease import LeaseLostError

FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS


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
    assert reap_dead_runs(instance, made.settings) == []
    process.release()  # what the kernel does when a process is killed
    assert reap_dead_runs(instance, made.settings) == [run.run_id]
    assert _status(instance, run) == FAILURE
    assert lock_state(made.settings, run.run_id) == "absent"


def test_a_started_run_whose_process_hangs_is_ended_and_the_process_stops_working_should_it_go_on(
    stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stand()
    run = _started(made, instance)
    process = hold_lock(made.settings, run.run_id)
    lakehouse = Lakehouse(made.settings, Parts(repeat=lambda _settings, stop, _is_over, _report: stops.append(stop())))
    lakehouse.lease = process
    stops: list[bool] = []
    lakehouse.repeat(lambda: False, lambda: False, lambda result: None)
    lease._heart.forget(process)  # no heartbeat any more, as of a process that is stopped
    now = time.monotonic()
    monkeypatch.setattr(lease, "clock", lambda: now + lease.LEASE_SECONDS + 1)
    assert lock_state(made.settings, run.run_id) == "hung"
    assert reap_dead_runs(instance, made.settings) == [run.run_id]
    assert _status(instance, run) == FAILURE
    with pytest.raises(LeaseLostError):
        lakehouse.repeat(lambda: False, lambda: False, lambda result: None)
    assert stops == [False, True]
    with pytest.raises(LeaseLostError), lakehouse.writing("bank"):
        pass
    process.release()


def test_a_run_that_was_being_stopped_when_its_process_went_is_canceled(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    run = _started(made, instance)
    hold_lock(made.settings, run.run_id).release()
    instance.report_run_canceling(run)
    assert reap_dead_runs(instance, made.settings) == [run.run_id]
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
            buried.append(reap_dead_runs(self, made.settings, time.time() + 10 * GRACE_SECONDS))
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
        hold_lock(made.settings, run.run_id).release()
    hold_lock(made.settings, "deleted-from-the-history").release()
    instance.report_run_canceled(ended)
    forget_ended_runs(instance, made.settings)
    states = [lock_state(made.settings, run.run_id) for run in (alive, ended, killed)]
    assert states == ["held", "absent", "free"], "a killed run's is left to those who end it"
    assert lock_state(made.settings, "deleted-from-the-history") == "absent"
    process.release()


def test_the_end_of_a_live_run_is_seen_during_the_tick(
    stand: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, naps = stand().settings, 0

    def nap(_seconds: float) -> None:
        nonlocal naps
        naps += 1
        assert naps < 10, "the tick goes on though the run's process is gone"
        if naps == 3:
            process.release()

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
    assert reap_dead_runs(instance, made.settings, now) == []
    assert reap_dead_runs(instance, made.settings, now + GRACE_SECONDS + 1) == [run.run_id]
