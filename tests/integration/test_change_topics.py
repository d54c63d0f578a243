"""Topics of change events on a real broker, JSON and Avro with a registry: typed rows, once, through an outage."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer

from fraud_lakehouse.checks.contracts import check_bronze
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest import kafka as kafka_ingest
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.ingest.quarantine import Quarantine, Selection
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_sources, declared_topics
from fraud_lakehouse.sources.kafka import reader
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.storage.lake import Lake
from tests.change_records import event, plain
from tests.fixtures_kafka import Broker
from tests.patience import PATIENCE
from tests.schema_registry import SchemaRegistry, written

pytestmark = pytest.mark.kafka

SOURCES = """
shop:
  type: kafka
  servers_env: SHOP_SERVERS
  registry_env: SHOP_REGISTRY
  topics:
    - {topic: accounts, topic_env: ACCOUNTS, table: accounts, format: debezium, key: [id], decimals: string,
       fields: {id: int64, limit_amt: "decimal(12,2)"}}
    - {topic: orders, topic_env: ORDERS, table: orders, format: debezium_avro, key: [id], fields: {id: int64}}
"""
ROW = {"type": "record", "name": "Row", "fields": [{"name": "ID", "type": "long"}]}
SOURCE = {"type": "record", "name": "Source", "fields": [{"name": "lsn", "type": "long"}]}
ORDER = {
    "type": "record",
    "name": "Envelope",
    "fields": [
        {"name": "before", "type": ["null", ROW]},
        {"name": "after", "type": ["null", "Row"]},
        {"name": "source", "type": SOURCE},
        {"name": "op", "type": "string"},
    ],
}


@pytest.fixture
def topics(kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, TopicConfig]:
    (tmp_path / "sources.yml").write_text(SOURCES)
    (tmp_path / "streams.yml").write_text("{}")
    given = {"FRAUD_PIPELINE": str(tmp_path), "SHOP_SERVERS": kafka.bootstrap, "SHOP_REGISTRY": "http://127.0.0.1:1"}
    for name, value in (given | {"ACCOUNTS": kafka.new_topic(1), "ORDERS": kafka.new_topic(1)}).items():
        monkeypatch.setenv(name, value)
    return {topic.table: topic for topic in declared_topics(Settings())}


def publish(kafka: Broker, topic: str, *records: tuple[bytes | None, bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(PATIENCE) == 0


def bronze(lake: Lake, table: str) -> pl.DataFrame:
    return pl.read_delta(lake.uri("bronze", table)).sort("_offset")


def test_an_unreachable_registry_pauses_only_its_topics(
    kafka: Broker, topics: dict[str, TopicConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(tmp_path / "lake")
    row = {"ID": 1, "LIMIT_AMT": "1000.50"}
    bad = plain(event("c", None, {"ID": "x", "LIMIT_AMT": None}))
    created = plain(event("c", None, row, lsn=7))
    publish(kafka, topics["accounts"].topic, (b'{"ID":1}', created), (b'{"ID":1}', None), (b'{"ID":2}', bad))
    orders = [
        (None, written(1, ORDER, event("c", None, {"ID": number}, lsn=number) | {"ts_ms": None})) for number in range(3)
    ]
    publish(kafka, topics["orders"].topic, *orders)

    with pytest.raises(SourceError, match="the schema registry of SHOP_REGISTRY cannot be reached"):
        KafkaIngest(Settings(), lake, topics["orders"]).step(100)
    with KafkaIngest(Settings(), lake, topics["accounts"]) as ingest:
        assert sum(item.rows for item in ingest.step(100)) == 3
    found = bronze(lake, "accounts")
    assert found.select("_op", "id", "limit_amt", "_lsn", "_raw").rows() == [
        ("c", 1, Decimal("1000.50"), 7, None),
        ("d", 1, None, None, None),
        (None, None, None, None, bad),
    ]
    assert all(result.passed for result in check_bronze(lake, "accounts", topics["accounts"])[:1])

    with SchemaRegistry() as registry:
        registry.add(ORDER)
        monkeypatch.setenv("SHOP_REGISTRY", registry.url)
        there = {topic.table: topic for topic in declared_topics(Settings())}
        with KafkaIngest(Settings(), lake, there["orders"]) as ingest:
            ingest.step(100)
            registry.status = 503  # the schema is known
            publish(kafka, there["orders"].topic, orders[0])
            ingest.step(100, PATIENCE)
    assert bronze(lake, "orders").select("_offset", "id", "_lsn", "_error").rows() == [
        (0, 0, 0, None),
        (1, 1, 1, None),
        (2, 2, 2, None),
        (3, 0, 0, None),
    ]

    corrected = {
        (one["topic"], one["partition"], one["offset"], one["quarantined_at"]): plain(event("c", None, row | {"ID": 2}))
        for one in Quarantine(lake, topics["accounts"]).records(Selection())
    }
    assert Quarantine(lake, topics["accounts"]).replay(Selection(), corrected).rows == 1
    assert bronze(lake, "accounts")["id"].to_list()[2:] in ([None, 2], [2, None])


def test_a_registry_that_fails_in_the_middle_of_a_backlog_loses_no_record(
    kafka: Broker, topics: dict[str, TopicConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_ingest, "PIECE_ROWS", 10)
    monkeypatch.setattr(reader, "CHUNK", 10)
    lake = Lake.at(tmp_path / "lake")
    values = [
        written(2 if 10 <= number < 20 else 1, ORDER, event("c", None, {"ID": number}, lsn=number) | {"ts_ms": None})
        for number in range(40)
    ]
    publish(kafka, topics["orders"].topic, *((None, value) for value in values))
    with SchemaRegistry() as registry:
        registry.add(ORDER)
        registry.add(ORDER | {"doc": "a later version"})
        registry.broken = {2}
        monkeypatch.setenv("SHOP_REGISTRY", registry.url)
        there = {topic.table: topic for topic in declared_topics(Settings())}
        with KafkaIngest(Settings(), lake, there["orders"]) as ingest:
            assert ingest.step(100), "what could be read is landed"
            with pytest.raises(SourceError, match="answers 503"):
                ingest.step(100, PATIENCE)
            registry.broken = set()
            while ingest.step(100, 0.5):
                pass
    assert bronze(lake, "orders")["id"].to_list() == list(range(40))


@pytest.mark.usefixtures("topics")
def test_a_topic_whose_registry_is_not_set_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_REGISTRY")
    found = {source.name: (source.config is not None, source.variable) for source in declared_sources(Settings())}
    assert found == {"shop.accounts": (True, "SHOP_SERVERS"), "shop.orders": (False, "SHOP_REGISTRY")}
