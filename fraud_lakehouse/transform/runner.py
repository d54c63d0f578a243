"""dbt kept warm in this process: imports and manifest once, then a build costs what its SQL costs."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud_lakehouse.errors import LakeError, TransformError
from fraud_lakehouse.transform.accepted import Accepted
from fraud_lakehouse.transform.build_result import (
    BuildResult,
    NodeResult,
    committed,
    failed_view,
    node_result,
    raise_for_errors,
    reason,
)
from fraud_lakehouse.transform.isolation import Graph
from fraud_lakehouse.transform.lanes import LANES, NO_TESTS, NO_UNIT_TESTS, UNTESTED, options_of
from fraud_lakehouse.transform.program import Program
from fraud_lakehouse.transform.project import Preparation, PreparedProject, dbt_arguments, write_profile
from fraud_lakehouse.transform.thread_pools import end_pools

if TYPE_CHECKING:
    from collections.abc import Collection

    from dbt.contracts.graph.manifest import Manifest

    from fraud_lakehouse.settings import Settings
    from fraud_lakehouse.transform.plugin import Rehearsal

log = logging.getLogger(__name__)

_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats", "--no-write-json"]
REHEARSE_SECONDS = 30.0  # until a project whose rehearsal failed is rehearsed again: a table may have been to blame
_IN_PROCESS = threading.Lock()  # dbt keeps one adapter per process


class Transformer:
    """Builds lanes of the dbt project over one lake.

    Args:
        shipped: the dbt project to run; default: the one that came with the package.

    Not for several threads at once: dbt has one adapter per process, so builds take turns.
    """

    def __init__(self, settings: Settings, shipped: Path | None = None) -> None:
        self._preparation = Preparation(settings, shipped)
        self._project: PreparedProject | None = None
        self._manifest: Manifest | None = None
        self._accepted = Accepted(settings)
        self._refused: tuple[PreparedProject, TransformError, float] | None = None
        self._recorded: dict[tuple[str, ...], Program] = {}
        self._proven: set[tuple[str, ...]] = set()
        self._rendered: dict[str, str] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-dbt-"))
        write_profile(settings, self._scratch)

    @property
    def project(self) -> PreparedProject:
        """The prepared project in use."""
        if self._project is None:
            self.reload()
        assert self._project is not None
        return self._project

    @property
    def is_ready(self) -> bool:
        """Whether there is a parsed project to build."""
        return self._manifest is not None

    def reload(self) -> bool:
        """Take over a changed project or newly captured tables; answers whether anything changed.

        Raises:
            TransformError: the changed project does not parse; the one in use stays. The same one is not parsed again.
            LakeError: there is no room for it.
        """
        prepared = self._parsed()
        return not self._is_in_use(prepared) and self._take_over(prepared)

    def accept(self) -> bool:
        """Take over a changed project if the SQL of the hot lane holds by it; `follow` then does, in each process.

        Answers whether anything changed. Nothing is written, and no row is read but new ones.

        Raises:
            TransformError: it does not parse, or a model of the hot lane does not hold; names the model and why. The
                project in use stays; a process that has none yet takes the one accepted before.
            LakeError: there is no room for it; likewise.
        """
        try:
            prepared = self._parsed()
            if prepared != self._accepted.read():
                self._examine(prepared)
        except (TransformError, LakeError):
            if (before := self._accepted.read()) is not None:
                self._accepted.keep(before)
                if not self.is_ready:
                    self._take_over(before)
            raise
        self._accepted.keep(prepared)
        return not self._is_in_use(prepared) and self._take_over(prepared)

    def follow(self) -> bool:
        """Take over the project that was accepted last by any process of this lake; answers whether it is another.

        A process that has none yet accepts the one it finds, or goes on with the one accepted before.

        Raises:
            TransformError, LakeError: the one found is refused, or has no room, and none was accepted before.
        """
        if not self.is_ready:
            try:
                return self.accept()
            except (TransformError, LakeError) as error:
                if self._manifest is None:
                    raise
                log.error("%s; the models accepted before stay in use", error)  # noqa: TRY400  its text says it all
                return True
        accepted = self._accepted.read()
        if accepted is None or self._is_in_use(accepted):
            return False
        try:
            return self._take_over(accepted)
        except TransformError:
            return False  # cleared away just now: it is prepared again, and accepted

    def _is_in_use(self, prepared: PreparedProject) -> bool:
        return prepared == self._project and self.is_ready

    def _take_over(self, prepared: PreparedProject) -> bool:
        try:
            self._manifest = _manifest(prepared)
        except FileNotFoundError as error:
            raise TransformError(
                f"{error.filename} went away while it was read", "nothing: it is made again"
            ) from error
        self._project = prepared
        self._graph = Graph(self._manifest)
        self._recorded.clear()
        self._proven.clear()
        self._rendered.clear()
        return True

    def _parsed(self) -> PreparedProject:
        """The project as it is now, parsed; one that was refused is not parsed again."""
        planned = self._preparation.planned()
        if self._refused is not None and self._refused[0] == planned and time.monotonic() < self._refused[2]:
            raise self._refused[1]
        if planned.is_parsed:
            return planned
        try:
            return self._preparation.prepare()
        except TransformError as error:
            self._refused = planned, error, math.inf
            raise

    def _examine(self, prepared: PreparedProject) -> None:
        """Rehearse the hot lane by a project, and accept it."""
        from fraud_lakehouse.transform.plugin import Rehearsal

        result = self._rehearse(LANES["hot"], Rehearsal.BIND, prepared, _manifest(prepared))
        try:
            raise_for_errors(result)
        except TransformError as error:
            self._refused = prepared, error, time.monotonic() + REHEARSE_SECONDS
            raise
        self._accepted.write(prepared)

    def build_lane(self, lane: str, *, full_refresh: bool = False, without: Collection[str] = ()) -> BuildResult:
        """Build a lane: "hot", "features", "replica", "rest" (all but hot) or "all". The hot lane runs no tests.

        "alerts" and "follow" are its parts: what alerts are made from, and what is written beside them. "hot_tests" are
        its tests: they read only, so they need no turn.

        Args:
            without: ids of models that failed before: they are left out, with those that read nothing else.
        """
        left_out = self._graph.unbuildable(without) if without else []
        return self.build(options_of(lane, left_out, full_refresh=full_refresh), tests=lane not in UNTESTED)

    def build(self, options: list[str], *, tests: bool = True) -> BuildResult:
        """Run `dbt build` with these options; unit tests belong to pytest and are left out.

        Without tests, what two builds in a row did alike is done again without dbt (transform/program.py), and models
        of the fast path that dbt skips are built all the same if they read something else than what failed.

        Raises:
            TransformError: dbt itself failed. A failing model or test is a result, not an error.
        """
        if self._manifest is None:
            self.reload()
        from fraud_lakehouse.transform import plugin

        command = ["build", *options, *(NO_UNIT_TESTS if tests else NO_TESTS)]
        started = time.monotonic()
        plugin.failures.clear()
        with _IN_PROCESS:
            nodes = self._repeat(command)
            if nodes is None:
                nodes = self._build(command, recorded=not tests)
            if not tests and "--full-refresh" not in options:
                nodes = self._build_skipped(nodes)
        nodes = [self._graph.with_sources(failed_view(node, plugin.failures)) for node in nodes]
        return BuildResult(nodes, time.monotonic() - started)

    def _build_skipped(self, nodes: list[NodeResult]) -> list[NodeResult]:
        """Build what was only skipped (transform/isolation.py); the results of all builds."""
        while selected := self._graph.only_skipped(nodes):
            built = self._build(["build", "--select", *selected, *NO_TESTS], recorded=False)
            nodes = list({node.unique_id: node for node in [*nodes, *built]}.values())
            if all(node.ok for node in built):
                break
        return nodes

    def _build(self, command: list[str], *, recorded: bool) -> list[NodeResult]:
        """Have dbt do it, and keep what it did if it is to be `recorded`."""
        from fraud_lakehouse.transform import plugin

        plugin.commits.clear()
        plugin.calls.clear()
        result = self._invoke(command)
        if isinstance(result.exception, KeyboardInterrupt):
            raise result.exception
        if result.exception is not None:
            raise TransformError(f"dbt failed: {result.exception}", "see the message; the lake is unchanged by it")
        nodes = [node_result(node, plugin.commits) for node in (result.result.results if result.result else [])]
        program = Program.of(plugin.calls, nodes) if recorded else None
        if program is not None:
            key = tuple(command)
            if program.is_like(self._recorded.get(key)):
                self._proven.add(key)
            else:
                self._proven.discard(key)
            self._recorded[key] = program
        return nodes

    def _repeat(self, command: list[str]) -> list[NodeResult] | None:
        """Do without dbt what two builds did alike; None where dbt has to build."""
        from fraud_lakehouse.transform import plugin

        key = tuple(command)
        if key not in self._proven:
            return None
        program = self._recorded[key]
        plugin.commits.clear()
        try:
            seconds = program.run()
        except Exception as error:  # noqa: BLE001  whatever it is, dbt meets it again and tells it by model
            log.info("dbt builds again: %s", error)
            seconds = None
        if seconds is None:
            self._proven.discard(key)
            return None
        return [
            replace(node, seconds=seconds.get(node.unique_id, 0.0), **committed(node.unique_id, plugin.commits))
            for node in program.nodes
        ]

    def rendered(self, text: str) -> str:
        """The SQL that a template of macros stands for; nothing is run or written.

        Raises:
            TransformError: dbt cannot render it; the message is dbt's.
        """
        if self._manifest is None:
            self.reload()
        if text not in self._rendered:
            with _IN_PROCESS:
                result = self._invoke(["compile", "--inline", text, "--no-populate-cache"])
            if not result.success:
                self._forget_inline()
                raise TransformError(f"dbt cannot render the query: {reason(result)}", "correct the macro it names")
            self._rendered[text] = str(result.result.results[0].node.compiled_code)
        return self._rendered[text]

    def _forget_inline(self) -> None:
        """Take a query that failed out of the manifest: dbt leaves it there, and then refuses the next one."""
        if self._manifest is not None:
            for name in [name for name in self._manifest.nodes if name.startswith("sql_operation.")]:
                self._manifest.nodes.pop(name)

    def warm_up(self, options: list[str] | None = None) -> None:
        """Rehearse a build, so that the first one takes less of a turn; the lake is only read.

        dbt is imported, the models are compiled, and what they have read before is read into memory.

        Args:
            options: of the build; default: the hot lane's.
        """
        if self._manifest is None:
            self.reload()
        assert self._manifest is not None
        from fraud_lakehouse.transform.plugin import Rehearsal

        result = self._rehearse(options or LANES["hot"], Rehearsal.READ, self.project, self._manifest)
        if not result.success:
            log.info("a rehearsal failed: %s", reason(result))  # the build tells it by model

    def _rehearse(self, options: list[str], rehearsal: Rehearsal, project: PreparedProject, manifest: Manifest) -> Any:
        from fraud_lakehouse.transform import plugin

        with _IN_PROCESS:
            plugin.rehearsal = rehearsal
            try:
                return self._run(["build", *options, *NO_TESTS], project, manifest)
            finally:
                plugin.rehearsal = None

    def documentation(self) -> Path:
        """Generate dbt's static documentation page and give its path.

        Raises:
            TransformError: dbt failed.
        """
        if self._manifest is None:
            self.reload()
        (self._scratch / "target").mkdir(exist_ok=True)
        shutil.copyfile(self.project.manifest_path, self._scratch / "target" / "manifest.json")
        with _IN_PROCESS:
            result = self._invoke(["docs", "generate", "--static", "--no-compile"])
        if not result.success:
            raise TransformError(f"dbt docs failed: {result.exception}", "see the message")
        return self._scratch / "target" / "static_index.html"

    def close(self) -> None:
        """Remove this process's scratch folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _invoke(self, command: list[str]) -> Any:
        return self._run(command, self.project, self._manifest)

    def _run(self, command: list[str], project: PreparedProject, manifest: Manifest | None) -> Any:
        from dbt.cli.main import dbtRunner

        folders = dbt_arguments(project, self._scratch, self._scratch / "target")
        result = dbtRunner(manifest=manifest).invoke([*_QUIET, *command, *folders])
        end_pools(result.exception)
        return result


def _manifest(prepared: PreparedProject) -> Manifest:
    """The parsed project, read back as dbt itself does for a partial parse."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(prepared.parsed_path.read_bytes())
    manifest.build_flat_graph()  # type: ignore[no-untyped-call]  # dbt leaves this one untyped
    return manifest
