"""The embedded Kafka broker of the tests: one a session, topics of their own for each test."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from fraud_lakehouse.demo.card_record import CardTransaction
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import shipped_topic
from fraud_lakehouse.sources.kafka.formats.json import MAX_RECORD_BYTES
from fraud_lakehouse.sources.kafka.records import RawRecords, RecordDecoder, schema_of
from tests.patience import PATIENCE

pytest.register_assert_rewrite("tests.kafka_contract")


CARDS = shipped_topic(Settings())
"""The shipped topic of card payments."""

CARD_SCHEMA = schema_of(CARDS)


def decode(records: RawRecords, most_bytes: int = MAX_RECORD_BYTES) -> pl.DataFrame:
    """Card records as capture decodes them."""
    return RecordDecoder(replace(CARDS, max_record_bytes=most_bytes)).decode(records)


class Broker:
    """A running broker, and what tests do with it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "linger.ms": 1})

    def settings(self, topic: str, **others: object) -> Settings:
        return Settings(kafka_bootstrap_servers=self.bootstrap, kafka_topic=topic, **others)

    def new_topic(self, partitions: int = 1, **config: str) -> str:
        name = f"test-{uuid4().hex[:12]}"
        self.create(name, partitions, **config)
        return name

    def create(self, name: str, partitions: int = 1, **config: str) -> None:
        wanted = NewTopic(name, partitions, 1, config={key.replace("_", "."): text for key, text in config.items()})
        self.admin.create_topics([wanted])[name].result(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        # its answer to who creates a topic may come before it knows of it itself
        while name not in self.admin.list_topics(timeout=60).topics:
            assert time.monotonic() < deadline, f"the broker does not know topic {name}, which it has created"
            time.sleep(0.05)

    def delete(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(PATIENCE)

    def publish(
        self, topic: str, values: Iterable[bytes | None], partition: int = 0, timestamp: int | None = None
    ) -> None:
        """Publish and wait until all are acknowledged; `timestamp` in ms for all of them."""
        for value in values:
            if timestamp is None:
                self._producer.produce(topic, value, partition=partition)
            else:
                self._producer.produce(topic, value, partition=partition, timestamp=timestamp)
        assert self._producer.flush(PATIENCE) == 0


def card(number: int, **others: object) -> CardTransaction:
    """A good record whose trans_num tells its number."""
    fields: dict[str, object] = {
        "trans_date_trans_time": f"2024-01-01 {number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}",
        "cc_num": 4428780000000000000,
        "merchant": "fraud_Olson, Becker and Koch",
        "category": "gas_transport",
        "amt": 82.55,
        "first": "Richard",
        "last": "Waters",
        "zipcode": "53186",
        "dob": "1/2/46",
        "trans_num": f"{number:032x}",
        "is_fraud": 0,
        "user_id": 7109464218691269943,
    }
    return CardTransaction(**(fields | others))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    """The running embedded broker itself."""
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-kafka-"))
    server = EmbeddedKafka(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(embedded_kafka: EmbeddedKafka) -> Broker:
    """The embedded broker: `.bootstrap`, `.new_topic(partitions)`, `.publish(topic, values)`, `.settings(topic)`."""
    return Broker(embedded_kafka.bootstrap)
