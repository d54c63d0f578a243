"""What became of a build: each model and test of it, with what it committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fraud_lakehouse.errors import TransformError


@dataclass(frozen=True)
class NodeResult:
    """What became of one model or test.

    `status` is dbt's: success, error, skipped for models; pass, warn, fail, error for tests. `rows` and
    `version` are what a model committed (None: nothing new); `failures` counts a test's failing rows. `sources` are the
    bronze tables whose rows wait for a model that failed.
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
    sources: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it (a warning is not an error)."""
        return self.status in ("success", "pass", "warn", "no-op")

    @property
    def reason(self) -> str:
        """Why it failed, and whose rows wait for it."""
        why = self.message or ("skipped: a model before it failed" if self.status == "skipped" else self.status)
        return f"{why} (rows of {', '.join(self.sources)} wait for it)" if self.sources else why


@dataclass(frozen=True)
class BuildResult:
    """The nodes of one build in the order they ran, and the seconds the whole took."""

    nodes: list[NodeResult]
    seconds: float

    @property
    def failed(self) -> list[NodeResult]:
        """Nodes that failed or were skipped because a parent failed."""
        return [node for node in self.nodes if not node.ok]

    @property
    def failed_models(self) -> list[NodeResult]:
        """The models among them. A failing test is none: its evidence is the check's."""
        return [node for node in self.failed if node.resource_type == "model"]

    def rows(self, name: str) -> int:
        """Rows the named model committed in this build."""
        return sum(node.rows or 0 for node in self.nodes if node.name == name)

    def raise_for_errors(self) -> None:
        """Raise for the first model that failed.

        Raises:
            TransformError: names the models and dbt's message of the first.
        """
        if broken := self.failed_models:
            first = next((node for node in broken if node.status == "error"), broken[0])
            names = ", ".join(node.name for node in broken)
            raise TransformError(f"dbt could not build {names}: {first.reason}", f"correct the model {first.name}")


def raise_for_errors(result: Any) -> None:
    """Raise for what went wrong in a rehearsal: dbt itself, or a model."""
    if result.exception is not None:
        raise TransformError(f"dbt refuses the project: {result.exception}", "correct the model it names")
    nodes = result.result.results if result.result else []
    BuildResult([node_result(node, {}) for node in nodes], 0.0).raise_for_errors()


def reason(result: Any) -> str:
    """Why a command failed: the exception's message, else that of its first node."""
    nodes = result.result.results if result.result else []
    return str(result.exception) if result.exception is not None else str(nodes[0].message if nodes else "no result")


def node_result(result: Any, commits: dict[str, Any]) -> NodeResult:
    """A node of dbt's results.

    Args:
        commits: what models have committed, by id.
    """
    node = result.node
    return NodeResult(
        unique_id=node.unique_id,
        name=node.name,
        resource_type=str(node.resource_type),
        status=str(result.status),
        seconds=result.execution_time,
        **committed(node.unique_id, commits),
        failures=result.failures,
        message=result.message or "",
    )


def failed_view(node: NodeResult, failures: Mapping[str, str]) -> NodeResult:
    """A view that dbt made and that then failed when its rows were read, as failed; others as they are."""
    is_failed = node.ok and node.resource_type == "model" and node.name in failures
    return replace(node, status="error", message=failures[node.name]) if is_failed else node


def committed(node: str, commits: dict[str, Any]) -> dict[str, Any]:
    """`rows` and `version` of a node's result."""
    commit = commits.get(node)
    rows = (commit.rows if commit else 0) if node in commits else None
    return {"rows": rows, "version": commit.version if commit else None}
