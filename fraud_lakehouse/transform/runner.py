"""The transformer of a lake: its compiled dbt project, and the executor that builds it. Both stay in memory."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from fraud_lakehouse.errors import LakeError, TransformError
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.build import build_models, run_tests
from fraud_lakehouse.transform.build_result import BuildResult
from fraud_lakehouse.transform.compiled import CompiledProject, Model
from fraud_lakehouse.transform.engine import SESSION, options
from fraud_lakehouse.transform.executor import Executor
from fraud_lakehouse.transform.project import Preparation, PreparedProject
from fraud_lakehouse.transform.rendering import document, render
from fraud_lakehouse.transform.rulebook import RuleBook
from fraud_lakehouse.transform.tiers import ALERTS, UNTESTED, models_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from fraud_lakehouse.settings import Settings

log = logging.getLogger(__name__)

STREAM_THREADS = 2  # the models of two streams are built at once, so that alerts wait for one stream less


class Transformer:
    """Builds models of the dbt project over one lake. Not thread-safe.

    Args:
        shipped: the dbt project to run; default: the one shipped with the package.
    """

    def __init__(self, settings: Settings, shipped: Path | None = None) -> None:
        self.settings = settings
        self._preparation = Preparation(settings, shipped)
        self._project: PreparedProject | None = None
        self._compiled = CompiledProject()
        self._open: Executor | None = None
        self._is_noted = False  # whether the active project is recorded as the one that builds this lake
        self._refused: tuple[PreparedProject, TransformError] | None = None
        self._rendered: dict[str, str] = {}

    @property
    def project(self) -> PreparedProject:
        """The active prepared project."""
        if self._project is None:
            self.reload()
        assert self._project is not None
        return self._project

    @property
    def compiled(self) -> CompiledProject:
        """The active project, compiled."""
        if self._project is None:
            self.reload()
        return self._compiled

    @property
    def is_ready(self) -> bool:
        """Whether there is a project to build."""
        return self._project is not None

    def reload(self) -> bool:
        """Activate a changed project or new captured tables, preparing them if needed; returns whether it changed.

        Raises:
            TransformError: the changed project does not compile, or a model of it cannot run. The active project stays;
                the same change is not compiled again. A process without a project uses the one that was active last.
            LakeError: the disk is full; likewise.
        """
        try:
            prepared = self._prepared()
        except (TransformError, LakeError):
            if not self.is_ready and (before := self._preparation.last_used()) is not None:
                self._take_over(before)
            raise
        return prepared != self._project and self._take_over(prepared)

    def follow(self) -> bool:
        """Activate a changed project that another process has prepared; returns whether it differs.

        A process without a project prepares the current one, or uses the one that was active last.

        Raises:
            TransformError, LakeError: the current one is rejected, or the disk is full, and none was active before.
        """
        if not self.is_ready:
            try:
                return self.reload()
            except (TransformError, LakeError) as error:
                if self._project is None:  # not `is_ready`: mypy assumes its earlier value
                    raise
                log.error("%s; the previous models stay active", error)  # noqa: TRY400  its text says it all
                return True
        try:
            planned = self._preparation.planned()
        except TransformError:
            return False  # the process that prepares it reports why
        return planned.is_prepared and planned != self._project and self._take_over(planned)

    def names(self, tier: str) -> list[str]:
        """Names of the models of a tier."""
        return [model.name for model in models_of(self.compiled, tier)]

    def build_tier(self, tier: str, *, full_refresh: bool = False, without: Collection[str] = ()) -> BuildResult:
        """Build a tier: "hot" (the fast path), "features", "replica", "rest" (all but hot) or "all".

        "alerts" and "follow" are parts of "hot": the alerts with all they read, and the follow-up models. These three
        run no tests. "hot_tests" runs the tests of "hot"; they only read, so they need no lock.

        Args:
            without: unique ids of models that failed before. They are left out, as are models that read only them.
        """
        if tier == "hot_tests":
            return self.test(self.names("hot"))
        models = models_of(self.compiled, tier)
        threads = STREAM_THREADS if tier == ALERTS and not full_refresh else 1
        tests = tier not in UNTESTED
        return self._build(models, tests=tests, full_refresh=full_refresh, left_out=without, threads=threads)

    def build(self, names: Collection[str], *, full_refresh: bool = False, tests: bool = True) -> BuildResult:
        """Build the models of these names, and run their tests. A failing model or test is a result, not an exception.

        Raises:
            TransformError: a name has no model, or the project is rejected.
        """
        return self._build(self._named(names), tests=tests, full_refresh=full_refresh)

    def test(self, names: Collection[str]) -> BuildResult:
        """Run the data tests of the models of these names.

        Raises:
            TransformError: a name has no model, or the project is rejected.
        """
        began = time.monotonic()
        nodes = run_tests(self._executor, self.compiled.tests_of(self._named(names)))
        return BuildResult(nodes, time.monotonic() - began)

    def warm_up(self, names: Collection[str] | None = None) -> None:
        """Cache the past rows that incremental builds need, so that the first build holds the lock for a shorter time.

        Args:
            names: of models; default: those of the fast path.
        """
        for model in models_of(self.compiled, "hot") if names is None else self._named(names):
            try:
                if model.is_stored:
                    self._executor.warm(model)
            except (TransformError, duckdb.Error) as error:
                log.info("%s is not warmed up: %s", model.name, error)  # its build reports the error

    def rendered(self, text: str) -> str:
        """Render a template of macros as SQL; nothing is run or written.

        Raises:
            TransformError: dbt cannot render it; the message is dbt's.
        """
        if text not in self._rendered:
            self._rendered[text] = render(self.project, self.settings, text)
        return self._rendered[text]

    def documentation(self, folder: Path) -> Path:
        """Have dbt write its static documentation page to a folder; returns the page's path.

        Raises:
            TransformError: dbt failed.
        """
        return document(self.project, self.settings, folder)

    @property
    def mistakes(self) -> dict[str, str]:
        """Errors in rules that are not evaluated because of them, by the rule's name."""
        return self._open.rules.mistakes if self._open is not None else {}

    def close(self) -> None:
        """Release all memory."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _executor(self) -> Executor:
        if self._open is None:
            lake = Lake.at(self.settings.lake)
            connection = duckdb.connect(":memory:", config=options(self.settings, lake))
            for name, value in SESSION.items():
                connection.execute(f"set {name} = '{value}'")
            rules = RuleBook(self._preparation.pipeline, self.settings.max_amount)
            self._open = Executor(lake, connection, rules)
            self._open.use(self.compiled)
        return self._open

    def _build(
        self,
        models: list[Model],
        *,
        tests: bool,
        full_refresh: bool,
        left_out: Collection[str] = (),
        threads: int = 1,
    ) -> BuildResult:
        began = time.monotonic()
        self._executor.rules.refresh()
        if not self._is_noted:
            self._preparation.note_used(self.project)
            self._is_noted = True
        nodes = build_models(
            self._executor, self.compiled, models, full_refresh=full_refresh, left_out=left_out, threads=threads
        )
        if tests:
            nodes += run_tests(self._executor, self.compiled.tests_of(models))
        return BuildResult(nodes, time.monotonic() - began)

    def _named(self, names: Collection[str]) -> list[Model]:
        found = self.compiled.named(names)
        if unknown := set(names) - {model.name for model in found}:
            raise TransformError(f"there is no model {', '.join(sorted(unknown))}", "see the models of the dbt project")
        return found

    def _take_over(self, prepared: PreparedProject) -> bool:
        try:
            self._compiled = CompiledProject.load(prepared.compiled_path)
        except FileNotFoundError:
            return False  # just removed: it is prepared again
        self._project = prepared
        self._is_noted = False
        self._rendered.clear()
        if self._open is not None:
            self._open.use(self._compiled)
        return True

    def _prepared(self) -> PreparedProject:
        """The current project, compiled; a rejected one is not compiled again."""
        planned = self._preparation.planned()
        if self._refused is not None and self._refused[0] == planned:
            raise self._refused[1]
        if planned.is_prepared:
            return planned
        try:
            return self._preparation.prepare()
        except TransformError as error:
            self._refused = planned, error
            raise
