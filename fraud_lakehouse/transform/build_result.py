"""The result of a build: what each model and test did, and what was committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fraud_lakehouse.errors import TransformError


@dataclass(frozen=True)
class NodeResult:
    """The result of one model or test.

    `status` is dbt's: success, error, skipped for models; pass, warn, fail, error for tests. `rows` and `version`
    are what a model committed (None: nothing new). `failures` counts a test's failing rows. `sources` are the bronze
    tables whose rows wait for a failed model.
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
        """Whether it succeeded; a warning is not an error."""
        return self.status in ("success", "pass", "warn", "no-op")

    @property
    def reason(self) -> str:
        """Why it failed, and which tables' rows wait for it."""
        why = self.message or ("skipped: an upstream model failed" if self.status == "skipped" else self.status)
        return f"{why} (rows of {', '.join(self.sources)} wait for it)" if self.sources else why


@dataclass(frozen=True)
class BuildResult:
    """The nodes of one build in the order they ran, and the duration of the build in seconds."""

    nodes: list[NodeResult]
    seconds: float

    @property
    def failed(self) -> list[NodeResult]:
        """Nodes that failed or were skipped because a parent failed."""
        return [node for node in self.nodes if not node.ok]

    @property
    def failed_models(self) -> list[NodeResult]:
        """The failed models. Failing tests are excluded: the checks report them."""
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
