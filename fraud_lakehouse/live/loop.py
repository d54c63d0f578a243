"""The cycle repeated: sources landed by threads, the hot lane and the alerts here, everything else beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fraud_lakehouse.live.background import Beside
from fraud_lakehouse.live.cycle import BUSY_FOLLOW_SECONDS, FOLLOW_SECONDS, Cycle, CycleResult
from fraud_lakehouse.live.ingesting import Capturing
from fraud_lakehouse.live.intervals import Intervals
from fraud_lakehouse.live.scoring import Scoring
from fraud_lakehouse.storage.lease import progress, watched

IDLE_SECONDS = 1.0  # a cycle at least this often: an alert whose destination failed is due again
SLICE_SECONDS = 0.2  # how long `stop` may go unheard


def run_until(cycle: Cycle, beside: Beside, stop: Callable[[], bool], report: Callable[[CycleResult], None]) -> None:
    """Repeat cycles, waking on data, until `stop()`; the cycle under way is finished first.

    A source with a gap ends nothing, even where it is the only one: it goes on once the command that its problem names
    was run, by whichever process. Where every source has an update delay, each is drained once in it (intervals.py).
    A loop that makes no progress loses the leases of its process (storage/lease.py).

    Args:
        beside: works beside the cycle; the caller ends it, and decides what waits for its end.

    Raises:
        LakeError: the lake cannot be written.
    """
    with watched():
        if all(source.ingest.update_delay for source in cycle.sources):
            _at_intervals(cycle, beside, stop, report)
        else:
            _on_data(cycle, beside, stop, report)


def _on_data(cycle: Cycle, beside: Beside, stop: Callable[[], bool], report: Callable[[CycleResult], None]) -> None:
    settings = cycle.settings
    capturing = Capturing(cycle.sources, settings.work_dir, settings.batch_rows)
    scoring = Scoring(cycle, capturing.backlog)

    def pause() -> float:
        return BUSY_FOLLOW_SECONDS if landings.is_waiting else FOLLOW_SECONDS

    with capturing as landings:
        due = 0.0
        while not stop():
            progress()
            landed, is_shared = landings.take(SLICE_SECONDS)
            if landed or is_shared or time.monotonic() >= due:
                result = scoring.run(landed, is_shared=is_shared, pause=pause)
                _finish(cycle, beside, result, report)
                due = time.monotonic() + IDLE_SECONDS


def _at_intervals(
    cycle: Cycle, beside: Beside, stop: Callable[[], bool], report: Callable[[CycleResult], None]
) -> None:
    intervals = Intervals(cycle)
    while not stop():
        for result in intervals.cycles(stop):
            _finish(cycle, beside, result, report)
        until = time.monotonic() + IDLE_SECONDS
        while not stop() and not intervals.is_time and time.monotonic() < until:
            progress()
            time.sleep(SLICE_SECONDS)


def _finish(cycle: Cycle, beside: Beside, result: CycleResult, report: Callable[[CycleResult], None]) -> None:
    # A build without rows is the look every half minute whether another process left some: no news for those beside.
    if result.has_rows:
        beside.note_change()
    built = beside.take()
    progress()
    report(replace(result, builds=[*result.builds, *built], problems={**result.problems, **beside.problems}))
