"""Which sources there are: their names, connections, slots, tables and delays, from the pipeline and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.ingest import accept
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import (
    configured_sources,
    declared_sources,
    is_live,
    postgres_source,
    source_named,
    topic_source,
)
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.storage.lake import Lake

SHIPPED = Path(__file__).parents[2] / "pipeline"
SOURCES = """\
bank:
  type: postgres
  dsn_env: FRAUD_POSTGRES_DSN
  tables_env: FRAUD_POSTGRES_TABLES
shop:
  type: postgres
  dsn_env: SHOP_DSN
  prefix: shop_
  update_delay: 30 minutes
wires:
  type: kafka
  servers_env: WIRES_SERVERS
  config_file_env: WIRES_FILE
  topics:
    - {topic: wires.v1, table: wires, fields: {id: string, at: timestamp, amt: double, sender: string}}
    - {topic: refunds, table: refunds, fields: {id: string, at: timestamp, amt: double, sender: string}}
"""
STREAMS = """\
payments:
  from: transactions
  kind: changes
  id: id
  time: at
  amount: amount
  entities: {user: {key: user_id, exists_in: {table: users, column: user_id}}}
orders:
  from: shop_orders
  kind: changes
  id: id
  time: at
  amount: total
  entities: {buyer: {key: buyer, exists_in: {table: shop_people, column: id}}}
wires:
  from: wires
  kind: events
  id: id
  time: at
  amount: amt
  entities: {sender: sender}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of two databases and two topics, whose connections are not set."""
    for name in ("FRAUD_POSTGRES_DSN", "SHOP_DSN", "WIRES_SERVERS", "WIRES_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "sources.yml").write_text(SOURCES)
    (tmp_path / "streams.yml").write_text(STREAMS)
    return tmp_path


@pytest.fixture
def everything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with all connections."""
    monkeypatch.setenv("SHOP_DSN", "host=shop.example dbname=shop")
    monkeypatch.setenv("WIRES_SERVERS", "wires.example:9092")
    return settings(folder, postgres_dsn="host=db.example dbname=bank", update_delay=0.0)


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(lake="unused", pipeline=folder, **values)


def test_a_source_is_there_when_the_variable_of_its_connection_is_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured_sources(settings(folder)) == {}
    names = ["bank", "shop", "wires.wires", "wires.refunds"]
    assert [one.name for one in declared_sources(settings(folder))] == names
    monkeypatch.setenv("SHOP_DSN", "")
    assert list(configured_sources(settings(folder, postgres_dsn="dbname=bank"))) == ["bank"]
    monkeypatch.setenv("SHOP_DSN", "dbname=shop")
    monkeypatch.setenv("WIRES_SERVERS", "broker:9092")
    assert list(configured_sources(settings(folder))) == names[1:]


def test_the_shipped_variables_are_shorthand_for_the_shipped_sources(tmp_path: Path) -> None:
    given = settings(
        SHIPPED,
        postgres_dsn="dbname=bank",
        postgres_slot="s1",
        postgres_publication="p1",
        postgres_tables=("users", 'risk."a,b"'),
        kafka_bootstrap_servers="broker:9092",
        kafka_topic="cards.v2",
        kafka_config_file=tmp_path / "client.properties",
        max_record_bytes=17,
        update_delay=7.5,
    )
    found = configured_sources(given)
    bank, cards = found["bank"], found["cards"]
    assert isinstance(bank, PostgresConfig) and isinstance(cards, TopicConfig)
    assert (bank.name, bank.dsn.get_secret_value(), bank.slot, bank.publication) == ("bank", "dbname=bank", "s1", "p1")
    assert (bank.tables, bank.prefix, bank.update_delay) == (("users", 'risk."a,b"'), "", 7.5)
    assert (cards.name, cards.servers, cards.topic, cards.table) == (
        "cards",
        "broker:9092",
        "cards.v2",
        "card_transactions",
    )
    assert (cards.config_file, cards.max_record_bytes, cards.update_delay) == (
        tmp_path / "client.properties",
        17,
        7.5,
    )
    assert "amt" in [field.name for field in cards.fields]


def test_each_source_has_a_connection_slot_and_delay_of_its_own(everything: Settings) -> None:
    bank, shop = postgres_source(everything, "bank"), postgres_source(everything, "shop")
    assert (bank.slot, bank.publication) == ("fraud_lakehouse", "fraud_lakehouse")
    assert (shop.slot, shop.publication) == ("fraud_lakehouse_shop", "fraud_lakehouse_shop")
    assert (bank.update_delay, shop.update_delay) == (0.0, 1800.0)
    renamed = everything.model_copy(update={"postgres_slot": "s1"})
    assert [postgres_source(renamed, name).slot for name in ("bank", "shop")] == ["s1", "fraud_lakehouse_shop"]
    wires = topic_source(everything, "wires.wires")
    assert (wires.topic, wires.servers, wires.servers_env) == ("wires.v1", "wires.example:9092", "WIRES_SERVERS")


def test_a_live_cycle_is_needed_for_a_source_without_an_update_delay(everything: Settings) -> None:
    assert is_live(configured_sources(everything).values())
    assert not is_live([postgres_source(everything, "shop")])
    assert not is_live([])
    delayed = everything.model_copy(update={"update_delay": 60.0})
    assert not is_live(configured_sources(delayed).values())


def test_tables_of_streams_belong_to_the_database_whose_prefix_they_have(everything: Settings) -> None:
    tables = {one.name: one.tables for one in declared_sources(everything)}
    assert tables == {
        "bank": ("transactions", "users"),
        "shop": ("shop_orders", "shop_people"),
        "wires.wires": ("wires",),
        "wires.refunds": ("refunds",),
    }


def test_a_database_that_lists_its_tables_has_no_other(folder: Path) -> None:
    given = settings(folder, postgres_tables=("transactions", "users", "risk.lists"))
    tables = {one.name: one.tables for one in declared_sources(given)}
    assert tables["bank"] == ("transactions", "users", "risk__lists")
    assert tables["shop"] == ("shop_orders", "shop_people")


def test_no_table_of_a_database_takes_the_name_of_one_that_the_lake_makes(everything: Settings) -> None:
    reserved = postgres_source(everything, "shop").reserved
    assert reserved == {
        "wires",
        "refunds",
        "wires_late",
        *(f"{table}_{what}" for table in ("transactions", "shop_orders") for what in ("history", "ledger")),
        "users_history",
        "shop_people_history",
    }


def test_an_unknown_or_ambiguous_name_says_which_there_are(everything: Settings) -> None:
    with pytest.raises(SettingsError, match=r"several PostgreSQL sources\n  -> name one of: bank, shop"):
        postgres_source(everything)
    with pytest.raises(SettingsError, match=r"several Kafka sources\n  -> name one of: wires.wires, wires.refunds"):
        topic_source(everything)
    with pytest.raises(SettingsError, match=r"no PostgreSQL source wires.wires\n  -> name one of: bank, shop"):
        postgres_source(everything, "wires.wires")
    with pytest.raises(SettingsError, match=r"no source shops\n  -> name one of: bank, shop, wires.wires, wires.ref"):
        source_named(everything, "shops")


def test_a_source_whose_connection_is_not_set_is_named_with_its_variable(folder: Path) -> None:
    given = settings(folder)
    with pytest.raises(SettingsError, match="FRAUD_POSTGRES_DSN or SHOP_DSN is not set, so there is no PostgreSQL"):
        postgres_source(given)
    with pytest.raises(SettingsError, match="WIRES_SERVERS is not set, so there is no Kafka source\n"):
        topic_source(given)
    with pytest.raises(SettingsError, match="SHOP_DSN is not set, so there is no source shop\n"):
        accept(given, Lake.at("unused"), "shop")
    with pytest.raises(SettingsError, match="FRAUD_POSTGRES_DSN is not set, so there is no source bank\n"):
        accept(given, Lake.at("unused"), "postgres")
    (folder / "sources.yml").write_text(SOURCES[: SOURCES.index("wires:")])
    (folder / "streams.yml").write_text(STREAMS[: STREAMS.index("wires:")])
    with pytest.raises(SettingsError, match="declares no Kafka source\n  -> declare one"):
        topic_source(given)


def test_errors_name_the_settings_of_the_source_they_are_about(everything: Settings) -> None:
    bank, shop = postgres_source(everything, "bank"), postgres_source(everything, "shop")
    problem = "FRAUD_POSTGRES_DSN: no server answers; FRAUD_POSTGRES_TABLES and FRAUD_POSTGRES_SLOT are fine"
    commands = ("resync users", "forget-slot", "accept-source postgres")
    fix = " or ".join(f"`fraud-lakehouse {command}`" for command in commands)
    with pytest.raises(SourceTableError) as raised, shop.named():
        raise SourceTableError(problem, fix)
    listed, slot = ("`tables` of the source shop in sources.yml", "`slot` of the source shop in sources.yml")
    assert raised.value.problem == f"SHOP_DSN: no server answers; {listed} and {slot} are fine"
    assert raised.value.fix == (
        "`fraud-lakehouse resync --source shop users` or `fraud-lakehouse forget-slot --source shop`"
        " or `fraud-lakehouse accept-source shop`"
    )
    assert str(raised.value) == f"{raised.value.problem}\n  -> {raised.value.fix}"
    with pytest.raises(SourceTableError) as raised, bank.named():
        raise SourceTableError(problem, fix)
    assert raised.value.problem == problem, "its settings are the shipped ones"
    assert raised.value.fix.endswith("`fraud-lakehouse accept-source bank`")
    ineligibility = shop.renamed(
        Ineligibility("public.a", SourceTableError("no such table", "correct FRAUD_POSTGRES_TABLES"))
    )
    assert ineligibility.error.fix == f"correct {listed}"
