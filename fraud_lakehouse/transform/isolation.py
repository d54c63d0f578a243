"""What a failing model takes with it, by the project's graph alone: everything else is built all the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fraud_lakehouse.transform.build_result import NodeResult

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

Parents = Mapping[str, Sequence[str]]
"""What each model reads, by id; what is no key (a source) reads nothing."""


def unbuildable(parents: Parents, failed: Collection[str]) -> set[str]:
    """The failed models, and those that read nothing but such models.

    A model with another parent is built from that one's new rows: of the failed one there are none, and its own
    position in that table stays.
    """
    found = set(failed)
    while more := {model for model, read in parents.items() if model not in found and read and found.issuperset(read)}:
        found |= more
    return found


def sources_of(parents: Parents, model: str) -> set[str]:
    """The sources that a model reads, itself or through others."""
    if model not in parents:
        return {model}
    return {source for parent in parents[model] for source in sources_of(parents, parent)}


class Graph:
    """The models of a parsed project; selections are in dbt's words."""

    def __init__(self, manifest: Manifest) -> None:
        from dbt.contracts.graph.nodes import ModelNode

        self._models = {model: node for model, node in manifest.nodes.items() if isinstance(node, ModelNode)}
        self._sources = manifest.sources
        self._parents = {model: node.depends_on.nodes for model, node in self._models.items()}

    def unbuildable(self, failed: Collection[str]) -> list[str]:
        """Selects the failed models and what cannot be built without them."""
        return self._selection(unbuildable(self._parents, self._models.keys() & failed))

    def only_skipped(self, nodes: Sequence[NodeResult]) -> list[str]:
        """Selects models of the fast path that a build skipped though they can be built, and the views they read."""
        left_out = unbuildable(self._parents, [node.unique_id for node in nodes if node.status == "error"])
        models = {node.unique_id: node.status for node in nodes if node.unique_id in self._models.keys() - left_out}
        skipped = {model for model, status in models.items() if status == "skipped"}
        if not any("hot" in self._models[model].tags for model in skipped):
            return []
        return self._selection(
            skipped | {model for model in models if self._models[model].config.materialized == "view"}
        )

    def with_sources(self, node: NodeResult) -> NodeResult:
        """A model that failed, with the bronze tables it reads."""
        if node.ok or node.unique_id not in self._models:
            return node
        sources = [self._sources[source] for source in sources_of(self._parents, node.unique_id)]
        return replace(node, sources=sorted(source.identifier for source in sources if source.schema == "bronze"))

    def _selection(self, models: Collection[str]) -> list[str]:
        return sorted(f"fqn:{'.'.join(self._models[model].fqn)}" for model in models)
