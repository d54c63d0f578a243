"""A wiring whose parts are stand-ins: what Dagster is told can be seen without sources, dbt or a lake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.lake.ingest import Landed
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.transform.project import prepare_project
from fraud_lakehouse.transform.runner import BuildResult, NodeResult

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def landed(table: str, rows: int, start: int, end: int) -> Landed:
    """One landed batch."""
    source = "kafka" if table == "card_transactions" else "postgres"
    return Landed(table, rows, start, end, 1, AT, 0.5, source)


class ScriptedIngest:
    """A source that gives the scripted steps, errors included, and is drained after them."""

    def __init__(self, steps: Sequence[list[Landed] | Exception]) -> None:
        self.steps = list(steps)

    def step(self, max_rows: int) -> list[Landed]:
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

    def build(self, options: list[str]) -> BuildResult:
        """Results of the selected models and of the tests on them."""
        self.asked.append(options)
        names = set(options[1:])
        nodes = []
        for unique_id, node in self.manifest["nodes"].items():
            kind, name = node["resource_type"], node["name"]
            if names and name not in names and kind == "model":
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
    new: dict[str, NewData | Exception]

    def sensor(self, name: str) -> dg.SensorDefinition:
        """A sensor by name."""
        return self.definitions.resolve_sensor_def(name)

    def materialize(self, instance: dg.DagsterInstance, **run: Any) -> dg.ExecuteInProcessResult:
        """Materialize all (or `asset_selection`), as the job the sensors use."""
        job = self.definitions.resolve_job_def("update")
        return job.execute_in_process(instance=instance, raise_on_error=False, **run)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of the shipped dbt project, parsed once."""
    settings = load_settings(lake=str(tmp_path_factory.mktemp("manifest") / "lake"))
    parsed: dict[str, Any] = json.loads(prepare_project(settings).manifest_path.read_text())
    return parsed


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def stand(tmp_path: Path, manifest: dict[str, Any]) -> Callable[..., Stand]:
    """Makes a wiring: keyword arguments are settings; both sources are configured unless they say otherwise."""

    def make(**changes: Any) -> Stand:
        given = {
            "lake": str(tmp_path / "lake"),
            "postgres_dsn": "postgresql://reader:secret@db/bank",
            "kafka_bootstrap_servers": "broker:9092",
            "update_delay": 60.0,
        }
        settings = load_settings(**(given | changes))
        builder = ScriptedBuilder(manifest)
        ingests = {"postgres": ScriptedIngest([]), "kafka": ScriptedIngest([])}
        new: dict[str, NewData | Exception] = {}

        def look(source: str, _settings: Settings) -> NewData | None:
            found = new.get(source)
            if isinstance(found, Exception):
                raise found
            return found

        parts = Parts(ingest=lambda source, *_: ingests[source], builder=lambda _: builder, look=look)
        definitions = build_definitions(settings, parts=parts, manifest=manifest)
        return Stand(definitions, settings, builder, ingests, new)

    return make
