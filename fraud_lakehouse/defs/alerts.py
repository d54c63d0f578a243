"""Sensors that bring alerts and failures to people. A live run delivers its alerts itself; these cover the other runs.

`alerts/` sends, retries and records messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.defs import LIVE_JOB
from fraud_lakehouse.defs.sensors import UNFINISHED
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

DELIVER_SECONDS = 20.0


class DestinationError(Exception):
    """A destination did not accept a message; the sensor's next tick tries again."""


def alert_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that delivers what no live run delivers: alerts of batch runs, and of runs that died."""

    @dg.sensor(
        name="deliver_alerts",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Delivers pending alerts; fails, with the reason, if a destination does.",
    )
    def deliver_alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not settings.alert_urls:
            return dg.SkipReason("FRAUD_ALERT_URLS is not set: alerts are recorded in gold/alerts only.")
        if context.instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=UNFINISHED), limit=1):
            return dg.SkipReason("The live run delivers its alerts itself.")
        return dg.SkipReason(deliver(settings))

    return deliver_alerts


def deliver(settings: Settings) -> str:
    """Deliver pending alerts; returns a summary sentence.

    Raises:
        DestinationError: a destination failed; the others received their alerts.
    """
    from fraud_lakehouse.alerts.delivery import Delivery

    delivery = Delivery(settings, Lake.at(settings.lake))
    try:
        report = delivery.deliver_pending(wait=DELIVER_SECONDS)
    finally:
        delivery.close()
    summary = f"{report.delivered} alerts delivered, {report.digested} in digests, {report.pending} pending."
    if report.failed:
        raise DestinationError(f"{summary} {'; '.join(report.notes)}")
    return summary


def failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that notifies the alert destinations of a failed run."""

    @dg.run_failure_sensor(
        name="report_failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends a failed run's error to FRAUD_ALERT_URLS; for consecutive failures, only the first.",
    )
    def report_failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not settings.alert_urls:
            return dg.SkipReason("FRAUD_ALERT_URLS is not set.")
        if failed_before(context.instance, context.dagster_run):
            return dg.SkipReason(f"The previous run of {context.dagster_run.job_name} failed too, and was reported.")
        problem = problem_of(context.failure_event, context.get_step_failure_events())
        notify(settings, failure_message(context.dagster_run, problem))
        return None

    return report_failed_runs


def failed_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the previous finished run of the job failed."""
    recent = instance.get_runs(dg.RunsFilter(job_name=run.job_name), limit=20)
    ids = [one.run_id for one in recent]
    older = recent[ids.index(run.run_id) + 1 :] if run.run_id in ids else []
    ended = [one for one in older if one.is_finished]
    return bool(ended) and ended[0].status == dg.DagsterRunStatus.FAILURE


def problem_of(failure: dg.DagsterEvent, steps: Sequence[dg.DagsterEvent]) -> str:
    """The errors of the failed steps, and what to do.

    Args:
        failure: the run's failure, which names its steps; the only event of a run whose process was killed.
        steps: the failures of its steps.
    """
    failures = [step.step_failure_data.user_failure_data for step in steps]
    lines = []
    for one in failures:
        if one is not None and one.description:
            fix = one.metadata.get("what to do")
            lines.append(one.description + (f"\nWhat to do: {fix.value}" if fix is not None else ""))
    return "\n".join(lines) or failure.message or ""


def failure_message(run: dg.DagsterRun, problem: str) -> Message:
    """The notification about a failed run; its run id is the idempotency key."""
    return Message(
        key=run.run_id,
        title=f"[pipeline] run of {run.job_name} failed",
        body=f"{problem}\nRun: {run.run_id}\nThe next run continues where this one stopped; nothing is skipped.",
        urgency="failure",
        payload={"run_id": run.run_id, "job": run.job_name, "problem": problem},
    )


def notify(settings: Settings, message: Message) -> None:
    """Send one message to all destinations in parallel.

    Raises:
        DestinationError: names those that did not accept it, after all were tried.
    """
    from fraud_lakehouse.alerts.destination import destinations

    found = destinations(settings)
    with ThreadPoolExecutor(max_workers=len(found)) as pool:
        errors = list(pool.map(lambda one: one.send(message), found))
    rejected = {one.name: error for one, error in zip(found, errors, strict=True) if error is not None}
    if rejected:
        raise DestinationError("; ".join(f"{name}: {error}" for name, error in rejected.items()))
