"""One micro-batch cycle: capture (1), ingest (2), build (3), deliver (4).

Order and guarantee: rows are durable in bronze before they are acknowledged to their source; models commit what they
read with what they wrote; an alert is recorded before it is delivered. A cycle killed at any point is continued by the
next one, in this process or another.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fraud_lakehouse.alerts.delivery import Delivery, DeliveryReport
from fraud_lakehouse.alerts.times import AlertTimes
from fraud_lakehouse.detection.labels import LabelWriter
from fraud_lakehouse.detection.validator import judge_pending
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.ingest import Ingested
from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.live.ingesting import may_have_more
from fraud_lakehouse.live.problems import broken_models
from fraud_lakehouse.live.source import Source, is_of_source, sources
from fraud_lakehouse.pipeline import PipelineError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sinks.kafka.publisher import publish_features
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import progress
from fraud_lakehouse.storage.writer_lock import BESIDE, HOT, TURN_SECONDS, writer_lock
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from fraud_lakehouse.transform.runner import Transformer

log = logging.getLogger(__name__)

PROJECT_SECONDS = 2.0  # between two checks whether the project has changed
HOT_SECONDS = 30.0  # longest time between fast-path builds: a process may have ingested rows and died before building
FOLLOW_SECONDS = 1.0  # between two builds of the follow-up models; payments wait during such a build
BUSY_FOLLOW_SECONDS = 3.0  # the same while new rows keep coming
GIVE_WAY_SECONDS = 1.0  # between two builds of a standby, so that the running cycle can acquire the lock
DELIVER_SECONDS = 0.2  # between two polls for alerts to deliver while another process holds the lock
AFTER_FAILURE_SECONDS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class CycleResult:
    """Result of one cycle; seconds by step (capture, build, deliver, follow).

    `alert_seconds`: for alerts, from the source's commit to "landed", "scored", "recorded" and "delivered".
    `problems`: current problem by component (live/problems.py). `unscored`: bronze tables with rows that were not
    scored because a model that reads them failed.
    """

    ingested: list[Ingested] = field(default_factory=list)
    builds: list[BuildResult] = field(default_factory=list)
    delivery: DeliveryReport | None = None
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    alert_seconds: dict[str, list[float]] = field(default_factory=dict)
    behind: Mapping[str, Behind] = field(default_factory=dict)
    unscored: frozenset[str] = frozenset()

    @property
    def is_scored(self) -> bool:
        """Whether every row ingested before this cycle has been scored."""
        return bool(self.builds) and not self.unscored

    @property
    def has_rows(self) -> bool:
        """Whether rows were ingested, or written by a model."""
        return bool(self.ingested) or any(node.rows for build in self.builds for node in build.nodes)

    @property
    def rows(self) -> int:
        """Rows ingested into bronze."""
        return sum(batch.rows for batch in self.ingested)

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
        self.labels = LabelWriter(settings, self.lake)
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
        self._early = DeliveryReport()  # what was delivered while waiting for the lock
        self._deliver_due = 0.0

    def capture(
        self, errors: dict[str, BaseException] | None = None, only: Collection[str] | None = None
    ) -> list[Ingested]:
        """Ingest at most one micro-batch of each source, one after the other; a failing source does not stop others.

        Args:
            only: names of the sources to read; default: all.
            errors: receives each source's first error, after which the source is skipped; without it, the source is
                retried later.

        Raises:
            LakeError: the lake cannot be written.
        """
        ingested: list[Ingested] = []
        for source in self.sources:
            if (errors is not None and source.name in errors) or (only is not None and source.name not in only):
                continue
            try:
                ingested += source.land(self.settings.work_dir, self.settings.batch_rows, strict=errors is not None)
            except BaseException as error:
                if errors is None or not is_of_source(error):
                    raise
                log.error("%s: %s", source.name, error)  # noqa: TRY400  the caller raises it after the other sources
                errors[source.name] = error
        return ingested

    def run(self, ingested: Sequence[Ingested], *, is_shared: bool = False, wait: float = 0.0) -> CycleResult:
        """Score new rows, if there are any, and deliver alerts. Call `follow` afterwards.

        Args:
            landed: the batches ingested.
            is_shared: whether another process has ingested rows as well.
            wait: seconds to wait for the answers of alert destinations.
        """
        seconds: dict[str, float] = {}
        builds: list[BuildResult] = []
        self._alerts.is_stale |= bool(ingested) or is_shared
        if self._alerts.is_due:
            with _timed(seconds, "build"):
                builds.append(self._build_alerts(self._deliver))
        with _timed(seconds, "deliver"):
            delivery = self.delivery.deliver_pending(wait).after(self._early)
        self._early = DeliveryReport()
        times = self._alert_times.take() | ({"delivered": list(delivery.seconds)} if delivery.seconds else {})
        unscored = self._alerts.unread
        return CycleResult(list(ingested), builds, delivery, self.problems, seconds, times, unscored=unscored)

    def _build_alerts(self, meanwhile: Callable[[], None] = lambda: None) -> BuildResult:
        """Build the models that alerts depend on, under the fast path's lock; a failed model does not stop the others.

        Raises:
            TransformError: dbt cannot run, or the project is invalid and none was active before.
        """
        self._take_over_project()
        self._follow.is_stale = True
        return self._build(self._alerts, meanwhile)

    def follow(self, result: CycleResult, *, pause: float = 0.0) -> CycleResult:
        """Build the follow-up models if they are due; returns the result with their build added.

        Args:
            pause: seconds that must have passed since their last build.
        """
        if not self._follow.is_due or time.monotonic() < self._follow.built_at + pause:
            return result
        seconds: dict[str, float] = {}
        with _timed(seconds, "follow"):
            built = self._build(self._follow, self._deliver)
        builds = [*result.builds, built]
        return replace(result, builds=builds, seconds=result.seconds | seconds, problems=self.problems)

    def _build(self, part: _Part, meanwhile: Callable[[], None] = lambda: None) -> BuildResult:
        """Build one part of the fast path; `meanwhile` is called while another process holds the lock."""
        with writer_lock(self.settings.work_dir, TURN_SECONDS, HOT, meanwhile):
            # Features of new payments count declared labels; a stream's own are known only after its delay.
            if part is self._alerts:
                self.labels.write_declared()
            else:
                self.labels.write_of_streams()
            without = part.paused
            result = self.transformer.build_tier(part.tier, without=without)
        part.note(result, without)
        log_failures(result)
        return result

    def _deliver(self) -> None:
        """Deliver the alerts that another process (a standby or a batch run) records while it holds the lock."""
        progress()
        if time.monotonic() >= self._deliver_due:
            self._early = self.delivery.deliver_pending(0.0).after(self._early)
            self._deliver_due = time.monotonic() + DELIVER_SECONDS

    def warm_up(self) -> None:
        """Load what builds need into memory, and build once, so that the first micro-batch costs as much as any other.

        As much as possible runs without the lock, which the running cycle needs: a long history takes long to load.
        """
        self._take_over_project()
        self.transformer.warm_up()
        self._build_alerts()
        time.sleep(GIVE_WAY_SECONDS)
        self._build(self._follow)

    def catch_up(self, report: Callable[[CycleResult], None] = lambda result: None) -> None:
        """Run cycles until everything the sources had at the beginning is ingested; then build all layers and deliver.

        An error is raised after all work that does not depend on it; at once if no source can be captured.

        Raises:
            GapError, SourceError: a source failed; no row is lost.
            TransformError: a model failed, or the project is invalid.
            PublishError: features could not be published.
        """
        errors: dict[str, BaseException] = {}
        began = datetime.now(UTC)
        for number in itertools.count():
            seconds: dict[str, float] = {}
            with _timed(seconds, "capture"):
                ingested = self.capture(errors)
            if len(errors) == len(self.sources):
                raise next(iter(errors.values()))
            result = self.follow(self.run(ingested), pause=BUSY_FOLLOW_SECONDS if ingested else 0.0)
            report(CycleResult(result.ingested, result.builds, result.delivery, {}, seconds | result.seconds))
            # The first batch may be a snapshot, which does not show how much log follows it.
            if not ingested or (number and not may_have_more(ingested, began, self.settings.batch_rows)):
                break
        self.transformer.reload()
        # One lock at a time, and no tests under the fast path's lock: a live cycle's alerts would wait for them.
        built = []
        for part in (self._alerts, self._follow):
            part.due = 0.0
            built.append(self._build(part, self._deliver))
        judged = judge_pending(self.settings, self.lake)
        if judged.problem is not None:
            log.warning("%d transfers wait for the validator: %s", judged.waiting, judged.problem)
        self.transformer.close()  # frees the memory of the fast path's state for the deferred models
        with writer_lock(self.settings.work_dir, TURN_SECONDS, BESIDE, self._deliver):
            built.append(self.transformer.build_tier("rest"))
        log_failures(self.transformer.build_tier("hot_tests"))
        while (sent := self.delivery.deliver_pending(wait=10.0)).pending and (sent.delivered or sent.digested):
            pass  # a delivery round does not include alerts recorded after it began: run another
        publish_features(self.settings, self.lake)
        for error in errors.values():
            raise error
        for build in built:
            build.raise_for_errors()

    @property
    def problems(self) -> dict[str, str]:
        """Current problem by component: a source that delivers nothing, a model that cannot be built, a rule."""
        sources = {source.name: source.problem for source in self.sources if source.problem}
        rules = {f"rule {name}": why for name, why in self.transformer.mistakes.items()}
        labels = {f"labels of {name}": why for name, why in self.labels.problems.items()}
        return {
            **sources,
            **rules,
            **labels,
            **broken_models([*self._alerts.failed.values(), *self._follow.failed.values()]),
        }

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
        """Use a changed dbt project once the background worker has validated it; the first one is validated here."""
        if time.monotonic() >= self._project_due:
            if self.transformer.follow():
                with suppress(PipelineError):  # changed again since it was checked: it is reported there
                    self.labels.reload()
                self._alerts.due = self._follow.due = 0.0  # the change may have corrected the failed models
            self._project_due = time.monotonic() + PROJECT_SECONDS


@dataclass
class _Part:
    """Build state of one part of the fast path: whether new rows wait, when it was built, what failed, how often.

    Failed models are built again when `due`; until then, the part is built without them as rows come.
    """

    tier: str
    is_stale: bool = True
    built_at: float = 0.0
    due: float = 0.0
    failures: int = 0
    failed: dict[str, NodeResult] = field(default_factory=dict)

    @property
    def is_due(self) -> bool:
        """Whether this part should be built now."""
        return self.is_stale or time.monotonic() >= self.due

    @property
    def paused(self) -> list[str]:
        """Ids of the failed models that wait for their next attempt."""
        failed = [model for model, node in self.failed.items() if node.status == "error"]
        return failed if time.monotonic() < self.due else []

    @property
    def unread(self) -> frozenset[str]:
        """Bronze tables with rows that failed models have not read."""
        return frozenset(table for node in self.failed.values() for table in node.sources)

    def note(self, result: BuildResult, without: Collection[str]) -> None:
        """Record a build `without` the paused models."""
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
    """Log one line for each failed node."""
    for node in result.failed:
        log.error("%s %s: %s", node.name, node.status, node.message)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = time.monotonic() - started
