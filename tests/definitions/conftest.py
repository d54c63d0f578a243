"""Fixtures: the dbt manifest parsed once, an instance in memory, and a wiring with stand-ins behind it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.checks.open_transactions import TransactionHealth
from fraud_lakehouse.checks.open_transactions import assess as assess_transactions
from fraud_lakehouse.checks.slot_health import SlotHealth, assess
from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import SourceConfig
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.retention import Retention
from fraud_lakehouse.transform.project import prepare_project
from tests.definitions.stand import AT, ScriptedBuilder, ScriptedIngest, Stand
from tests.definitions.ticks import Ticks

LANDED = 0x16B3748  # where the slot of a wiring's lake is awaited to go on


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
        ingests: dict[str, ScriptedIngest] = defaultdict(lambda: ScriptedIngest([]))
        new: dict[str, Any] = {}

        def poll(config: SourceConfig, _settings: Settings) -> NewData | None:
            found = new.get(config.name)
            if isinstance(found, Exception):
                raise found
            return found

        def slot(_config: PostgresConfig, _settings: Settings) -> SlotHealth:
            found = new.get("slot")
            if isinstance(found, Exception):
                raise found
            return assess(retention[-1], 2**30, LANDED)

        def transactions(config: TopicConfig, settings: Settings) -> list[TransactionHealth]:
            found = new.get("transactions", [])
            if isinstance(found, Exception):
                raise found
            return assess_transactions(found, settings.kafka_transaction_seconds, config.servers, AT)

        def tables(_config: PostgresConfig, _settings: Settings) -> list[IneligibleTable]:
            found = new.get("tables")
            if isinstance(found, Exception):
                raise found
            return ineligible

        retention = [Retention(True, 0, "reserved")]
        ineligible: list[IneligibleTable] = []
        parts = Parts(
            ingest=lambda config, *_: ingests[config.name],
            builder=lambda _: builder,
            poll=poll,
            slot=slot,
            tables=tables,
            transactions=transactions,
        )
        definitions = build_definitions(settings, parts=parts, manifest=manifest)
        return Stand(definitions, settings, builder, ingests, new, retention, ineligible)

    return make


@pytest.fixture
def ticks(stand: Callable[..., Any], instance: dg.DagsterInstance) -> Callable[..., Ticks]:
    """Ticks of a sensor by its name, and settings."""
    return lambda sensor, **settings: Ticks(stand(**settings), sensor, instance)
