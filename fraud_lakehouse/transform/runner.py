"""dbt kept warm in this process: imports and manifest once, then a build costs what its SQL costs."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.transform.project import PreparedProject, dbt_arguments, prepare_project, write_profile

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

    from fraud_lakehouse.settings import Settings

LANES = {"hot": ["--select", "tag:hot"], "replica": ["--select", "tag:replica"], "all": []}
_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats", "--no-write-json"]
_IN_PROCESS = threading.Lock()  # dbt keeps one adapter per process


@dataclass(frozen=True)
class NodeResult:
    """What became of one model or test.

    `status` is dbt's: success, error, skipped for models; pass, warn, fail, error for tests. `rows` and
    `version` are what a model committed (None: nothing new); `failures` counts a test's failing rows.
    """

    unique_id: str
    name: str
    resource_type: str
    status: str
    seconds: float
    rows: int | None = None
    version: int | None = None
    failures: int | None = None
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it (a warning is not an error)."""
        return self.status in ("success", "pass", "warn", "no-op")


@dataclass(frozen=True)
class BuildResult:
    """The nodes of one build in the order they ran, and the seconds the whole took."""

    nodes: list[NodeResult]
    seconds: float

    @property
    def failed(self) -> list[NodeResult]:
        """Nodes that failed or were skipped because a parent failed."""
        return [node for node in self.nodes if not node.ok]

    def rows(self, name: str) -> int:
        """Rows the named model committed in this build."""
        return sum(node.rows or 0 for node in self.nodes if node.name == name)

    def raise_for_errors(self) -> None:
        """Raise for the first model that failed.

        Raises:
            TransformError: names the models and dbt's message of the first.
        """
        broken = [node for node in self.failed if node.resource_type == "model"]
        if broken:
            first = next((node for node in broken if node.status == "error"), broken[0])
            names = ", ".join(node.name for node in broken)
            raise TransformError(f"dbt could not build {names}: {first.message}", f"correct the model {first.name}")


class Transformer:
    """Builds lanes of the dbt project over one lake.

    Args:
        shipped: the dbt project to run; default: the one that came with the package.

    Not for several threads at once: dbt has one adapter per process, so builds take turns.
    """

    def __init__(self, settings: Settings, shipped: Path | None = None) -> None:
        self._settings = settings
        self._shipped = shipped
        self._project: PreparedProject | None = None
        self._manifest: Manifest | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-dbt-"))
        write_profile(settings, self._scratch)

    @property
    def project(self) -> PreparedProject:
        """The prepared project in use."""
        if self._project is None:
            self.reload()
        assert self._project is not None
        return self._project

    def reload(self) -> bool:
        """Take over a changed project or newly captured tables; answers whether anything changed.

        Raises:
            TransformError: the changed project does not parse; the one in use stays.
        """
        prepared = prepare_project(self._settings, self._shipped)
        if prepared == self._project and self._manifest is not None:
            return False
        self._manifest = _manifest(prepared)
        self._project = prepared
        return True

    def build_lane(self, lane: str, *, full_refresh: bool = False) -> BuildResult:
        """Build a lane: "hot", "replica" or "all". The hot lane runs no tests."""
        options = [*LANES[lane], *(["--full-refresh"] if full_refresh else [])]
        return self.build(options, tests=lane != "hot")

    def build(self, options: list[str], *, tests: bool = True) -> BuildResult:
        """Run `dbt build` with these options; unit tests belong to pytest and are left out.

        Raises:
            TransformError: dbt itself failed. A failing model or test is a result, not an error.
        """
        from fraud_lakehouse.transform import plugin

        if self._manifest is None:
            self.reload()
        excluded = ["unit_test"] if tests else ["unit_test", "test"]
        kinds = [part for kind in excluded for part in ("--exclude-resource-type", kind)]
        started = time.monotonic()
        with _IN_PROCESS:
            plugin.commits.clear()
            result = self._invoke(["build", *options, *kinds])
            commits = dict(plugin.commits)
        if isinstance(result.exception, KeyboardInterrupt):
            raise result.exception
        if result.exception is not None:
            raise TransformError(f"dbt failed: {result.exception}", "see the message; the lake is unchanged by it")
        nodes = [_node_result(node, commits) for node in (result.result.results if result.result else [])]
        return BuildResult(nodes, time.monotonic() - started)

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
            for command in (["run-operation", "register_lake"], ["docs", "generate", "--static", "--no-compile"]):
                result = self._invoke(command)
                if not result.success:
                    raise TransformError(f"dbt {command[0]} failed: {result.exception}", "see the message")
        return self._scratch / "target" / "static_index.html"

    def close(self) -> None:
        """Remove this process's scratch folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _invoke(self, command: list[str]) -> Any:
        from dbt.cli.main import dbtRunner

        folders = dbt_arguments(self.project, self._scratch, self._scratch / "target")
        return dbtRunner(manifest=self._manifest).invoke([*_QUIET, *command, *folders])


def _manifest(prepared: PreparedProject) -> Manifest:
    """The parsed project, read back as dbt itself does for a partial parse."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(prepared.parsed_path.read_bytes())
    manifest.build_flat_graph()  # type: ignore[no-untyped-call]  # dbt leaves this one untyped
    return manifest


def _node_result(result: Any, commits: dict[str, Any]) -> NodeResult:
    node = result.node
    commit = commits.get(node.unique_id)
    is_model = node.resource_type == "model"
    return NodeResult(
        unique_id=node.unique_id,
        name=node.name,
        resource_type=str(node.resource_type),
        status=str(result.status),
        seconds=result.execution_time,
        rows=(commit.rows if commit else 0) if is_model and node.unique_id in commits else None,
        version=commit.version if commit else None,
        failures=result.failures,
        message=result.message or "",
    )
