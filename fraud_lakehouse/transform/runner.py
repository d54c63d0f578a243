"""The transformer of a lake: its dbt project, compiled, and the executor that builds it. Both stay warm."""

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
from fraud_lakehouse.transform.lanes import UNTESTED, models_of
from fraud_lakehouse.transform.project import Preparation, PreparedProject
from fraud_lakehouse.transform.rendering import document, render
from fraud_lakehouse.transform.rulebook import RuleBook

if TYPE_CHECKING:
    from collections.abc import Collection

    from fraud_lakehouse.settings import Settings

log = logging.getLogger(__name__)


class Transformer:
    """Builds models of the dbt project over one lake. Not for several threads at once.

    Args:
        shipped: the dbt project to run; default: the one that came with the package.
    """

    def __init__(self, settings: Settings, shipped: Path | None = None) -> None:
        self.settings = settings
        self._preparation = Preparation(settings, shipped)
        self._project: PreparedProject | None = None
        self._compiled = CompiledProject()
        self._open: Executor | None = None
        self._is_noted = False  # whether the project in use is known as the one this lake is built by
        self._refused: tuple[PreparedProject, TransformError] | None = None
        self._rendered: dict[str, str] = {}

    @property
    def project(self) -> PreparedProject:
        """The prepared project in use."""
        if self._project is None:
            self.reload()
        assert self._project is not None
        return self._project

    @property
    def compiled(self) -> CompiledProject:
        """The project in use, compiled."""
        if self._project is None:
            self.reload()
        return self._compiled

    @property
    def is_ready(self) -> bool:
        """Whether there is a project to build."""
        return self._project is not None

    def reload(self) -> bool:
        """Take over a changed project or newly captured tables, preparing it if need be; whether anything changed.

        Raises:
            TransformError: the changed project does not compile, or a model of it cannot run; the one in use stays. The
                same one is not compiled again. A process that has none yet takes the one that was in use last.
            LakeError: there is no room for it; likewise.
        """
        try:
            prepared = self._prepared()
        except (TransformError, LakeError):
            if not self.is_ready and (before := self._preparation.last_used()) is not None:
                self._take_over(before)
            raise
        return prepared != self._project and self._take_over(prepared)

    def follow(self) -> bool:
        """Take over a changed project that another process has prepared; whether it is another than before.

        A process that has none yet prepares the one it finds, or goes on with the one that was in use last.

        Raises:
            TransformError, LakeError: the one found is refused, or has no room, and none was in use before.
        """
        if not self.is_ready:
            try:
                return self.reload()
            except (TransformError, LakeError) as error:
                if self._project is None:  # not `is_ready`, of which mypy believes what it was before
                    raise
                log.error("%s; the models in use before stay in use", error)  # noqa: TRY400  its text says it all
                return True
        try:
            planned = self._preparation.planned()
        except TransformError:
            return False  # whoever prepares it says why
        return planned.is_prepared and planned != self._project and self._take_over(planned)

    def names(self, lane: str) -> list[str]:
        """Names of the models of a lane."""
        return [model.name for model in models_of(self.compiled, lane)]

    def build_lane(self, lane: str, *, full_refresh: bool = False, without: Collection[str] = ()) -> BuildResult:
        """Build a lane: "hot", "features", "replica", "rest" (all but hot) or "all". The hot lane runs no tests.

        "alerts" and "follow" are its parts: what alerts are made from, and what is written after them. "hot_tests" are
        its tests: they read only, so they need no turn.

        Args:
            without: unique ids of models that failed before: they are left out, with those that read nothing else.
        """
        if lane == "hot_tests":
            return self.test(self.names("hot"))
        models = models_of(self.compiled, lane)
        return self._build(models, tests=lane not in UNTESTED, full_refresh=full_refresh, left_out=without)

    def build(self, names: Collection[str], *, full_refresh: bool = False, tests: bool = True) -> BuildResult:
        """Build the models of these names, and run their data tests. A failing model or test is a result, no error.

        Raises:
            TransformError: there is no model of one of the names, or the project is refused.
        """
        return self._build(self._named(names), tests=tests, full_refresh=full_refresh)

    def test(self, names: Collection[str]) -> BuildResult:
        """Run the data tests of the models of these names.

        Raises:
            TransformError: there is no model of one of the names, or the project is refused.
        """
        began = time.monotonic()
        nodes = run_tests(self._executor, self.compiled.tests_of(self._named(names)))
        return BuildResult(nodes, time.monotonic() - began)

    def warm_up(self, names: Collection[str] | None = None) -> None:
        """Read into memory what builds from new rows need of the past, so that the first one takes less of a turn.

        Args:
            names: of models; default: those of the hot lane.
        """
        for model in models_of(self.compiled, "hot") if names is None else self._named(names):
            try:
                if model.is_stored:
                    self._executor.warm(model)
            except (TransformError, duckdb.Error) as error:
                log.info("%s is not warmed up: %s", model.name, error)  # its build says it by model

    def rendered(self, text: str) -> str:
        """The SQL that a template of macros stands for; nothing is run or written.

        Raises:
            TransformError: dbt cannot render it; the message is dbt's.
        """
        if text not in self._rendered:
            self._rendered[text] = render(self.project, self.settings, text)
        return self._rendered[text]

    def documentation(self, folder: Path) -> Path:
        """Have dbt write its static documentation page to a folder; answers the page's path.

        Raises:
            TransformError: dbt failed.
        """
        return document(self.project, self.settings, folder)

    @property
    def mistakes(self) -> dict[str, str]:
        """What is wrong with rules that are not evaluated because of it, by the rule's name."""
        return self._open.rules.mistakes if self._open is not None else {}

    def close(self) -> None:
        """Give back all memory."""
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
        self, models: list[Model], *, tests: bool, full_refresh: bool, left_out: Collection[str] = ()
    ) -> BuildResult:
        began = time.monotonic()
        self._executor.rules.refresh()
        if not self._is_noted:
            self._preparation.note_used(self.project)
            self._is_noted = True
        nodes = build_models(self._executor, self.compiled, models, full_refresh=full_refresh, left_out=left_out)
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
            return False  # cleared away just now: it is prepared again
        self._project = prepared
        self._is_noted = False
        self._rendered.clear()
        if self._open is not None:
            self._open.use(self._compiled)
        return True

    def _prepared(self) -> PreparedProject:
        """The project as it is now, compiled; one that was refused is not compiled again."""
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
