"""Declared topics: their names, connections and settings, and what errors name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import load_pipeline
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import KafkaClients, TopicConfig, shipped_topic, topic_configs
from fraud_lakehouse.sources.kafka.records import RecordDecoder
from fraud_lakehouse.sources.kafka.topic import KafkaSource
from tests.fixtures_kafka import CARDS

SOURCES = """\
wires:
  type: kafka
  servers_env: WIRES_SERVERS
  config_file_env: WIRES_CONFIG
  topics:
    - {topic: wires, table: wires, fields: {id: string, at: timestamp, amount: double, sender: string}}
orders:
  type: kafka
  servers_env: SHOP_SERVERS
  topics:
    - {topic: orders, topic_env: SHOP_ORDERS, table: orders, fields: {id: string}}
    - {topic: returns, table: returns, fields: {id: string}}
"""
STREAMS = "wires: {from: wires, kind: events, id: id, time: at, amount: amount, entities: {sender: sender}}\n"


def topics(folder: Path, **environment: str) -> dict[str, TopicConfig]:
    (folder / "sources.yml").write_text(SOURCES)
    (folder / "streams.yml").write_text(STREAMS)
    found = topic_configs(load_pipeline(folder, environment), environment, 1_000)
    return {topic.name: topic for topic in found}


def test_each_topic_has_its_own_name_table_and_connection(tmp_path: Path) -> None:
    found = topics(tmp_path, WIRES_SERVERS="w:1", WIRES_CONFIG="/etc/wires", SHOP_ORDERS="orders-2")
    assert {name: (one.topic, one.table, one.servers, one.config_file, one.aliases) for name, one in found.items()} == {
        "wires": ("wires", "wires", "w:1", Path("/etc/wires"), ("wires.wires",)),
        "orders.orders": ("orders-2", "orders", None, None, ("orders",)),
        "orders.returns": ("returns", "returns", None, None, ("orders",)),
    }
    assert [field.name for field in found["wires"].fields] == ["id", "at", "amount", "sender"]
    assert found["wires"].max_record_bytes == 1_000
    assert found["wires"].stream is not None and found["wires"].stream.time == "at"
    assert found["orders.orders"].stream is None


def test_the_settings_are_shorthand_for_the_shipped_topic() -> None:
    settings = Settings(kafka_bootstrap_servers="a:1", kafka_topic="cards-2", kafka_config_file=Path("/etc/kafka"))
    topic = shipped_topic(settings)
    assert (topic.name, topic.servers, topic.config_file, topic.topic) == (
        "cards",
        "a:1",
        Path("/etc/kafka"),
        "cards-2",
    )
    assert topic.renamed == {"cards.card_transactions": "cards", "kafka": "cards"}
    assert (topic.table, topic.stream and topic.stream.name) == ("card_transactions", "card_payments")
    assert shipped_topic(Settings()).servers is None


def test_errors_name_the_topics_own_settings(tmp_path: Path) -> None:
    found = topics(tmp_path, WIRES_SERVERS="127.0.0.1:1", SHOP_SERVERS="127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"SHOP_SERVERS is not set, and the source orders\.orders needs it"):
        KafkaCapture(Settings(), replace(found["orders.orders"], servers=None))
    missing = KafkaSource(KafkaClients(found["orders.orders"]), "orders").unreachable(1)
    assert "check SHOP_SERVERS" in missing.fix and "config_file_env of orders.orders" in missing.fix
    assert "WIRES_CONFIG" in KafkaSource(KafkaClients(found["wires"]), "wires").unreachable(1).fix
    file = tmp_path / "properties"
    file.write_text("bootstrap.servers=x:1")
    with pytest.raises(SettingsError, match=r"WIRES_CONFIG: .*properties, line 1: .*\n.*set WIRES_SERVERS instead"):
        KafkaClients(replace(found["wires"], config_file=file))


def test_a_format_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SettingsError, match="cards: there is no format 'xml'"):
        RecordDecoder(replace(CARDS, format="xml"))
