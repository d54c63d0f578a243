"""Two databases and two topics in Dagster: each has a step, a sensor and checks of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from fraud_lakehouse.defs.bronze import checked_sources
from fraud_lakehouse.defs.capture_check import newest_evaluation
from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import OWNER_PROPERTY, SOURCE_PROPERTY
from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
from fraud_lakehouse.sources.postgres.retention import Retention
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import Receiver
from tests.declared import bank_and_cards
from tests.definitions.stand import ingested
from tests.definitions.ticks import Ticks

SHOP = """
shop:
  type: postgres
  dsn_env: SHOP_DSN
  prefix: shop_
"""
REFUNDS = """
    - topic: refunds
      table: refunds
      fields: {id: string, amt: double}
"""
SOURCES = ("bank", "cards.card_transactions", "cards.refunds", "shop")
CHECKED = {
    "bank": table_key("bronze", "transactions"),
    "cards.card_transactions": table_key("bronze", "card_transactions"),
    "cards.refunds": table_key("bronze", "refunds"),
    "shop": table_key("sources", "shop"),
}


@pytest.fixture
def several(stand: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a wiring over the shipped pipeline with a second database and a second topic."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "sources.yml").write_text((bank_and_cards() / "sources.yml").read_text().rstrip() + REFUNDS + SHOP)
    (folder / "streams.yml").write_text((bank_and_cards() / "streams.yml").read_text())
    monkeypatch.setenv("SHOP_DSN", "postgresql://reader:secret@shop/shop")
    return lambda **settings: stand(pipeline=folder, **settings)


def created_by(made: Any, source: str, table: str) -> None:
    """A bronze table as a source creates it."""
    properties = {OWNER_PROPERTY: source, SOURCE_PROPERTY: json.dumps(["public", table])}
    BronzeTable.open_or_create(Lake.at(made.settings.lake), table, {"id": pl.Int64()}, ["id"], properties)


def test_each_source_is_a_step_with_a_sensor_and_checks(several: Callable[..., Any]) -> None:
    made = several()
    dg.Definitions.validate_loadable(made.definitions)
    assert {config.name: asset for config, asset in checked_sources(made.settings)} == CHECKED
    graph = made.definitions.resolve_asset_graph()
    checks = {(key.asset_key, key.name) for key in graph.asset_check_keys}
    assert {(asset, "capture") for asset in CHECKED.values()} <= checks
    for name in ("slot_retention", "tables_captured"):
        assert {asset for asset, check in checks if check == name} == {CHECKED["bank"], CHECKED["shop"]}
    topics = {CHECKED["cards.card_transactions"], CHECKED["cards.refunds"]}
    assert {asset for asset, check in checks if check == "open_transactions"} == topics
    assert topics <= {asset for asset, check in checks if check == "quarantine"}
    repository = made.definitions.get_repository_def()
    names = [source.replace(".", "__") for source in SOURCES]
    sensors = {sensor.name for sensor in repository.sensor_defs}
    assert {f"new_data_{name}" for name in names} <= sensors
    tags = {key: graph.get(key).tags.get("source") for key in graph.get_all_asset_keys()}
    assert {tags[asset] for asset in CHECKED.values()} == set(SOURCES)


def test_a_run_ingests_every_source_and_one_that_fails_is_the_only_one_with_a_failed_check(
    several: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = several()
    made.ingests["bank"].steps = [[ingested("users", 3, 10, 20)]]
    made.ingests["shop"].steps = [SourceError("no answer from shop:5432", "check that it runs")]
    made.ingests["cards.refunds"].steps = [[ingested("refunds", 2, 0, 2)]]
    result = made.materialize(instance)
    failed = {event.step_key for event in result.all_events if event.is_step_failure}
    assert [step for step in failed if step.startswith("capture_")] == ["capture_shop"]
    found = {source: newest_evaluation(instance, asset) for source, asset in CHECKED.items()}
    problems_found = {
        source: one.problem_found and one.problem_found.problem for source, one in found.items() if one is not None
    }
    assert problems_found == dict.fromkeys(SOURCES) | {"shop": "no answer from shop:5432"}
    rows = {
        event.asset_key: event.step_materialization_data.materialization.metadata["rows"].value
        for event in result.get_asset_materialization_events()
        if event.asset_key in (table_key("bronze", "users"), CHECKED["cards.refunds"])
    }
    assert rows == {table_key("bronze", "users"): 3, CHECKED["cards.refunds"]: 2}


def test_tables_in_the_lake_are_assets_of_the_source_that_created_them(
    several: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = several()
    for source, table in (("bank", "payees"), ("shop", "shop_orders"), ("shop", "users")):
        created_by(made, source, table)
    made = several()
    graph = made.definitions.resolve_asset_graph()
    owners = {"transactions": "bank", "payees": "bank", "shop_orders": "shop", "users": "shop"}
    bronze = {
        key.path[1]: graph.get(key).tags.get("source") for key in graph.get_all_asset_keys() if key.path[0] == "bronze"
    }
    assert bronze == owners | {"card_transactions": "cards.card_transactions", "refunds": "cards.refunds"}
    made.ingests["shop"].steps = [[ingested("shop_orders", 7, 1, 2)]]
    of_shop = [CHECKED["shop"], table_key("bronze", "shop_orders"), table_key("bronze", "users")]
    result = made.materialize(instance, asset_selection=of_shop)
    assert {event.asset_key for event in result.get_asset_materialization_events()} == set(of_shop)


def test_a_check_stays_on_its_asset_when_the_first_tables_come(
    several: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = several()
    created_by(made, "shop", "shop_orders")
    result = made.materialize(instance, asset_selection=[CHECKED["shop"]])
    assert result.success
    evaluated = {one.check_name for one in result.get_asset_check_evaluations() if one.asset_key == CHECKED["shop"]}
    assert {"capture", "slot_retention", "tables_captured"} <= evaluated


def test_each_sensor_requests_runs_of_its_own_source(several: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = several()
    shop, refunds = (Ticks(made, f"new_data_{name}", instance) for name in ("shop", "cards__refunds"))
    made.new["shop"] = NewData("shop", "0/1-0/2")
    made.new["cards.refunds"] = NewData("refunds", "0:0-7")
    (first,), _ = shop.tick()
    (second,), _ = refunds.tick()
    assert (first.run_key, second.run_key) == ("shop:0/1-0/2", "refunds:0:0-7")
    assert CHECKED["shop"] in (first.asset_selection or [])
    assert CHECKED["bank"] not in (first.asset_selection or [])
    assert CHECKED["cards.refunds"] in (second.asset_selection or [])
    made.new["shop"] = GapError("the slot was dropped")
    with pytest.raises(GapError):
        shop.tick()
    found = newest_evaluation(instance, CHECKED["shop"])
    assert found is not None and found.problem_found is not None and found.problem_found.is_gap
    assert newest_evaluation(instance, CHECKED["bank"]) is None


@pytest.mark.parametrize(
    ("sensor", "old"),
    [
        ("watch_slot", {"level": "error", "number": 3}),
        ("watch_tables", {"problems": {"public.tmp": "table public.tmp has no primary key"}, "number": 3}),
    ],
)
def test_a_cursor_of_version_0_1_goes_on_as_that_of_the_shipped_database(
    several: Callable[..., Any], instance: dg.DagsterInstance, sensor: str, old: dict[str, Any]
) -> None:
    with Receiver() as receiver:
        made = several(alert_urls=(receiver.url,))
        made.retention.append(Retention(True, 15 * 2**28, "reserved"))
        made.ineligible[:] = [IneligibleTable("public.tmp", "table public.tmp has no primary key", "give it one")]
        context = dg.build_sensor_context(instance=instance, cursor=json.dumps(old))
        cursor = made.sensor(sensor).evaluate_tick(context).cursor
        assert [one["source"] for one in receiver.received] == ["shop"], "of the bank it was sent by version 0.1"
    held = json.loads(cursor or "{}")
    assert (held["bank"]["number"], held["shop"]["number"]) == (3, 1)


def test_the_cursor_of_the_watch_over_sources_goes_on_with_the_new_names(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        made.ingests["bank"].steps = [GapError("the slot was dropped", "run `fraud-lakehouse resync`")]
        made.materialize(instance)
        old = {"postgres": {"level": "stopped", "since": 1.0, "number": 5}}
        context = dg.build_sensor_context(instance=instance, cursor=json.dumps(old))
        cursor = made.sensor("watch_sources").evaluate_tick(context).cursor
        assert receiver.received == [], "it was sent by version 0.1"
    assert json.loads(cursor or "{}")["bank"]["number"] == 5
