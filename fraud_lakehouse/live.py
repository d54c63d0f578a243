"""The micro-batch cycle: capture (1), land (2), build (3), deliver (4). Every way of running it is this loop.

Order and guarantee: rows are durable in bronze before their source is told so; models commit what they read
with what they wrote; an alert is recorded before it is delivered. A cycle killed anywhere is continued by
the next one, in this process or another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fraud_lakehouse.detect.delivery import Delivery, DeliveryReport
from fraud_lakehouse.errors import ConcurrentWriterError, GapError, SettingsError, SourceError
from fraud_lakehouse.lake.ingest import KafkaIngest, Landed, PostgresIngest
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.writer_lock import TURN_SECONDS, writer_lock
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.runner import BuildResult, Transformer

log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
KAFKA_PATIENCE = 0.05  # seconds a step waits for a first record; waiting for data is `wait`'s part
REPLICA_SHARE = 5.0  # the replica lane may take a fifth of the time: it waits five times what it last took


class Waitable(Protocol):
    """A capture that can say whether its source has data."""

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds for it."""


@dataclass
class Source:
    """One source of the cycle: `problem` is why it gives nothing now, `stopped` that it needs a person.

    `be_patient` says whether a step may wait for a server that is away, which holds up the other sources.
    """

    name: str
    step: Callable[[int], list[Landed]]
    capture: Waitable
    close: Callable[[], None]
    be_patient: Callable[[bool], None] = lambda patient: None
    problem: str | None = None
    stopped: bool = False
    failures: int = 0
    retry_at: float = 0.0


@dataclass(frozen=True)
class CycleResult:
    """What one cycle did; seconds by step (capture, build, deliver)."""

    landed: list[Landed] = field(default_factory=list)
    builds: list[BuildResult] = field(default_factory=list)
    delivery: DeliveryReport | None = None
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows landed in bronze."""
        return sum(batch.rows for batch in self.landed)

    @property
    def alerts(self) -> int:
        """Alerts recorded."""
        return sum(build.rows("alerts") for build in self.builds)


class Cycle:
    """The sources, the models and the alert destinations of one lake, kept open between cycles.

    Raises:
        SettingsError: no source is configured.
        LakeError: the lake cannot be written.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake.at(settings.lake)
        self.lake.check_writable()
        self.transformer = Transformer(settings)
        self.delivery = Delivery(settings, self.lake)
        self._sources = list(_sources(settings, self.lake))
        if not self._sources:
            raise SettingsError(
                "no source is configured",
                "set FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS or both (see .env.example), or try `make demo`",
            )
        self._replica_due = 0.0
        self._replica_stale = True
        self._hot_stale = True

    @property
    def sources(self) -> list[str]:
        """Names of the configured sources."""
        return [state.name for state in self._sources]

    def capture(self, *, strict: bool = False) -> list[Landed]:
        """Land at most one micro-batch of each source.

        Args:
            strict: raise a source's error instead of noting it and going on with the others.

        Raises:
            GapError, SourceError: with `strict`.
        """
        landed: list[Landed] = []
        for state in self._sources:
            if state.stopped or time.monotonic() < state.retry_at:
                continue
            state.be_patient(strict)
            try:
                landed += state.step(self.settings.batch_rows)
            except (SourceError, GapError, ConcurrentWriterError) as error:
                if strict:
                    raise
                self._note(state, error)
            else:
                state.problem, state.failures = None, 0
        if landed:
            self._hot_stale = self._replica_stale = True
        return landed

    def build(self, lane: str) -> BuildResult:
        """Build a lane: "hot", "replica" or "all"."""
        if self.transformer.reload():
            self._hot_stale = self._replica_stale = True
        result = self.transformer.build_lane(lane)
        models_ok = not any(node.resource_type == "model" for node in result.failed)
        if lane in ("hot", "all") and models_ok:
            self._hot_stale = False
        if lane in ("replica", "all"):
            self._replica_stale = not models_ok
            interval = max(self.settings.replica_interval, self.settings.update_delay, REPLICA_SHARE * result.seconds)
            self._replica_due = time.monotonic() + interval
        return result

    def deliver(self) -> DeliveryReport:
        """Hand recorded alerts to their destinations; never waits for a slow one."""
        return self.delivery.deliver_pending()

    def run(self, *, strict: bool = False) -> CycleResult:
        """One cycle: capture, the hot lane when there is something new, alerts, the replica lane when due."""
        seconds: dict[str, float] = {}
        builds: list[BuildResult] = []
        with self._turn():
            with _timed(seconds, "capture"):
                landed = self.capture(strict=strict)
            with _timed(seconds, "build"):
                if self._hot_stale:
                    builds.append(self.build("hot"))
            with _timed(seconds, "deliver"):
                delivery = self.deliver()
            with _timed(seconds, "replica"):
                if self._replica_stale and not self._hot_stale and time.monotonic() >= self._replica_due:
                    builds.append(self.build("replica"))
        for build in builds:
            for node in build.failed:
                log.error("%s %s: %s", node.name, node.status, node.message)
        return CycleResult(landed, builds, delivery, self.problems, seconds)

    def catch_up(self, report: Callable[[CycleResult], None] = lambda result: None) -> None:
        """Run cycles until the sources are drained, then build every layer and deliver.

        Raises:
            GapError, SourceError, TransformError: at the first one; nothing is lost by it.
        """
        self._replica_due = float("inf")  # once, at the end
        while True:
            result = self.run(strict=True)
            for build in result.builds:
                build.raise_for_errors()
            report(result)
            if not result.landed:
                break
        with self._turn():
            self.build("all").raise_for_errors()
            self.delivery.deliver_pending(wait=10.0)

    def wait(self, timeout: float) -> bool:
        """Sleep until a source has data, `timeout` seconds at most; answers whether one has."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            ready = [state for state in self._sources if not state.stopped and time.monotonic() >= state.retry_at]
            if not ready:
                time.sleep(min(left, 0.2))  # every source is down: nothing can wake us but the clock
                continue
            for state in ready:
                try:
                    if state.capture.wait(min(left, 0.1)):
                        return True
                except (SourceError, GapError) as error:
                    self._note(state, error)
        return False

    @property
    def problems(self) -> dict[str, str]:
        """By source: why it gives nothing at the moment."""
        return {state.name: state.problem for state in self._sources if state.problem}

    @property
    def all_stopped(self) -> bool:
        """Whether every source needs a person."""
        return all(state.stopped for state in self._sources)

    def close(self) -> None:
        """Close connections and remove scratch files."""
        for state in self._sources:
            state.close()
        self.delivery.close()
        self.transformer.close()

    def __enter__(self) -> Cycle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _turn(self) -> AbstractContextManager[None]:
        return writer_lock(self.settings.work_dir, TURN_SECONDS)

    def _note(self, state: Source, error: SourceError | GapError | ConcurrentWriterError) -> None:
        state.problem = str(error)
        state.stopped = isinstance(error, GapError)  # only a person can say that the gap is acceptable
        state.retry_at = time.monotonic() + RETRY_SECONDS[min(state.failures, len(RETRY_SECONDS) - 1)]
        state.failures += 1
        log.error("%s: %s", state.name, error)


def run_until(cycle: Cycle, stop: Callable[[], bool], report: Callable[[CycleResult], None]) -> None:
    """Repeat cycles, waking on data, until `stop()`; the cycle under way is finished first.

    Raises:
        GapError: every source has stopped and needs a person.
    """
    pause = cycle.settings.update_delay
    while not stop():
        report(cycle.run())
        if cycle.all_stopped:
            raise GapError("; ".join(cycle.problems.values()), "resolve it as each message says, then start again")
        until = time.monotonic() + pause
        while pause and not stop() and time.monotonic() < until:
            time.sleep(min(0.2, max(0.0, until - time.monotonic())))  # an update delay is a wait by definition
        if not pause:
            _wait_in_slices(cycle, stop)


def _wait_in_slices(cycle: Cycle, stop: Callable[[], bool]) -> None:
    for _ in range(5):
        if stop() or cycle.wait(0.2):
            return


def _sources(settings: Settings, lake: Lake) -> Iterator[Source]:
    if settings.postgres_dsn is not None:
        postgres = PostgresIngest(settings, lake)
        yield Source("postgres", postgres.step, postgres.capture, postgres.close, postgres.capture.be_patient)
    if settings.kafka_bootstrap_servers is not None:
        kafka = KafkaIngest(settings, lake)
        yield Source("kafka", lambda rows: kafka.step(rows, KAFKA_PATIENCE), kafka.capture, kafka.close)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = time.monotonic() - started
