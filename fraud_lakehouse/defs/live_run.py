"""The live run: one Dagster run that repeats the cycle for some minutes and reports as it goes.

`live/` defines the cycle. This module decides when to stop and what to report to Dagster. Reports come from a thread
that no alert waits for, at most every `report_seconds`, because each event costs about 12 ms.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import logging
import queue
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import LIVE_JOB, LIVE_SECONDS
from fraud_lakehouse.defs.bronze import bronze_key, checked_sources
from fraud_lakehouse.defs.capture_check import LiveCaptureChecks
from fraud_lakehouse.defs.checks import alert_evaluations
from fraud_lakehouse.defs.contract_checks import Contracted, ContractRounds
from fraud_lakehouse.defs.excluded_values import excluded_evaluations
from fraud_lakehouse.defs.ineligible_tables import tables_evaluation
from fraud_lakehouse.defs.late_rows import late_evaluations
from fraud_lakehouse.defs.metadata import ingested_metadata
from fraud_lakehouse.defs.open_transactions import transactions_evaluation
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures
from fraud_lakehouse.defs.slot_health import slot_evaluation
from fraud_lakehouse.defs.transform import ALERTS_KEY
from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.pipeline import PipelineError

if TYPE_CHECKING:
    from fraud_lakehouse.ingest import Ingested
    from fraud_lakehouse.live import CycleResult
    from fraud_lakehouse.live.backlog import Behind
    from fraud_lakehouse.transform.build_result import NodeResult

log = logging.getLogger(__name__)

QUIET_SECONDS = 300.0  # between two evaluations of the checks while nothing is new
ALERTS_SECONDS = 60.0  # longest time between reports of gold/alerts, so that it counts as fresh on a quiet day


class LiveConfig(dg.Config):
    """How long a live run lasts, how often it reports and, while something is new, evaluates the checks, in seconds."""

    run_seconds: float = LIVE_SECONDS
    report_seconds: float = 10.0
    check_seconds: float = 30.0


class LiveReport:
    """Collects the results of cycles and reports them as Dagster events, at most every `seconds`.

    Args:
        keys: asset key of each model by its dbt unique id.
        emit: called with each event.
        say, warn: called with each line for the run's log.
        alert_seconds: how far the cycle may be behind a source before this is logged.
        checks: evaluates the checks of the sources from the problems of the cycles.
    """

    def __init__(
        self,
        keys: dict[str, dg.AssetKey],
        seconds: float,
        emit: Callable[[Any], None],
        say: Callable[[str], None],
        warn: Callable[[str], None],
        alert_seconds: float = 10.0,
        checks: Callable[[Mapping[str, str]], Iterable[dg.AssetCheckEvaluation]] = lambda problems: (),
    ) -> None:
        self._warn = warn
        self._checks = checks
        self._alert_seconds = alert_seconds
        self._behind: Mapping[str, Behind] = {}
        self._keys = keys
        self._seconds = seconds
        self._emit = emit
        self._announce = say
        self._due = 0.0
        self._alerts_due = 0.0
        self._clear()

    def add(self, result: "CycleResult") -> None:
        """Add one cycle, and report if a report is due."""
        self._cycles += 1
        for batch in result.ingested:
            self._ingested[batch.table].append(batch)
        for build in result.builds:
            for node in build.nodes:
                if node.ok and node.unique_id in self._keys:
                    self._built[node.unique_id].append(node)
        self._steps.update(result.seconds)
        self._alerts += result.alerts
        self._problems.update(result.problems)
        self._behind = result.behind
        if time.monotonic() >= self._due:
            self.flush()
            self._due = time.monotonic() + self._seconds

    def flush(self) -> None:
        """Report everything collected."""
        for table, batches in self._ingested.items():
            self._emit(dg.AssetMaterialization(bronze_key(table), metadata=ingested_metadata(batches)))
        now = time.monotonic()
        for unique_id, nodes in self._built.items():
            is_alerts = self._keys[unique_id] == ALERTS_KEY
            if any(node.rows for node in nodes) or (is_alerts and now >= self._alerts_due):
                self._emit(dg.AssetMaterialization(self._keys[unique_id], metadata=_built_metadata(nodes)))
                self._alerts_due = now + ALERTS_SECONDS if is_alerts else self._alerts_due
        if rows := sum(batch.rows for batches in self._ingested.values() for batch in batches):
            steps = ", ".join(f"{step} {seconds / self._cycles:.2f} s" for step, seconds in self._steps.items())
            self._announce(f"{rows} rows, {self._alerts} alerts in {self._cycles} cycles; a cycle took: {steps}")
        for source, behind in self._behind.items():
            if behind.exceeds(self._alert_seconds):
                self._warn(f"{source} is behind: {behind}")
        for part, problem in self._problems.items():
            self._warn(f"{part}: {problem}")
        if self._cycles:  # without a cycle, it is unknown whether there are problems
            for evaluation in self._checks(self._problems):
                self._emit(evaluation)
        self._clear()

    def _clear(self) -> None:
        self._cycles = 0
        self._alerts = 0
        self._ingested: dict[str, list[Ingested]] = defaultdict(list)
        self._built: dict[str, list[NodeResult]] = defaultdict(list)
        self._steps: Counter[str] = Counter()
        self._problems: dict[str, str] = {}
        self._behind = {}


class Reporter:
    """A thread that reports cycles and evaluates checks. Its errors are logged: no alert waits for a report.

    The checks are evaluated while cycles have news, once more after the last such cycle, and every few minutes.

    Args:
        report: receives each cycle.
        check: evaluates the checks and emits the results.
        seconds: between two evaluations while there is news.
        alert_seconds: how far the cycle may be behind a source before this counts as news.
    """

    def __init__(
        self, report: LiveReport, check: Callable[[], None], seconds: float, alert_seconds: float = 10.0
    ) -> None:
        self._report = report
        self._check = check
        self._seconds = seconds
        self._alert_seconds = alert_seconds
        self._cycles: queue.SimpleQueue[CycleResult | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="report", daemon=True)

    def add(self, result: "CycleResult") -> None:
        """Add one cycle; returns at once."""
        self._cycles.put(result)

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cycles.put(None)
        self._thread.join()

    def _follow(self) -> None:
        due, quiet_due = time.monotonic() + self._seconds, 0.0
        has_news = had_news = False  # since the checks were due last, and before that
        while (result := self._cycles.get()) is not None:
            try:
                self._report.add(result)
                has_news |= self._is_news(result)
                if time.monotonic() >= due:
                    is_wanted = has_news or had_news or time.monotonic() >= quiet_due
                    due, has_news, had_news = time.monotonic() + self._seconds, False, has_news
                    if is_wanted:
                        self._check()
                        quiet_due = time.monotonic() + QUIET_SECONDS
            except Exception:
                log.exception("this report is skipped; the cycle continues")
        self._report.flush()

    def _is_news(self, result: "CycleResult") -> bool:
        is_behind = any(one.exceeds(self._alert_seconds) for one in result.behind.values())
        return result.has_rows or bool(result.problems) or is_behind


def live_job(keys: dict[str, dg.AssetKey], rules: Sequence[str], contracted: Sequence[Contracted]) -> dg.JobDefinition:
    """The job `live`: one op that repeats the cycle until its time is over and the next run waits.

    Args:
        keys: asset key of each model by its dbt unique id.
        rules: names of the rules.
        contracted: the tables whose contracts are evaluated.
    """

    @dg.op(name="repeat_cycle", description="Repeats capture, ingest, build, deliver; wakes on data.")
    def repeat_cycle(
        context: dg.OpExecutionContext, config: LiveConfig, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> None:
        from fraud_lakehouse.live.metrics import Metrics
        from fraud_lakehouse.transform.project import current_streams

        settings = lakehouse.settings
        assets = {config.name: asset for config, asset in checked_sources(settings)}
        report = LiveReport(
            keys,
            config.report_seconds,
            context.log_event,
            context.log.info,
            context.log.warning,
            settings.alert_seconds,
            LiveCaptureChecks(lakehouse.lake, assets).evaluations,
        )
        contracts = ContractRounds(lakehouse.lake, contracted)
        until = time.monotonic() + config.run_seconds

        def check() -> None:
            try:
                _check()
            except (PipelineError, TransformError) as error:  # the cycle continues with the active project
                context.log.warning("the checks of sources and streams wait for a valid pipeline folder: %s", error)

        def _check() -> None:
            began = time.monotonic()
            slot = slot_evaluation(settings, lakehouse.parts.slot)
            tables = tables_evaluation(settings, lakehouse.parts.tables)
            streams = current_streams(settings).values()
            late = late_evaluations(lakehouse.lake, settings, streams)
            excluded = excluded_evaluations(lakehouse.lake, settings, streams)
            transactions = transactions_evaluation(settings, lakehouse.parts.transactions)
            alerts = alert_evaluations(lakehouse.lake, rules, settings)
            for evaluation in (*alerts, *late, *excluded, *slot, *tables, *transactions):
                context.log_event(evaluation)  # type: ignore[arg-type]  # the annotation is narrower than the code
            for evaluation in contracts.evaluations():
                context.log_event(evaluation)  # type: ignore[arg-type]
                if not evaluation.passed:
                    context.log.error("%s is violated: %s", _named(evaluation), evaluation.description)
            metrics.observe("check", time.monotonic() - began)

        metrics = Metrics.of(settings)
        reporter = Reporter(report, check, config.check_seconds, settings.alert_seconds)

        def cycle_done(result: "CycleResult") -> None:
            metrics.note(result)
            reporter.add(result)

        with stated_failures(), finish_cycle_first() as interrupted, reporter, metrics:
            lakehouse.repeat(interrupted.is_set, lambda: time.monotonic() >= until, cycle_done)

    @dg.job(
        name=LIVE_JOB,
        executor_def=dg.in_process_executor,
        description="The micro-batch cycle in one long run; the sensor keep_live starts its successor in advance.",
    )
    def live() -> None:
        repeat_cycle()

    return live


@contextmanager
def finish_cycle_first() -> Iterator[threading.Event]:
    """Within the block, a request to stop (SIGINT, SIGTERM) sets the event; afterwards Dagster receives the signal."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _named(evaluation: dg.AssetCheckEvaluation) -> str:
    return f"contract {evaluation.check_name} of {evaluation.asset_key.to_user_string()}"


def _built_metadata(nodes: Sequence["NodeResult"]) -> dict[str, Any]:
    version = next((node.version for node in reversed(nodes) if node.version is not None), None)
    return {
        "rows": sum(node.rows or 0 for node in nodes),
        "builds": len(nodes),
        "seconds": round(sum(node.seconds for node in nodes), 3),
        **({"version": version} if version is not None else {}),
    }
