"""Sensors that see new data and request runs, keep the live run going, and notice runs whose process is gone.

Positions decide, cursors are hints for people. How data is captured is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.defs import LIVE_JOB, LIVE_SECONDS, UPDATE_JOB
from fraud_lakehouse.defs.bronze import SETTING, configured
from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.run_lock import forget_lock, lock_state
from fraud_lakehouse.errors import SourceError

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

Tick = dg.RunRequest | dg.SkipReason
RANGE_TAG = "fraud/range"
SOURCE_TAG = "fraud/source"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
GRACE_SECONDS = 120.0  # between "started" and the first step, on a busy machine
LIVE_TICK_SECONDS = 5
WATCH_SECONDS = 4.0  # of these: Dagster evaluates no sensor more often, and a killed live run must not wait for that
WATCH_SLICE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 120.0


def request_for(
    instance: dg.DagsterInstance, source: str, data: NewData, selection: Sequence[dg.AssetKey]
) -> dg.RunRequest:
    """The run that lands a range. The run key is the range; of a range whose run failed, also the attempt's number."""
    earlier = len(instance.get_runs(dg.RunsFilter(tags={RANGE_TAG: data.run_key})))
    key = data.run_key if not earlier else f"{data.run_key}#{earlier + 1}"
    return dg.RunRequest(run_key=key, tags={RANGE_TAG: data.run_key, SOURCE_TAG: source}, asset_selection=[*selection])


def source_sensor(
    source: str,
    settings: Settings,
    look: Callable[[str, Settings], NewData | None],
    selection: Sequence[dg.AssetKey],
) -> dg.SensorDefinition:
    """The sensor of one source: new data requests a run of its bronze tables and all models."""

    @dg.sensor(
        name=f"new_data_{source}",
        job_name=UPDATE_JOB,
        minimum_interval_seconds=max(5, int(settings.update_delay)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a run when {source} holds data the lake has not; every FRAUD_UPDATE_DELAY seconds.",
    )
    def new_data_sensor(context: dg.SensorEvaluationContext) -> Tick:
        if not configured(settings, source):
            return dg.SkipReason(f"{SETTING[source]} is not set, so there is no {source} source.")
        if settings.update_delay == 0:
            return dg.SkipReason("FRAUD_UPDATE_DELAY is 0: the live run captures this source.")
        pulling = dg.RunsFilter(tags={SOURCE_TAG: source}, statuses=UNFINISHED)
        if runs := context.instance.get_runs(pulling, limit=1):
            return dg.SkipReason(f"Run {runs[0].run_id[:8]} is landing {runs[0].tags[RANGE_TAG]}.")
        try:
            data = look(source, settings)
        except SourceError as error:
            return dg.SkipReason(f"Cannot look at {source}: {error.problem}. {error.fix}".strip())
        if data is None:
            return dg.SkipReason(f"Nothing new in {source}.")
        context.update_cursor(data.run_key)
        return request_for(context.instance, source, data, selection)

    return new_data_sensor


def live_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that keeps exactly one live run going while FRAUD_UPDATE_DELAY is 0."""

    @dg.sensor(
        name="keep_live",
        job_name=LIVE_JOB,
        minimum_interval_seconds=LIVE_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps one live run going while FRAUD_UPDATE_DELAY is 0. One whose time is over is followed by the"
        " next without a gap: it ends when that one stands by. A killed one is replaced at once.",
    )
    def keep_live(context: dg.SensorEvaluationContext) -> Tick:
        if settings.update_delay > 0:
            return dg.SkipReason(f"FRAUD_UPDATE_DELAY is {settings.update_delay:g} s: runs are requested by new data.")
        if not any(configured(settings, source) for source in SETTING):
            return dg.SkipReason(f"There is no source: set {' or '.join(SETTING.values())}.")
        started = context.instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=[dg.DagsterRunStatus.STARTED]))
        watch_over(settings, [run.run_id for run in started])
        bury_dead_runs(context.instance, settings)
        records = context.instance.get_run_records(dg.RunsFilter(job_name=LIVE_JOB), limit=10)
        alive = [record for record in records if not record.dagster_run.is_finished]
        if alive:
            return successor_of(alive, time.time())
        pause = pause_after_failures(
            [(record.dagster_run.status, record.end_time or 0.0) for record in records], time.time()
        )
        if pause > 0:
            return dg.SkipReason(f"The last live runs failed; the next starts in {pause:.0f} s.")
        return dg.RunRequest()

    return keep_live


def successor_of(alive: Sequence[dg.RunRecord], now: float) -> Tick:
    """The run that takes over from the one live run whose time is over; else why there is none.

    Args:
        alive: live runs that have not ended.
        now: seconds since the epoch.
    """
    run = alive[0].dagster_run
    said = f"Live run {run.run_id[:8]} is {run.status.value.lower()}."
    if len(alive) > 1:
        return dg.SkipReason(f"{said} It follows {alive[1].dagster_run.run_id[:8]}.")
    started = alive[0].start_time
    if run.status != dg.DagsterRunStatus.STARTED or started is None or now - started < LIVE_SECONDS:
        return dg.SkipReason(said)
    return dg.RunRequest(run_key=f"after-{run.run_id}")


def janitor_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that ends runs whose process is gone, so that they do not hold their pool for ever."""

    @dg.sensor(
        name="end_dead_runs",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process was killed together with what would have reported it.",
    )
    def end_dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dead = bury_dead_runs(context.instance, settings)
        return dg.SkipReason(f"Ended {', '.join(run[:8] for run in dead)}." if dead else "Every started run is alive.")

    return end_dead_runs


def bury_dead_runs(instance: dg.DagsterInstance, settings: Settings, now: float | None = None) -> list[str]:
    """Mark started runs as failed whose process is gone; answers their ids.

    A run without a lock is given GRACE_SECONDS to reach its first step.
    """
    clock = time.time() if now is None else now
    dead = []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    for record in instance.get_run_records(started):
        run = record.dagster_run
        state = lock_state(settings, run.run_id)
        age = clock - (record.start_time or record.create_timestamp.timestamp())
        if state == "free" or (state == "absent" and age > GRACE_SECONDS):
            current = instance.get_run_by_id(run.run_id)
            if current is None or current.is_finished:
                continue
            instance.report_run_failed(run, "The run's process is gone (killed, or its machine restarted).")
            forget_lock(settings, run.run_id)
            dead.append(run.run_id)
    return dead


def watch_over(settings: Settings, run_ids: Sequence[str], seconds: float = WATCH_SECONDS) -> None:
    """Return as soon as the process of one of these runs is gone, or none of them runs, or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [lock_state(settings, run_id) for run_id in run_ids]
        if "free" in states or "held" not in states:
            return
        time.sleep(WATCH_SLICE_SECONDS)


def pause_after_failures(newest_first: Sequence[tuple[dg.DagsterRunStatus, float]], now: float) -> float:
    """Seconds to wait before the next live run: none after one failure, then 10, 20, … up to LONGEST_PAUSE_SECONDS.

    Args:
        newest_first: status and end time (seconds since the epoch) of the last live runs.
        now: seconds since the epoch.
    """
    failures = 0
    for status, _ in newest_first:
        if status != dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
    if failures < 2:
        return 0.0
    return max(0.0, newest_first[0][1] + min(LONGEST_PAUSE_SECONDS, 5.0 * 2.0 ** (failures - 1)) - now)
