"""Kafka capture on real Apache Kafka: the contract of every broker, retention, transactions, new partitions."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from fraud_lakehouse.capture import kafka as capture_module
from fraud_lakehouse.capture.kafka import KafkaCapture
from fraud_lakehouse.capture.kafka_records import encode
from fraud_lakehouse.capture.kafka_source import RetentionGapError
from tests.apache_kafka import VERSION, ApacheKafka, ApacheKafkaMissingError
from tests.fixtures_kafka import Broker, card
from tests.kafka_contract import CaptureContract, drain, offsets

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Broker]:
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-apache-kafka-"))
    server = ApacheKafka(home)
    try:
        server.start()
        yield Broker(server.bootstrap)
    except ApacheKafkaMissingError as reason:
        told = f"Apache Kafka {VERSION} cannot be had here, capture is not tested against it: {reason}"
        if os.environ.get("FRAUD_TEST_REQUIRE_APACHE_KAFKA") == "1":
            pytest.fail(told)
        pytest.skip(told)
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


class TestApacheKafka(CaptureContract):
    @pytest.fixture
    def broker(self, apache_kafka: Broker) -> Broker:
        return apache_kafka


@pytest.fixture
def broker(apache_kafka: Broker) -> Broker:
    return apache_kafka


def delete_before(broker: Broker, topic: str, partition: int, offset: int) -> None:
    """What retention does, at once."""
    for deleted in broker.admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        assert deleted.result(10).low_watermark == offset


def test_retention_that_passed_us_fails_closed(broker: Broker) -> None:
    topic = broker.new_topic(2)
    broker.publish(topic, [encode(card(n)) for n in range(10)], 1)
    with KafkaCapture(broker.settings(topic)) as capture:
        batch = capture.read({}, 4)
        assert batch is not None
        app_id = capture.topic.app_id(1)
        assert batch.positions[app_id] == 4
        delete_before(broker, topic, 1, 7)
        told = r"partition 1: our next offset 4 is before the earliest the broker still has, 7"
        with KafkaCapture(broker.settings(topic)) as other, pytest.raises(RetentionGapError, match=told):
            other.read(batch.positions, 10)
        assert capture.lag(batch.positions).partitions[app_id].start == 7
    with KafkaCapture(broker.settings(topic)) as fresh:  # nothing landed yet: the earliest there is
        assert offsets(drain(fresh, {})) == [(1, 7), (1, 8), (1, 9)]


def test_retention_that_passes_a_running_reader_fails_closed(broker: Broker) -> None:
    topic = broker.new_topic()
    broker.publish(topic, [encode(card(n)) for n in range(3)])
    with KafkaCapture(broker.settings(topic)) as capture:
        positions: dict[str, int] = {}
        drain(capture, positions)
        (app_id,) = positions
        broker.publish(topic, [encode(card(n)) for n in range(3, 9)])
        delete_before(broker, topic, 0, 6)
        with pytest.raises(RetentionGapError, match="our next offset 1 is before the earliest the broker still has, 6"):
            capture.read({app_id: 1}, 10)
        assert offsets(drain(capture, {app_id: 6})) == [(0, 6), (0, 7), (0, 8)]


def test_partition_added_while_running_is_picked_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "REFRESH_SECONDS", 0.1)
    topic = broker.new_topic()
    broker.publish(topic, [encode(card(0))])
    with KafkaCapture(broker.settings(topic)) as capture:
        positions: dict[str, int] = {}
        assert offsets(drain(capture, positions)) == [(0, 0)]
        broker.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
        Broker(broker.bootstrap).publish(topic, [encode(card(1))], 2)  # the first one has not heard of it yet
        seen: list[tuple[int, int]] = []
        while not seen:
            assert capture.wait(10)
            seen += offsets(drain(capture, positions))
        assert seen == [(2, 0)]
        assert len(capture.partitions()) == 3


def test_only_committed_transactions_are_read_and_the_end_is_the_end(broker: Broker) -> None:
    topic = broker.new_topic()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for number, keep in enumerate([True, False, True]):
        producer.begin_transaction()
        producer.produce(topic, encode(card(number)))
        producer.flush(10)
        if keep:
            producer.commit_transaction(10)
        else:
            producer.abort_transaction(10)
    producer.begin_transaction()
    producer.produce(topic, encode(card(99)))
    producer.flush(10)  # open: neither readable nor lag
    with KafkaCapture(broker.settings(topic)) as capture:
        positions: dict[str, int] = {}
        batches = drain(capture, positions)
        assert [row for batch in batches for row in batch.frame["trans_num"]] == [f"{n:032x}" for n in (0, 2)]
        assert list(positions.values()) == [6]  # past the last transaction's marker
        assert capture.lag(positions).rows == 0
        producer.commit_transaction(10)
        assert [row for batch in drain(capture, positions) for row in batch.frame["trans_num"]] == [f"{99:032x}"]
