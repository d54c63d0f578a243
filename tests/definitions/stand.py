"""A wiring whose parts are stand-ins: what Dagster is told can be seen without sources, dbt or a lake."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg

from fraud_lakehouse.ingest import Ingested
from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres.retention import Retention
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ingested(table: str, rows: int, start: int, end: int) -> Ingested:
    """One landed batch."""
    source = "cards" if table == "card_transactions" else "bank"
    return Ingested(table, rows, start, end, 1, AT, 0.5, source)


class ScriptedIngest:
    """A source that gives the scripted steps, errors included, and is drained after them."""

    def __init__(self, steps: Sequence[list[Ingested] | Exception]) -> None:
        self.steps = list(steps)

    def close(self) -> None:
        """Nothing to close."""

    def step(self, max_rows: int) -> list[Ingested]:
        """The next scripted step."""
        if not self.steps:
            return []
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@dataclass
class ScriptedBuilder:
    """Reports the models and tests asked for as built, except those named in `broken` (unique id -> status)."""

    manifest: dict[str, Any]
    broken: dict[str, str] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)

    def names(self, tier: str) -> list[str]:
        """Names of the models of the lane "hot", or of the rest."""
        models = [node for node in self.manifest["nodes"].values() if node["resource_type"] == "model"]
        return [node["name"] for node in models if ("hot" in node["config"]["tags"]) == (tier == "hot")]

    def warm_up(self, names: Collection[str]) -> None:
        """Noted as if it were a build."""
        self._note("warm up", names)

    def build(self, names: Collection[str], *, tests: bool = True) -> BuildResult:
        """Results of the selected models, and of the tests (on them and others) unless told otherwise."""
        self._note("build and test" if tests else "build", names)
        return self._results({"model", "test"} if tests else {"model"}, names)

    def test(self, names: Collection[str]) -> BuildResult:
        """Results of the tests alone."""
        self._note("test", names)
        return self._results({"test"}, names)

    def _note(self, what: str, names: Collection[str]) -> None:
        tiers = [tier for tier in ("hot", "rest") if set(names) == set(self.names(tier))]
        self.asked.append([what, *(tiers or sorted(names))])

    def _results(self, kinds: set[str], names: Collection[str]) -> BuildResult:
        nodes = []
        parents = {
            unique_id: node["depends_on"]["nodes"]
            for unique_id, node in self.manifest["nodes"].items()
            if node["resource_type"] in ("model", "test")
        }
        for unique_id in TopologicalSorter(parents).static_order():
            if unique_id not in parents:
                continue
            node = self.manifest["nodes"][unique_id]
            kind, name = node["resource_type"], node["name"]
            if kind not in kinds or (kind == "model" and name not in names):
                continue
            good = "success" if kind == "model" else "pass"
            status = self.broken.get(unique_id, good)
            nodes.append(NodeResult(unique_id, name, kind, status, 0.01, failures=None if kind == "model" else 3))
        return BuildResult(nodes, 0.1)


@dataclass
class Stand:
    """The wiring under test with the stand-ins behind it."""

    definitions: dg.Definitions
    settings: Settings
    builder: ScriptedBuilder
    ingests: dict[str, ScriptedIngest]
    new: dict[str, Any]
    retention: list[Retention]
    ineligible: list[IneligibleTable]

    def sensor(self, name: str) -> dg.SensorDefinition:
        """A sensor by name."""
        return self.definitions.resolve_sensor_def(name)

    def materialize(self, instance: dg.DagsterInstance, **run: Any) -> dg.ExecuteInProcessResult:
        """Materialize all (or `asset_selection`), as the job the sensors use."""
        job = self.definitions.resolve_job_def("update")
        return job.execute_in_process(instance=instance, raise_on_error=False, **run)
