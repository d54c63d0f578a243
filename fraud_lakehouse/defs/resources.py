"""What a run works with: the settings, the lake, and components that are opened on first use, once per run.

The components' factories are values (`Parts`), so that tests can pass their own. Nothing is opened at import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

from fraud_lakehouse.defs.positions import NewData, new_data
from fraud_lakehouse.defs.run_lock import hold_lock
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.configured import SourceConfig, configured_sources
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import Lease, LeaseLostError
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, writer_lock

if TYPE_CHECKING:
    from fraud_lakehouse.checks.open_transactions import TransactionHealth
    from fraud_lakehouse.checks.slot_health import SlotHealth
    from fraud_lakehouse.ingest import Ingested
    from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
    from fraud_lakehouse.live import CycleResult
    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.sinks.kafka.publisher import Published
    from fraud_lakehouse.transform.build_result import BuildResult


KAFKA_PATIENCE = 0.5  # seconds a step waits for the first record before it treats the topic as drained


@dataclass(frozen=True)
class Ingest:
    """One source tied to the lake: `step(max_rows)` ingests one micro-batch; it is empty if the source is drained."""

    step: Callable[[int], Sequence[Ingested]]
    close: Callable[[], None]


class Builder(Protocol):
    """Interface of what builds models (`Transformer`)."""

    def names(self, tier: str) -> list[str]:
        """Names of the models of a tier."""

    def warm_up(self, names: Collection[str]) -> None:
        """Do the part of a build of these models that needs no lock."""

    def build(self, names: Collection[str], *, tests: bool = True) -> BuildResult:
        """Build these models and, with `tests`, run their data tests."""

    def test(self, names: Collection[str]) -> BuildResult:
        """Run the data tests of these models."""


def _ingest(config: SourceConfig, settings: Settings, lake: Lake) -> Ingest:
    from fraud_lakehouse.ingest import KafkaIngest, open_ingest
    from fraud_lakehouse.transform.project import current_windows

    ingest = open_ingest(config, settings, lake, partial(current_windows, settings))
    if isinstance(ingest, KafkaIngest):
        return Ingest(lambda rows: ingest.step(rows, KAFKA_PATIENCE), ingest.close)
    return Ingest(ingest.step, ingest.close)


def _builder(settings: Settings) -> Builder:
    from fraud_lakehouse.transform.runner import Transformer

    return Transformer(settings)


def _repeat(
    settings: Settings, stop: Callable[[], bool], is_over: Callable[[], bool], report: Callable[[CycleResult], None]
) -> None:
    from fraud_lakehouse.live import run_live

    run_live(settings, stop, report, is_over=is_over)


def _publish(settings: Settings, lake: Lake) -> Sequence[Published]:
    from fraud_lakehouse.sinks.kafka.publisher import publish_features

    return publish_features(settings, lake)


def _slot_health(config: PostgresConfig, settings: Settings) -> SlotHealth:
    from fraud_lakehouse.checks.slot_health import assess
    from fraud_lakehouse.ingest.operator_actions import awaited_position
    from fraud_lakehouse.ingest.postgres import open_capture

    lake, allowed = Lake.at(settings.lake), settings.slot_retained_bytes
    with config.named(), open_capture(settings, lake, config) as capture:
        capture.set_blocking(False)
        found = capture.retention()
        while not found.exists:
            awaited = awaited_position(lake, config.name, capture.app_id)
            found = capture.retention()
            # A resync records its start before it drops and recreates the slot; otherwise the slot is lost.
            if not found.exists and awaited_position(lake, config.name, capture.app_id) == awaited:
                return assess(found, allowed, awaited)
        return assess(found, allowed, None)


def _open_transactions(config: TopicConfig, settings: Settings) -> Sequence[TransactionHealth]:
    from fraud_lakehouse.checks.open_transactions import current_transactions

    return current_transactions(config, settings)


def _ineligible(config: PostgresConfig, settings: Settings) -> Sequence[IneligibleTable]:
    from fraud_lakehouse.ingest.ineligible_tables import ineligible_tables
    from fraud_lakehouse.ingest.postgres import open_capture

    lake = Lake.at(settings.lake)
    with config.named(), open_capture(settings, lake, config) as capture:
        capture.set_blocking(False)
        capture.tables()
        return ineligible_tables(lake, capture)


Repeat = Callable[["Settings", Callable[[], bool], Callable[[], bool], Callable[["CycleResult"], None]], None]


@dataclass(frozen=True)
class Parts:
    """Factories of the components; the defaults are the product's."""

    ingest: Callable[[SourceConfig, Settings, Lake], Ingest] = field(default=_ingest)
    builder: Callable[[Settings], Builder] = field(default=_builder)
    repeat: Repeat = field(default=_repeat)
    poll: Callable[[SourceConfig, Settings], NewData | None] = field(default=new_data)
    slot: Callable[[PostgresConfig, Settings], SlotHealth] = field(default=_slot_health)
    transactions: Callable[[TopicConfig, Settings], Sequence[TransactionHealth]] = field(default=_open_transactions)
    tables: Callable[[PostgresConfig, Settings], Sequence[IneligibleTable]] = field(default=_ineligible)
    publish: Callable[[Settings, Lake], Sequence[Published]] = field(default=_publish)


@dataclass
class Lakehouse:
    """A run's access to the product. The steps of a run share the components (all run in one process).

    Args:
        lease: the run's lock, if it has one.
    """

    settings: Settings
    parts: Parts
    lease: Lease | None = None
    _opened: dict[str, Any] = field(default_factory=dict)
    _exit: ExitStack = field(default_factory=ExitStack)

    @property
    def lake(self) -> Lake:
        """The lake of the settings."""
        return Lake.at(self.settings.lake)

    def ingest(self, source: str) -> Ingest:
        """A configured source tied to the lake, by its name."""
        config = configured_sources(self.settings)[source]
        return self._once(source, lambda: self.parts.ingest(config, self.settings, self.lake))  # type: ignore[no-any-return]

    def builder(self) -> Builder:
        """The builder of models, opened on first use."""
        return self._once("builder", lambda: self.parts.builder(self.settings))  # type: ignore[no-any-return]

    def repeat(
        self, stop: Callable[[], bool], is_over: Callable[[], bool], report: Callable[[CycleResult], None]
    ) -> None:
        """Repeat the micro-batch cycle until `stop()`, or until `is_over()` and a successor waits.

        `report` is called with the result of each cycle.

        Raises:
            LeaseLostError: the run did not respond for a while and was replaced.
        """
        self.parts.repeat(self.settings, lambda: stop() or self._is_given_up, is_over, report)
        self._check_lease()

    @contextmanager
    def writing(self, part: str) -> Iterator[None]:
        """Hold the lock of a part of the work (a source, HOT or BESIDE), which the live run holds for each batch too.

        Raises:
            LeaseLostError: the run did not respond for a while and was replaced.
            ConcurrentWriterError: another process held the lock for TURN_SECONDS.
        """
        self._check_lease()
        with writer_lock(self.settings.work_dir, TURN_SECONDS, part):
            yield

    @property
    def _is_given_up(self) -> bool:
        return self.lease is not None and not self.lease.is_ours

    def _check_lease(self) -> None:
        if self._is_given_up:
            raise LeaseLostError("the process of this run")

    def close(self) -> None:
        """Close what was opened, newest first."""
        self._opened.clear()
        self._exit.close()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._opened:
            self._opened[name] = part = make()
            if close := getattr(part, "close", None):
                self._exit.callback(close)
        return self._opened[name]


def lakehouse_resource(settings: Settings, parts: Parts) -> dg.ResourceDefinition:
    """The resource `lakehouse`: one `Lakehouse` per run, closed with it."""

    @dg.resource(description="Settings, lake and components of one run.")
    def lakehouse(context: dg.InitResourceContext) -> Iterator[Lakehouse]:
        lease = hold_lock(settings, context.run.run_id) if context.run else None
        handle = Lakehouse(settings, parts, lease)
        try:
            yield handle
        finally:
            handle.close()

    return lakehouse


@contextmanager
def stated_failures() -> Iterator[None]:
    """Raise an error that a person can act on as a step failure that says what to do.

    Raises:
        dagster.Failure: instead of any LakehouseError; retrying the step would not help.
    """
    try:
        yield
    except LakehouseError as error:
        raise dg.Failure(
            error.problem, metadata={"kind": type(error).__name__, "what to do": error.fix or "-"}, allow_retries=False
        ) from error
