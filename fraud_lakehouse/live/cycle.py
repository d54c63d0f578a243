"""One micro-batch cycle: capture (1), land (2), build (3), deliver (4).

Order and guarantee: rows are durable in bronze before their source is told so; models commit what they read
with what they wrote; an alert is recorded before it is delivered. A cycle killed anywhere is continued by
the next one, in this process or another.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fraud_lakehouse.alerts.delivery import Delivery, DeliveryReport
from fraud_lakehouse.alerts.times import AlertTimes
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.ingest import Landed
from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.live.ingesting import may_have_more
from fraud_lakehouse.live.problems import broken_models
from fraud_lakehouse.live.source import Source, is_of_source, sources
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sinks.kafka.publisher import publish_features
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import progress
from fraud_lakehouse.storage.writer_lock import BESIDE, HOT, TURN_SECONDS, writer_lock
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from fraud_lakehouse.transform.runner import Transformer

log = logging.getLogger(__name__)

PROJECT_SECONDS = 2.0  # between two looks whether the project has changed
HOT_SECONDS = 30.0  # a hot build at least this often: another process may have landed rows and died before building
FOLLOW_SECONDS = 1.0  # from one build of the models after the alerts to the next, which payments wait for
BUSY_FOLLOW_SECONDS = 3.0  # the same while there are always new rows to score
GIVE_WAY_SECONDS = 1.0  # between two builds of a standby: the cycle builds what has waited for the turn
DELIVER_SECONDS = 0.2  # between two looks for alerts to deliver while another process has the turn
AFTER_FAILURE_SECONDS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class CycleResult:
    """What one cycle did; seconds by step (capture, build, deliver, follow).

    `alert_seconds`: of alerts, from the source's commit until "landed", "scored", "recorded" and "delivered".
    `problems`: what is wrong now, by part (live/problems.py). `unscored`: bronze tables with rows that were not scored,
    because a model that reads them failed.
    """

    landed: list[Landed] = field(default_factory=list)
    builds: list[BuildResult] = field(default_factory=list)
    delivery: DeliveryReport | None = None
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    alert_seconds: dict[str, list[float]] = field(default_factory=dict)
    behind: Mapping[str, Behind] = field(default_factory=dict)
    unscored: frozenset[str] = frozenset()

    @property
    def is_scored(self) -> bool:
        """Whether every row landed before it has been scored."""
        return bool(self.builds) and not self.unscored

    @property
    def has_rows(self) -> bool:
        """Whether rows were landed, or written by a model."""
        return bool(self.landed) or any(node.rows for build in self.builds for node in build.nodes)

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
        self._alert_times = AlertTimes(self.lake)
        self.sources: Sequence[Source] = sources(settings, self.lake)
        if not self.sources:
            raise SettingsError(
                "no source is configured",
                "set FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS or both (see .env.example), or try `make demo`",
            )
        self._alerts, self._follow = _Part("alerts"), _Part("follow")
        self._project_due = 0.0
        self._early = DeliveryReport()  # what was delivered while the turn was waited for
        self._deliver_due = 0.0

    def capture(
        self, errors: dict[str, BaseException] | None = None, only: Collection[str] | None = None
    ) -> list[Landed]:
        """Land at most one micro-batch of each source, one after the other; none waits for one that fails.

        Args:
            only: names of these sources; default: all.
            errors: takes each source's first error, after which it is left alone; without, it is asked again later.

        Raises:
            LakeError: the lake cannot be written.
        """
        landed: list[Landed] = []
        for source in self.sources:
            if (errors is not None and source.name in errors) or (only is not None and source.name not in only):
                continue
            try:
                landed += source.land(self.settings.work_dir, self.settings.batch_rows, strict=errors is not None)
            except BaseException as error:
                if errors is None or not is_of_source(error):
                    raise
                log.error("%s: %s", source.name, error)  # noqa: TRY400  it is raised when the others are done
                errors[source.name] = error
        return landed

    def run(self, landed: Sequence[Landed], *, is_shared: bool = False, wait: float = 0.0) -> CycleResult:
        """What follows rows landed in bronze: scoring them if there are new ones, and the alerts. Then call `follow`.

        Args:
            landed: the batches.
            is_shared: another process has landed some as well.
            wait: seconds to wait for the answers of alert destinations.
        """
        seconds: dict[str, float] = {}
        builds: list[BuildResult] = []
        self._alerts.is_stale |= bool(landed) or is_shared
        if self._alerts.is_due:
            with _timed(seconds, "build"):
                builds.append(self._build_alerts(self._deliver))
        with _timed(seconds, "deliver"):
            delivery = self.delivery.deliver_pending(wait).after(self._early)
        self._early = DeliveryReport()
        times = self._alert_times.take() | ({"delivered": list(delivery.seconds)} if delivery.seconds else {})
        unscored = self._alerts.unread
        return CycleResult(list(landed), builds, delivery, self.problems, seconds, times, unscored=unscored)

    def _build_alerts(self, meanwhile: Callable[[], None] = lambda: None) -> BuildResult:
        """Build what alerts are made from, in the hot lane's turn; the others do not wait for models that failed.

        Raises:
            TransformError: dbt cannot run, or the project is refused and none was accepted before.
        """
        self._take_over_project()
        self._follow.is_stale = True
        return self._build(self._alerts, meanwhile)

    def follow(self, result: CycleResult, *, pause: float = 0.0) -> CycleResult:
        """After the alerts: the other models of the hot lane, if they are due; returns the result with their build.

        Args:
            pause: seconds that must have passed since they were built last.
        """
        if not self._follow.is_due or time.monotonic() < self._follow.built_at + pause:
            return result
        seconds: dict[str, float] = {}
        with _timed(seconds, "follow"):
            built = self._build(self._follow, self._deliver)
        builds = [*result.builds, built]
        return replace(result, builds=builds, seconds=result.seconds | seconds, problems=self.problems)

    def _build(self, part: _Part, meanwhile: Callable[[], None] = lambda: None) -> BuildResult:
        """Build a part of the hot lane; `meanwhile` is called while another process has the turn."""
        with writer_lock(self.settings.work_dir, TURN_SECONDS, HOT, meanwhile):
            without = part.paused
            result = self.transformer.build_lane(part.lane, without=without)
        part.note(result, without)
        log_failures(result)
        return result

    def _deliver(self) -> None:
        """Deliver what another process records in its turn: a standby that warms up, a run."""
        progress()
        if time.monotonic() >= self._deliver_due:
            self._early = self.delivery.deliver_pending(0.0).after(self._early)
            self._deliver_due = time.monotonic() + DELIVER_SECONDS

    def warm_up(self) -> None:
        """Read what builds need into memory, and build, so that the first micro-batch costs what any other does.

        As much as possible without the turn, which the cycle that runs meanwhile needs: much history takes long.
        """
        self._take_over_project()
        self.transformer.warm_up()
        self._build_alerts()
        time.sleep(GIVE_WAY_SECONDS)
        self._build(self._follow)

    def catch_up(self, report: Callable[[CycleResult], None] = lambda result: None) -> None:
        """Run cycles until all that the sources had at the beginning is ingested, then build all layers and deliver.

        What fails is raised when everything that does not need it is done; at once where no source can be captured.

        Raises:
            GapError, SourceError: of a source; nothing is lost by it.
            TransformError: a model failed, or the project is refused.
            PublishError: features could not be published.
        """
        errors: dict[str, BaseException] = {}
        began = datetime.now(UTC)
        for number in itertools.count():
            seconds: dict[str, float] = {}
            with _timed(seconds, "capture"):
                landed = self.capture(errors)
            if len(errors) == len(self.sources):
                raise next(iter(errors.values()))
            result = self.follow(self.run(landed), pause=BUSY_FOLLOW_SECONDS if landed else 0.0)
            report(CycleResult(result.landed, result.builds, result.delivery, {}, seconds | result.seconds))
            # The first may be a snapshot, which says nothing of the log behind it.
            if not landed or (number and not may_have_more(landed, began, self.settings.batch_rows)):
                break
        self.transformer.reload()
        # One turn at a time, and in the hot one no test: the alerts of a live cycle beside wait for it.
        built = []
        for part in (self._alerts, self._follow):
            part.due = 0.0
            built.append(self._build(part, self._deliver))
        self.transformer.close()  # what alerts need in memory: the other models need the room
        with writer_lock(self.settings.work_dir, TURN_SECONDS, BESIDE, self._deliver):
            built.append(self.transformer.build_lane("rest"))
        log_failures(self.transformer.build_lane("hot_tests"))
        while (told := self.delivery.deliver_pending(wait=10.0)).pending and (told.delivered or told.digested):
            pass  # a round that was under way took none of the newest: they are the next round's
        publish_features(self.settings, self.lake)
        for error in errors.values():
            raise error
        for build in built:
            build.raise_for_errors()

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong at the moment, by part: a source that gives nothing, a model that cannot be built, a rule."""
        sources = {source.name: source.problem for source in self.sources if source.problem}
        rules = {f"rule {name}": why for name, why in self.transformer.mistakes.items()}
        return {**sources, **rules, **broken_models([*self._alerts.failed.values(), *self._follow.failed.values()])}

    def close(self) -> None:
        """Close connections and remove scratch files."""
        for source in self.sources:
            source.ingest.close()
        self.delivery.close()
        self.transformer.close()

    def __enter__(self) -> Cycle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_over_project(self) -> None:
        """Use a changed dbt project once the process beside has accepted it; the first one is accepted here."""
        if time.monotonic() >= self._project_due:
            if self.transformer.follow():
                self._alerts.due = self._follow.due = 0.0  # it may have what failed corrected
            self._project_due = time.monotonic() + PROJECT_SECONDS


@dataclass
class _Part:
    """A part of the hot lane: whether there are new rows for it, when it was built, what failed, how often in a row.

    Models that failed are built again when `due`; until then the part is built without them, as rows come.
    """

    lane: str
    is_stale: bool = True
    built_at: float = 0.0
    due: float = 0.0
    failures: int = 0
    failed: dict[str, NodeResult] = field(default_factory=dict)

    @property
    def is_due(self) -> bool:
        """Whether it is to be built now."""
        return self.is_stale or time.monotonic() >= self.due

    @property
    def paused(self) -> list[str]:
        """Ids of the models that failed and whose pause is not over."""
        failed = [model for model, node in self.failed.items() if node.status == "error"]
        return failed if time.monotonic() < self.due else []

    @property
    def unread(self) -> frozenset[str]:
        """The bronze tables that models which failed have not read."""
        return frozenset(table for node in self.failed.values() for table in node.sources)

    def note(self, result: BuildResult, without: Collection[str]) -> None:
        """It was built, `without` the models that were paused."""
        self.is_stale = False
        self.built_at = time.monotonic()
        failed = {node.unique_id: node for node in result.failed_models}
        if without and not failed:
            return
        self.failed = {**(self.failed if without else {}), **failed}
        self.failures = self.failures + 1 if self.failed else 0
        pauses = (HOT_SECONDS, *AFTER_FAILURE_SECONDS)
        self.due = self.built_at + pauses[min(self.failures, len(pauses) - 1)]


def log_failures(result: BuildResult) -> None:
    """A line for each node that is not well."""
    for node in result.failed:
        log.error("%s %s: %s", node.name, node.status, node.message)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = time.monotonic() - started
