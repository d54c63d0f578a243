"""Repeats the cycle: threads ingest, this loop runs the fast path and delivers alerts, a worker does all else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fraud_lakehouse.live.background import BackgroundWorker
from fraud_lakehouse.live.cycle import BUSY_FOLLOW_SECONDS, FOLLOW_SECONDS, Cycle, CycleResult
from fraud_lakehouse.live.ingesting import Capturing
from fraud_lakehouse.live.intervals import Intervals
from fraud_lakehouse.live.scoring import Scoring
from fraud_lakehouse.storage.lease import progress, watched

IDLE_SECONDS = 1.0  # longest time between cycles: an alert whose destination failed becomes due again
SLICE_SECONDS = 0.2  # longest time between checks of `stop`


def run_until(
    cycle: Cycle, worker: BackgroundWorker, stop: Callable[[], bool], report: Callable[[CycleResult], None]
) -> None:
    """Repeat cycles, waking on data, until `stop()`; the current cycle is finished first.

    A source with a gap does not end the loop, even if it is the only one: it continues after the command named in its
    problem was run, by any process. If every source has an update delay, each is drained once per delay (intervals.py).
    A loop that makes no progress loses the leases of its process (storage/lease.py).

    Args:
        beside: the background worker; the caller ends it, and decides what waits for its end.

    Raises:
        LakeError: the lake cannot be written.
    """
    with watched():
        if all(source.ingest.update_delay for source in cycle.sources):
            _at_intervals(cycle, worker, stop, report)
        else:
            _on_data(cycle, worker, stop, report)


def _on_data(
    cycle: Cycle, worker: BackgroundWorker, stop: Callable[[], bool], report: Callable[[CycleResult], None]
) -> None:
    settings = cycle.settings
    capturing = Capturing(cycle.sources, settings.work_dir, settings.batch_rows)
    scoring = Scoring(cycle, capturing.backlog)

    def pause() -> float:
        return BUSY_FOLLOW_SECONDS if ingest_queue.is_waiting else FOLLOW_SECONDS

    with capturing as ingest_queue:
        due = 0.0
        while not stop():
            progress()
            ingested, is_shared = ingest_queue.take(SLICE_SECONDS)
            if ingested or is_shared or time.monotonic() >= due:
                result = scoring.run(ingested, is_shared=is_shared, pause=pause)
                _finish(cycle, worker, result, report)
                due = time.monotonic() + IDLE_SECONDS


def _at_intervals(
    cycle: Cycle, worker: BackgroundWorker, stop: Callable[[], bool], report: Callable[[CycleResult], None]
) -> None:
    intervals = Intervals(cycle)
    while not stop():
        for result in intervals.cycles(stop):
            _finish(cycle, worker, result, report)
        until = time.monotonic() + IDLE_SECONDS
        while not stop() and not intervals.is_time and time.monotonic() < until:
            progress()
            time.sleep(SLICE_SECONDS)


def _finish(cycle: Cycle, worker: BackgroundWorker, result: CycleResult, report: Callable[[CycleResult], None]) -> None:
    # A build without rows is the check every half minute for rows of other processes: the worker has nothing to do.
    if result.has_rows:
        worker.note_change()
    built = worker.take()
    progress()
    report(replace(result, builds=[*result.builds, *built], problems={**result.problems, **worker.problems}))
