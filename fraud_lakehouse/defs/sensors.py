"""Sensors that detect new data and request runs, keep the live run going, and detect runs whose process has ended.

Positions decide; cursors are only hints for people. How data is captured is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.defs import LIVE_JOB, LIVE_SECONDS, UPDATE_JOB
from fraud_lakehouse.defs.capture_check import CaptureProblem, report_poll
from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.run_lock import forget_lock, free_locks, lock_state
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.sources.configured import (
    DeclaredSource,
    SourceConfig,
    configured_sources,
    declared_sources,
    is_live,
)
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

Tick = dg.RunRequest | dg.SkipReason
RANGE_TAG = "fraud/range"
SOURCE_TAG = "fraud/source"
# Without NOT_STARTED: such a run was created, but its daemon was killed before submitting it. A new request submits it.
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
SUBMITTED = [status for status in dg.DagsterRunStatus if status != dg.DagsterRunStatus.NOT_STARTED]
GRACE_SECONDS = 120.0  # between "started" and the first step, on a busy machine
LIVE_TICK_SECONDS = 5
WATCH_SECONDS = 4.0  # of each tick: Dagster ticks no more often, and a killed live run must be replaced sooner
WATCH_SLICE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 120.0


def request_for(
    instance: dg.DagsterInstance, source: str, data: NewData, selection: Sequence[dg.AssetKey]
) -> dg.RunRequest:
    """The run that ingests a range. The run key is the range and, if earlier runs failed, the attempt's number."""
    earlier = len(instance.get_runs(dg.RunsFilter(tags={RANGE_TAG: data.run_key}, statuses=SUBMITTED)))
    key = data.run_key if not earlier else f"{data.run_key}#{earlier + 1}"
    return dg.RunRequest(run_key=key, tags={RANGE_TAG: data.run_key, SOURCE_TAG: source}, asset_selection=[*selection])


def source_sensor(
    source: DeclaredSource,
    settings: Settings,
    poll: Callable[[SourceConfig, Settings], NewData | None],
    asset: dg.AssetKey,
    selection: Sequence[dg.AssetKey],
) -> dg.SensorDefinition:
    """The sensor of one source: new data requests a run of its bronze tables and all models.

    Args:
        asset: the asset of the source's own checks.
        selection: what a run materializes.
    """
    name, config = source.name, source.config
    delay = settings.update_delay if config is None else config.update_delay

    @dg.sensor(
        name=f"new_data_{name.replace('.', '__')}",
        job_name=UPDATE_JOB,
        minimum_interval_seconds=max(5, int(delay)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a run when {name} has data that the lake lacks; every {delay:g} seconds.",
    )
    def new_data_sensor(context: dg.SensorEvaluationContext) -> Tick:
        if config is None:
            return dg.SkipReason(f"{source.variable} is not set, so there is no source {name}.")
        if is_live(configured_sources(settings).values()):
            return dg.SkipReason("A source has no update delay: the live run captures all sources.")
        pulling = dg.RunsFilter(tags={SOURCE_TAG: name}, statuses=UNFINISHED)
        if runs := context.instance.get_runs(pulling, limit=1):
            return dg.SkipReason(f"Run {runs[0].run_id[:8]} is ingesting {runs[0].tags[RANGE_TAG]}.")
        try:
            data = poll(config, settings)
        except (SourceError, GapError) as error:
            report_poll(context.instance, Lake.at(settings.lake), name, asset, CaptureProblem.of(error))
            if isinstance(error, GapError):
                raise
            return dg.SkipReason(f"Cannot poll {name}: {error.problem}. {error.fix}".strip())
        report_poll(context.instance, Lake.at(settings.lake), name, asset, None)
        if data is None:
            return dg.SkipReason(f"Nothing new in {name}.")
        context.update_cursor(data.run_key)
        return request_for(context.instance, name, data, selection)

    return new_data_sensor


def live_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that keeps exactly one live run going while FRAUD_UPDATE_DELAY is 0."""

    @dg.sensor(
        name="keep_live",
        job_name=LIVE_JOB,
        minimum_interval_seconds=LIVE_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps one live run going while FRAUD_UPDATE_DELAY is 0. When its time is over, the next one takes"
        " over without a gap: the first ends when its successor waits. A killed run is replaced at once, one that hangs"
        " within seconds.",
    )
    def keep_live(context: dg.SensorEvaluationContext) -> Tick:
        if why := why_no_live(settings):
            stopped = stop_live_runs(context.instance)
            return dg.SkipReason(" ".join([why, *(f"Live run {run[:8]} is being stopped." for run in stopped)]))
        started = context.instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=[dg.DagsterRunStatus.STARTED]))
        watch_over(settings, [run.run_id for run in started])
        reap_dead_runs(context.instance, settings)
        alive = context.instance.get_run_records(dg.RunsFilter(job_name=LIVE_JOB, statuses=UNFINISHED))
        newest = context.instance.get_run_records(dg.RunsFilter(job_name=LIVE_JOB, statuses=SUBMITTED), limit=10)
        return next_live_run(alive, newest, time.time())

    return keep_live


def why_no_live(settings: Settings) -> str | None:
    """Why there is no live run with these settings; None if there is one."""
    sources = declared_sources(settings)
    configs = [source.config for source in sources if source.config is not None]
    if not configs:
        return f"There is no source: set {' or '.join(dict.fromkeys(source.variable for source in sources))}."
    if not is_live(configs):
        return "Every source has an update delay (FRAUD_UPDATE_DELAY): runs are requested by new data."
    return None


def stop_live_runs(instance: dg.DagsterInstance) -> list[str]:
    """Stop live runs as the UI does: each ends after its cycle. Returns the ids of those not being stopped already.

    Their processes have the settings of their start and continue until they are stopped.
    """
    going = [status for status in UNFINISHED if status != dg.DagsterRunStatus.CANCELING]
    runs = [run.run_id for run in instance.get_runs(dg.RunsFilter(job_name=LIVE_JOB, statuses=going))]
    for run_id in runs:
        instance.run_coordinator.cancel_run(run_id)
    return runs


def next_live_run(alive: Sequence[dg.RunRecord], newest: Sequence[dg.RunRecord], now: float) -> Tick:
    """The live run to start now: the first, a successor, or a replacement for a lost one; or why there is none.

    Its run key names the newest live run before it, whatever its state. So a lost standby is replaced while its
    predecessor still runs, and two requests in the same state are one run.

    Args:
        alive: live runs that have not ended, newest first.
        newest: the last live runs that were ever submitted, newest first.
        now: seconds since the epoch.
    """
    if alive and (why := _why_none_takes_over(alive, now)):
        return dg.SkipReason(why)
    ended = [(record.dagster_run.status, record.end_time or 0.0) for record in newest]
    if (pause := pause_after_failures(ended, now)) > 0:
        return dg.SkipReason(f"The last live runs failed; the next starts in {pause:.0f} s.")
    return dg.RunRequest(run_key=f"after-{newest[0].dagster_run.run_id}" if newest else "first")


def _why_none_takes_over(alive: Sequence[dg.RunRecord], now: float) -> str | None:
    """Why no run should take over from the current live run; None if one should."""
    run, started = alive[0].dagster_run, alive[0].start_time
    state = f"Live run {run.run_id[:8]} is {run.status.value.lower()}."
    if len(alive) > 1:
        return f"{state} It follows {alive[1].dagster_run.run_id[:8]}."
    is_over = started is not None and now - started >= LIVE_SECONDS
    return None if run.status == dg.DagsterRunStatus.STARTED and is_over else state


def janitor_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that ends runs whose process has ended, so that they do not occupy their pool for ever."""

    @dg.sensor(
        name="end_dead_runs",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks a run as failed if its process does not respond, or was killed together with what would have"
        " reported it.",
    )
    def end_dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dead = reap_dead_runs(context.instance, settings)
        forget_ended_runs(context.instance, settings)
        return dg.SkipReason(f"Ended {', '.join(run[:8] for run in dead)}." if dead else "Every started run is alive.")

    return end_dead_runs


def reap_dead_runs(instance: dg.DagsterInstance, settings: Settings, now: float | None = None) -> list[str]:
    """Mark started runs without a working process as failed, those being stopped as canceled; returns their ids.

    A run without a lock has GRACE_SECONDS to reach its first step. A run that ended normally is not affected: its
    process holds the lock until Dagster has written the end, and the status is read after the lock. A process that
    hung and resumes later finds its lock removed, and ends.
    """
    clock = time.time() if now is None else now
    dead = []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    for record in instance.get_run_records(started):
        run = record.dagster_run
        state = lock_state(settings, run.run_id)
        age = clock - (record.start_time or record.create_timestamp.timestamp())
        if state in ("free", "hung") or (state == "absent" and age > GRACE_SECONDS):
            current = instance.get_run_by_id(run.run_id)
            if current is None or current.is_finished:
                continue
            if current.status == dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, "The run's process ended before it could be stopped normally.")
            else:
                instance.report_run_failed(run, _ENDS[state])
            forget_lock(settings, run.run_id)
            dead.append(run.run_id)
    return dead


_ENDS = {
    "hung": "The run's process does not respond (stopped, swapped out or stuck): its locks are taken over.",
    "free": "The run's process is gone (killed, or its machine restarted).",
    "absent": "The run's process is gone (killed, or its machine restarted).",
}


def forget_ended_runs(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Remove the locks of runs that have ended, or whose history was deleted."""
    for run_id in free_locks(settings):
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            forget_lock(settings, run_id)


def watch_over(settings: Settings, run_ids: Sequence[str], seconds: float = WATCH_SECONDS) -> None:
    """Return when the process of one of these runs has ended or hangs, none of them runs, or the time is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [lock_state(settings, run_id) for run_id in run_ids]
        if "free" in states or "hung" in states or "held" not in states:
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
