"""The live run: one Dagster run that repeats the cycle for a few minutes and reports as it goes.

What happens in a cycle is in `live.py`. Here: when to stop, and what of it Dagster is told (at most every
`report_seconds`, because each event costs about 12 ms).
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs import LIVE_JOB, LIVE_POOL
from fraud_lakehouse.defs.bronze import bronze_key
from fraud_lakehouse.defs.checks import alert_evaluations
from fraud_lakehouse.defs.metadata import landed_metadata
from fraud_lakehouse.defs.resources import Lakehouse, stated_failures

if TYPE_CHECKING:
    from fraud_lakehouse.lake.ingest import Landed
    from fraud_lakehouse.live import CycleResult
    from fraud_lakehouse.transform.runner import NodeResult


class LiveConfig(dg.Config):
    """How long a live run lasts, how often it reports and evaluates the checks, in seconds."""

    run_seconds: float = 300.0
    report_seconds: float = 10.0
    check_seconds: float = 30.0


class LiveReport:
    """Collects what cycles did and turns it into Dagster events, at most every `seconds`.

    Args:
        keys: asset key of each model by its dbt unique id.
        emit: takes each event.
        say: takes each line for the run's log.
    """

    def __init__(
        self, keys: dict[str, dg.AssetKey], seconds: float, emit: Callable[[Any], None], say: Callable[[str], None]
    ) -> None:
        self._keys = keys
        self._seconds = seconds
        self._emit = emit
        self._say = say
        self._due = 0.0
        self._clear()

    def add(self, result: "CycleResult") -> None:
        """Take in one cycle, and report when it is time."""
        self._cycles += 1
        for batch in result.landed:
            self._landed[batch.table].append(batch)
        for build in result.builds:
            for node in build.nodes:
                if node.unique_id in self._keys:
                    self._built[node.unique_id].append(node)
        self._steps.update(result.seconds)
        self._alerts += result.alerts
        self._problems.update(result.problems)
        if time.monotonic() >= self._due:
            self.flush()
            self._due = time.monotonic() + self._seconds

    def flush(self) -> None:
        """Report everything collected."""
        for table, batches in self._landed.items():
            self._emit(dg.AssetMaterialization(bronze_key(table), metadata=landed_metadata(batches)))
        for unique_id, nodes in self._built.items():
            if any(node.rows for node in nodes):
                self._emit(dg.AssetMaterialization(self._keys[unique_id], metadata=_built_metadata(nodes)))
        if rows := sum(batch.rows for batches in self._landed.values() for batch in batches):
            steps = ", ".join(f"{step} {seconds / self._cycles:.2f} s" for step, seconds in self._steps.items())
            self._say(f"{rows} rows, {self._alerts} alerts in {self._cycles} cycles; a cycle took: {steps}")
        for source, problem in self._problems.items():
            self._say(f"{source}: {problem}")
        self._clear()

    def _clear(self) -> None:
        self._cycles = 0
        self._alerts = 0
        self._landed: dict[str, list[Landed]] = defaultdict(list)
        self._built: dict[str, list[NodeResult]] = defaultdict(list)
        self._steps: Counter[str] = Counter()
        self._problems: dict[str, str] = {}


def live_job(keys: dict[str, dg.AssetKey], rules: Sequence[str]) -> dg.JobDefinition:
    """The job `live`: one op that repeats the cycle, ends by itself and lets the next run take over."""

    @dg.op(
        name="repeat_cycle",
        pool=LIVE_POOL,
        description="Repeats capture, land, build, deliver; wakes on data.",
    )
    def repeat_cycle(
        context: dg.OpExecutionContext, config: LiveConfig, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> None:
        report = LiveReport(keys, config.report_seconds, context.log_event, context.log.info)
        until = time.monotonic() + config.run_seconds
        checks_due = time.monotonic() + config.check_seconds

        def cycle_done(result: "CycleResult") -> None:
            nonlocal checks_due
            report.add(result)
            if time.monotonic() >= checks_due:
                for evaluation in alert_evaluations(lakehouse.lake, rules):
                    context.log_event(evaluation)  # type: ignore[arg-type]  # the annotation is narrower than the code
                checks_due = time.monotonic() + config.check_seconds

        with stated_failures(), finish_cycle_first() as interrupted:
            lakehouse.repeat(lambda: interrupted.is_set() or time.monotonic() >= until, cycle_done)
            report.flush()

    @dg.job(
        name=LIVE_JOB,
        executor_def=dg.in_process_executor,
        description="The micro-batch cycle, kept warm for a few minutes; the sensor keep_live starts the next.",
    )
    def live() -> None:
        repeat_cycle()

    return live


@contextmanager
def finish_cycle_first() -> Iterator[threading.Event]:
    """Within the block, a request to stop (SIGINT, SIGTERM) sets the event; after it, it is handed on to Dagster."""
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


def _built_metadata(nodes: Sequence["NodeResult"]) -> dict[str, Any]:
    version = next((node.version for node in reversed(nodes) if node.version is not None), None)
    return {
        "rows": sum(node.rows or 0 for node in nodes),
        "builds": len(nodes),
        "seconds": round(sum(node.seconds for node in nodes), 3),
        **({"version": version} if version is not None else {}),
    }
