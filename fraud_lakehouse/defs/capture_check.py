"""The check `capture` of each source: whether it is captured, and if not, why and what to do.

Whatever captures evaluates it: a live run while it runs, a batch run at the end of its capture, and the sensor that
polls for new data. `source_watch.py` notifies people of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from fraud_lakehouse.errors import GapError, LakehouseError, SourceError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake

CHECK = "capture"
REPEAT_SECONDS = 60.0  # between two evaluations with the same result
ASKED_SECONDS = 30.0  # by then a live run has polled every source: one without a problem is captured
_NEWEST = 20  # evaluations to read: a run has one record, which it updates


@dataclass(frozen=True)
class CaptureProblem:
    """Why a source is not captured, and what to do; `is_gap`: rows are gone, and a person must decide."""

    problem: str
    fix: str
    is_gap: bool

    @staticmethod
    def of(error: LakehouseError) -> CaptureProblem:
        """The problem that an error describes."""
        return CaptureProblem(error.problem, error.fix, isinstance(error, GapError))


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: its time (seconds since the epoch) and the problem; None: the source was captured."""

    at: float
    problem_found: CaptureProblem | None


def capture_spec(source: str, asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of a source, evaluated by its capture step. It never blocks: ingested rows are still built."""
    return dg.AssetCheckSpec(
        CHECK,
        asset=asset,
        blocking=False,
        description=f"{source} is captured: it responds, grants what is needed, and no change was lost.",
    )


def capture_evaluation(asset: dg.AssetKey, problem_found: CaptureProblem | None) -> dg.AssetCheckEvaluation:
    """The evaluated check: a gap is an error, an unreachable source a warning."""
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=CHECK,
        passed=problem_found is None,
        severity=dg.AssetCheckSeverity.ERROR if problem_found and problem_found.is_gap else dg.AssetCheckSeverity.WARN,
        description=problem_found.problem if problem_found else None,
        metadata={"problem": problem_found.problem, "what to do": problem_found.fix or "-"} if problem_found else {},
        blocking=False,
    )


def newest_evaluation(instance: dg.DagsterInstance, asset: dg.AssetKey) -> Evaluated | None:
    """The check's newest evaluation; None if it was never evaluated."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(asset, CHECK), limit=_NEWEST
    )
    events = [event for record in records if (event := record.event) is not None and event.is_dagster_event]
    done = [event for event in events if event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    if not done:
        return None
    newest = max(done, key=lambda event: event.timestamp)
    found = newest.get_dagster_event().asset_check_evaluation_data
    if found.passed:
        return Evaluated(newest.timestamp, None)
    texts = {name: str(found.metadata[name].value) for name in ("problem", "what to do")}
    is_gap = found.severity == dg.AssetCheckSeverity.ERROR
    return Evaluated(newest.timestamp, CaptureProblem(texts["problem"], texts["what to do"], is_gap))


def recorded_gap(lake: Lake, source: str) -> CaptureProblem | None:
    """The gap in control/audit from which capture has not resumed; None if there is none."""
    if not lake.exists("control", "audit"):
        return None
    row = Audit(lake).stopped(source)
    return (
        CaptureProblem(str(row.detail.get("problem")), str(row.detail.get("fix") or ""), is_gap=True) if row else None
    )


def report_poll(
    instance: dg.DagsterInstance, lake: Lake, source: str, asset: dg.AssetKey, problem_found: CaptureProblem | None
) -> None:
    """Evaluate the check for a sensor's poll: when the result changes and, while there is a problem, every minute.

    A poll sees less than a capture: a gap that a run has found ends only when capture has resumed.
    """
    last = newest_evaluation(instance, asset)
    if problem_found is None and (last is None or last.problem_found is None):
        return
    problem_found = problem_found or recorded_gap(lake, source)
    if last is not None and last.problem_found is not None and problem_found is not None:
        is_old_news = last.problem_found.is_gap == problem_found.is_gap
        if is_old_news and time.time() - last.at < REPEAT_SECONDS:
            return
    instance.report_runless_asset_event(capture_evaluation(asset, problem_found))


@contextmanager
def failing_check(asset: dg.AssetKey, emit: Callable[[dg.AssetCheckEvaluation], None]) -> Iterator[None]:
    """Emit the failed check for a source's error that ends the block.

    Raises:
        SourceError, GapError: raised by the block.
    """
    try:
        yield
    except (SourceError, GapError) as error:
        emit(capture_evaluation(asset, CaptureProblem.of(error)))
        raise


class LiveCaptureChecks:
    """Evaluates the checks for a live run from the problems of its cycles, at once when a problem begins or ends.

    Args:
        sources: configured source -> asset of its check.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, lake: Lake, sources: Mapping[str, dg.AssetKey], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lake = lake
        self._clock = clock
        self._due: dict[str, float] = {}
        self._assets = sources
        self._is_troubled = dict.fromkeys(sources, False)

    def evaluations(self, problems: Mapping[str, str]) -> Iterator[dg.AssetCheckEvaluation]:
        """The checks that are due.

        Args:
            problems: source -> problem in a cycle since the last call; other components are ignored.
        """
        now = self._clock()
        for source, was_troubled in self._is_troubled.items():
            due = self._due.setdefault(source, now + ASKED_SECONDS)
            is_troubled = source in problems
            if is_troubled == was_troubled and now < due:
                continue
            self._is_troubled[source] = is_troubled
            self._due[source] = now + REPEAT_SECONDS
            problem, _, fix = problems.get(source, "").partition("\n  -> ")
            problem_found = CaptureProblem(problem, fix, is_gap=False) if is_troubled else None
            yield capture_evaluation(self._assets[source], recorded_gap(self._lake, source) or problem_found)
