"""The sensors that bring alerts and failures to people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.defs.alerts import DestinationError, deliver, failed_before, failure_message, notify, problem_of
from fraud_lakehouse.errors import GapError
from tests.alert_receiver import Receiver, alert_rows
from tests.patience import PATIENCE


def _tick(made: Any, instance: dg.DagsterInstance) -> str:
    data = made.sensor("deliver_alerts").evaluate_tick(dg.build_sensor_context(instance=instance))
    return data.skip_message or ""


def test_without_destinations_alerts_are_only_recorded(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    assert "FRAUD_ALERT_URLS is not set" in _tick(stand(), instance)


def test_pending_alerts_are_delivered_once(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        write_deltalake(f"{made.settings.lake}/gold/alerts", alert_rows(1, 3))
        assert _tick(made, instance) == "3 alerts delivered, 0 in digests, 0 pending."
        assert _tick(made, instance) == "0 alerts delivered, 0 in digests, 0 pending."
        assert sorted(receiver.alert_ids) == ["a1", "a2", "a3"]


def test_the_live_run_delivers_its_own_alerts(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        write_deltalake(f"{made.settings.lake}/gold/alerts", alert_rows(1, 1))
        run = instance.create_run_for_job(made.definitions.resolve_job_def("live"), status=dg.DagsterRunStatus.STARTED)
        assert "live run" in _tick(made, instance)
        assert receiver.alert_ids == []
        instance.report_run_failed(run, "killed")
        assert "1 alerts delivered" in _tick(made, instance)


def test_a_failing_destination_fails_the_tick_without_secrets(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    with Receiver(status=500) as receiver:
        made = stand(alert_urls=(receiver.url.replace("json://", "json://user:hunter2@"),))
        write_deltalake(f"{made.settings.lake}/gold/alerts", alert_rows(1, 1))
        with pytest.raises(DestinationError, match="1 pending") as failure:
            deliver(made.settings)
        assert receiver.host in str(failure.value) and "hunter2" not in str(failure.value)


def test_a_failed_run_is_told_once_in_a_row(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    job = made.definitions.resolve_job_def("update")
    succeeded, first, second = (instance.create_run_for_job(job) for _ in range(3))
    instance.report_run_failed(first, "the slot was dropped")
    instance.report_run_failed(second, "the slot was dropped")
    assert not failed_before(instance, succeeded)
    assert not failed_before(instance, first)
    assert failed_before(instance, second)


def test_a_failure_reaches_every_destination(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(stand().definitions.resolve_job_def("update"))
    with Receiver() as good, Receiver(status=500) as bad:
        settings = stand(alert_urls=(bad.url, good.url)).settings
        with pytest.raises(DestinationError, match=bad.host):
            notify(settings, failure_message(run, "the slot was dropped"))
        (reported,) = good.received
    assert reported["problem"] == "the slot was dropped"
    assert reported["run_id"] == run.run_id


def test_a_message_goes_to_all_destinations_at_once(
    stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.alerts.sending.SECONDS", PATIENCE)
    run = instance.create_run_for_job(stand().definitions.resolve_job_def("update"))
    with Receiver(delay=PATIENCE) as slow, Receiver() as good:
        slow.released = good.accepted  # the slow one answers only once the other has the message
        settings = stand(alert_urls=(f"{slow.url}?rto={PATIENCE}", good.url)).settings
        notify(settings, failure_message(run, "the slot was dropped"))
        assert len(slow.received) == len(good.received) == 1


def test_a_failed_run_is_told_in_the_words_of_its_error(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    made.ingests["bank"].steps = [GapError("the slot was dropped", "run `fraud-lakehouse resync`")]
    result = made.materialize(instance)
    (failure,) = [event for event in result.all_events if event.event_type == dg.DagsterEventType.RUN_FAILURE]
    steps = [event for event in result.all_events if event.is_step_failure]
    assert problem_of(failure, steps) == "the slot was dropped\nWhat to do: run `fraud-lakehouse resync`"
    assert problem_of(failure, []) == failure.message, "killed: no step says why"
