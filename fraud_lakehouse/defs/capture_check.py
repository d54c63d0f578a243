"""The check `capture` of each source: whether its changes come in, and if not, why and who is to do something.

Whoever captures evaluates it: a live run while it runs, a batch run at the end of its capture, and the tick that looks
for new data. What people are told of it is in `source_watch.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import GapError, LakehouseError, SourceError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake

CHECK = "capture"
ASSETS = {"postgres": table_key("bronze", "transactions"), "kafka": table_key("bronze", "card_transactions")}
REPEAT_SECONDS = 60.0  # an evaluation that says what the one before it said
ASKED_SECONDS = 30.0  # after which a source of which a live run knows no problem has been asked
_NEWEST = 20  # evaluations: a run has one, which it renews


@dataclass(frozen=True)
class Trouble:
    """Why a source is not captured, and what to do; `is_gap`: rows are gone, and only a person can say how to go on."""

    problem: str
    fix: str
    is_gap: bool

    @staticmethod
    def of(error: LakehouseError) -> Trouble:
        """What an error says."""
        return Trouble(error.problem, error.fix, isinstance(error, GapError))


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: when (seconds since the epoch), and the trouble; None: the source was captured."""

    at: float
    trouble: Trouble | None


def check_key(source: str) -> dg.AssetCheckKey:
    """The key of a source's check."""
    return dg.AssetCheckKey(ASSETS[source], CHECK)


def capture_spec(source: str) -> dg.AssetCheckSpec:
    """The check of a source, which its capture step evaluates; it never blocks: what has landed is to be built."""
    return dg.AssetCheckSpec(
        CHECK,
        asset=ASSETS[source],
        blocking=False,
        description=f"The changes of {source} come in: it answers, allows what is needed, and nothing of it was lost.",
    )


def capture_evaluation(source: str, trouble: Trouble | None) -> dg.AssetCheckEvaluation:
    """The check, evaluated: a gap is an error, a source that does not answer a warning."""
    return dg.AssetCheckEvaluation(
        asset_key=ASSETS[source],
        check_name=CHECK,
        passed=trouble is None,
        severity=dg.AssetCheckSeverity.ERROR if trouble and trouble.is_gap else dg.AssetCheckSeverity.WARN,
        description=trouble.problem if trouble else None,
        metadata={"problem": trouble.problem, "what to do": trouble.fix or "-"} if trouble else {},
        blocking=False,
    )


def newest_evaluation(instance: dg.DagsterInstance, source: str) -> Evaluated | None:
    """What the check said last; None where it was never evaluated."""
    records = instance.event_log_storage.get_asset_check_execution_history(check_key(source), limit=_NEWEST)
    events = [event for record in records if (event := record.event) is not None and event.is_dagster_event]
    done = [event for event in events if event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    if not done:
        return None
    newest = max(done, key=lambda event: event.timestamp)
    found = newest.get_dagster_event().asset_check_evaluation_data
    if found.passed:
        return Evaluated(newest.timestamp, None)
    said = {name: str(found.metadata[name].value) for name in ("problem", "what to do")}
    is_gap = found.severity == dg.AssetCheckSeverity.ERROR
    return Evaluated(newest.timestamp, Trouble(said["problem"], said["what to do"], is_gap))


def recorded_gap(lake: Lake, source: str) -> Trouble | None:
    """The gap in control/audit that capture has not resumed from; None where there is none."""
    if not lake.exists("control", "audit"):
        return None
    row = Audit(lake, {"cards": "kafka"}).stopped(source)
    return Trouble(str(row.detail.get("problem")), str(row.detail.get("fix") or ""), is_gap=True) if row else None


def report_look(instance: dg.DagsterInstance, lake: Lake, source: str, trouble: Trouble | None) -> None:
    """Evaluate the check for a tick that looked at a source: when its answer changes, and of trouble every minute.

    A look sees less than a capture: a gap that a run has found is over only when capture has resumed.
    """
    last = newest_evaluation(instance, source)
    if trouble is None and (last is None or last.trouble is None):
        return
    trouble = trouble or recorded_gap(lake, source)
    if last is not None and last.trouble is not None and trouble is not None:
        is_old_news = last.trouble.is_gap == trouble.is_gap
        if is_old_news and time.time() - last.at < REPEAT_SECONDS:
            return
    instance.report_runless_asset_event(capture_evaluation(source, trouble))


@contextmanager
def failing_check(source: str, emit: Callable[[dg.AssetCheckEvaluation], None]) -> Iterator[None]:
    """Emit the failed check for an error of the source that ends the block.

    Raises:
        SourceError, GapError: as the block.
    """
    try:
        yield
    except (SourceError, GapError) as error:
        emit(capture_evaluation(source, Trouble.of(error)))
        raise


class LiveCaptureChecks:
    """Evaluates the checks for a live run, from the problems of its cycles: at once when one comes or goes.

    Args:
        sources: the configured sources.
        clock: seconds; never goes back.
    """

    def __init__(self, lake: Lake, sources: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._lake = lake
        self._clock = clock
        self._due: dict[str, float] = {}
        self._is_troubled = dict.fromkeys(sources, False)

    def evaluations(self, problems: Mapping[str, str]) -> Iterator[dg.AssetCheckEvaluation]:
        """Those that are due.

        Args:
            problems: by source, why it gave nothing in a cycle since the last call; others' are ignored.
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
            trouble = Trouble(problem, fix, is_gap=False) if is_troubled else None
            yield capture_evaluation(source, recorded_gap(self._lake, source) or trouble)
