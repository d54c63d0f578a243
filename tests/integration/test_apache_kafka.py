"""Kafka capture on real Apache Kafka: the contract of every broker, retention, transactions, new partitions."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from fraud_lakehouse.checks.open_transactions import current_transactions
from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.defs.open_transactions import transactions_evaluation
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.ingest.quarantine import Quarantine, Selection
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka import capture as capture_module
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import shipped_topic
from fraud_lakehouse.sources.kafka.formats.json import TOMBSTONE
from fraud_lakehouse.sources.kafka.topic import RetentionGapError
from fraud_lakehouse.storage.lake import Lake
from tests.apache_kafka import PASSWORD, USER, ApacheKafka, make_certificate
from tests.fixtures_kafka import CARDS, Broker, card
from tests.kafka_contract import CaptureContract, drain, offsets
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.apache_kafka, pytest.mark.timeout(1200)]


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
        assert deleted.result(PATIENCE).low_watermark == offset


def test_retention_that_passed_us_fails_closed(broker: Broker) -> None:
    topic = broker.new_topic(2)
    broker.publish(topic, [encode(card(n)) for n in range(10)], 1)
    with KafkaCapture(broker.settings(topic)) as capture:
        batch = capture.read({}, 4)
        assert batch is not None
        app_id = capture.topic.app_id(1)
        assert batch.positions[app_id] == 4
        delete_before(broker, topic, 1, 7)
        reported = r"partition 1: our next offset 4 is before the earliest the broker still has, 7"
        with KafkaCapture(broker.settings(topic)) as other, pytest.raises(RetentionGapError, match=reported):
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
        broker.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(PATIENCE)
        Broker(broker.bootstrap).publish(topic, [encode(card(1))], 2)  # the first one has not heard of it yet
        seen: list[tuple[int, int]] = []
        while not seen:
            assert capture.wait(60)
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
        producer.flush(PATIENCE)
        if keep:
            producer.commit_transaction(10)
        else:
            producer.abort_transaction(10)
    producer.begin_transaction()
    producer.produce(topic, encode(card(99)))
    producer.flush(PATIENCE)  # open: neither readable nor lag
    with KafkaCapture(broker.settings(topic)) as capture:
        positions: dict[str, int] = {}
        batches = drain(capture, positions)
        assert [row for batch in batches for row in batch.frame["trans_num"]] == [f"{n:032x}" for n in (0, 2)]
        assert list(positions.values()) == [6]  # past the last transaction's marker
        assert capture.confirmed_ends() == positions
        assert capture.lag(positions).rows == 0
        producer.commit_transaction(10)
        assert [row for batch in drain(capture, positions) for row in batch.frame["trans_num"]] == [f"{99:032x}"]
        producer.begin_transaction()
        producer.produce(topic, encode(card(100)))
        producer.flush(PATIENCE)
        producer.abort_transaction(10)
        assert not drain(capture, positions)
        assert capture.lag().rows == 0, "nothing will ever be handed out of what lies behind the last record"


def test_a_hanging_transaction_is_named_and_ended_by_the_command_it_names(
    apache_server: ApacheKafka, broker: Broker, tmp_path: Path
) -> None:
    topic = broker.new_topic(2)
    settings = broker.settings(topic, lake=str(tmp_path), kafka_transaction_seconds=3.0)
    hung = producer(broker, transactional_id=topic, transaction_timeout_ms=600_000)
    hung.init_transactions(30)
    hung.begin_transaction()
    hung.produce(topic, encode(card(99)), partition=1)
    assert hung.flush(PATIENCE) == 0
    for partition in (0, 1):
        broker.publish(topic, [encode(card(number)) for number in range(4)], partition)
    lake = Lake.at(tmp_path)

    def ingested() -> list[tuple[int, int]]:
        with KafkaIngest(settings, lake) as ingest:
            while ingest.step(100, 0.5):
                pass
        rows = pl.read_delta(lake.uri("bronze", "card_transactions"))
        return sorted(rows.select("_partition", "_offset").rows())

    assert ingested() == [(0, number) for number in range(4)], "what is committed behind the transaction waits"
    blocking = settings.model_copy(update={"kafka_transaction_seconds": 600.0})
    found = current_transactions(shipped_topic(blocking), blocking)
    assert [(one.found.partition, one.hanging) for one in found] == [(1, False)], "in progress"
    assert "hanging transaction:" not in render(collect(blocking))
    deadline = time.monotonic() + PATIENCE
    while not [one for one in current_transactions(shipped_topic(settings), settings) if one.hanging]:
        assert time.monotonic() < deadline
    (kafka,) = collect(settings).sources
    (reported,) = kafka.open_transactions
    assert (reported["last_stable_offset"], reported["high_watermark"], reported["waiting"], kafka.lag_rows) == (
        0,
        5,
        5,
        0,
    )
    (evaluation,) = transactions_evaluation(settings, current_transactions)
    assert not evaluation.passed and evaluation.metadata["waiting"].value == 5
    describe, abort, find = (named.split() for named in re.findall(r"`kafka-transactions.sh ([^`]+)`", reported["fix"]))
    assert "ProducerId" in apache_server.transactions_tool(*describe)
    apache_server.transactions_tool(*find)
    apache_server.transactions_tool(*abort)
    assert ingested()[4:] == [(1, number) for number in range(1, 5)], "its own record is none"
    assert collect(settings).sources[0].open_transactions == []
    (evaluation,) = transactions_evaluation(settings, current_transactions)
    assert evaluation.passed


def test_transactions_that_come_and_go_do_not_hang(broker: Broker) -> None:
    """A topic under load has one open at every moment; records replayed with old timestamps make each look old."""
    topic = broker.new_topic()
    settings, stop = broker.settings(topic, kafka_transaction_seconds=1.0), threading.Event()
    busy = producer(broker, transactional_id=topic)
    busy.init_transactions(30)

    def write() -> None:
        while not stop.is_set():
            busy.begin_transaction()
            busy.produce(topic, encode(card(1)), timestamp=1_577_836_800_000)
            busy.flush(PATIENCE)
            stop.wait(0.1)
            busy.commit_transaction(PATIENCE)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert [current_transactions(shipped_topic(settings), settings) for _ in range(5)] == [[]] * 5
    finally:
        stop.set()
        thread.join()


def producer(broker: Broker, **config: object) -> Producer:
    names = {name.replace("_", "."): value for name, value in config.items()}
    return Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0, "linger.ms": 100} | names)


def test_every_compression_is_read(broker: Broker) -> None:
    topic = broker.new_topic()
    kinds = ["gzip", "snappy", "lz4", "zstd"]
    for start, kind in enumerate(kinds):
        writer = producer(broker, compression_type=kind)
        for number in range(100 * start, 100 * start + 100):
            writer.produce(topic, encode(card(number)))
        assert writer.flush(PATIENCE) == 0
    with KafkaCapture(broker.settings(topic)) as capture:
        batches = drain(capture, {})
    assert [row for batch in batches for row in batch.frame["trans_num"]] == [f"{n:032x}" for n in range(400)]


def test_a_compacted_topic_with_tombstones_and_holes(broker: Broker) -> None:
    config = {"cleanup_policy": "compact", "segment_ms": "100", "min_cleanable_dirty_ratio": "0.01"}
    topic = broker.new_topic(1, **config)
    writer = producer(broker)
    for number in range(30):
        writer.produce(topic, encode(card(number)), key=f"user {number % 3}", headers=[("try", b"\xff")])
    writer.produce(topic, None, key="user 0")
    assert writer.flush(PATIENCE) == 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # the segment being written to is never compacted: a record makes it roll
        time.sleep(0.3)
        writer.produce(topic, encode(card(99)), key="roll")
        assert writer.flush(PATIENCE) == 0
        with KafkaCapture(broker.settings(topic)) as capture:
            positions: dict[str, int] = {}
            batches = drain(capture, positions)
            seen = [offset for _, offset in offsets(batches)]
            if len(seen) < positions[capture.topic.app_id(0)]:
                break
    frame = pl.concat([batch.frame for batch in batches]).filter(pl.col("_key") != b"roll")
    assert seen == sorted(seen) and 0 not in seen and max(seen) >= 31
    rows = frame.select("_offset", "_key", "_error", "_headers", "trans_num").rows()
    assert rows[0] == (28, b"user 1", None, '[["try","base64","/w=="]]', f"{28:032x}")
    assert rows[1] == (29, b"user 2", None, '[["try","base64","/w=="]]', f"{29:032x}")
    assert rows[2] == (30, b"user 0", TOMBSTONE, None, None)


def test_a_huge_record_is_quarantined_whole_and_holds_nothing_up(broker: Broker, tmp_path: Path) -> None:
    topic = broker.new_topic(1, max_message_bytes="9000000")
    huge = encode(card(1, merchant="m" * 5_000_000))
    writer = producer(broker, message_max_bytes=9_000_000)
    for value in (encode(card(0)), huge, encode(card(2)), b""):
        writer.produce(topic, value)
    assert writer.flush(PATIENCE) == 0
    settings = broker.settings(topic, lake=str(tmp_path))
    lake = Lake.at(tmp_path)
    with KafkaIngest(settings, lake) as ingest:
        assert sum(batch.rows for batch in ingest.step(100, 0.5)) == 4
    records = Quarantine(lake, CARDS).records(Selection(reason="longer than FRAUD_MAX_RECORD_BYTES"))
    assert [(one["offset"], one["bytes"]) for one in records] == [(1, len(huge))]
    assert Quarantine(lake, replace(CARDS, max_record_bytes=6_000_000)).replay(Selection()).rows == 1
    cards = pl.read_delta(lake.uri("bronze", "card_transactions")).filter(pl.col("_error").is_null())
    assert sorted(cards["trans_num"]) == [f"{n:032x}" for n in (0, 1, 2)]


def test_a_broker_that_restarts_loses_and_doubles_nothing(apache_server: ApacheKafka, broker: Broker) -> None:
    topic = broker.new_topic(2)
    for partition in (0, 1):
        broker.publish(topic, [encode(card(n)) for n in range(50)], partition)
    with KafkaCapture(broker.settings(topic)) as capture:
        positions: dict[str, int] = {}
        batch = capture.read(positions, 30)
        assert batch is not None
        positions.update(batch.positions)
        apache_server.restart()
        seen = offsets([batch])
        broker.publish(topic, [encode(card(50))], 0)
        deadline = time.monotonic() + PATIENCE
        while len(seen) < 101 and time.monotonic() < deadline:
            try:
                seen += offsets(drain(capture, positions))
            except SourceError:
                capture.close()  # as the lake's step does
        assert sorted(seen) == [(0, n) for n in range(51)] + [(1, n) for n in range(50)]


def secured(server: ApacheKafka, folder: Path, topic: str, password: str, certificate: Path, kind: str) -> Settings:
    """Settings of a client that logs in by `kind`, its secrets in a configuration file."""
    lines = ["security.protocol=SASL_SSL", f"sasl.mechanism={kind}", f"sasl.username={USER}"]
    file = folder / "client.properties"
    file.write_text("\n".join([*lines, f"sasl.password={password}", f"ssl.ca.location={certificate}"]))
    return Settings(kafka_bootstrap_servers=server.secure, kafka_topic=topic, kafka_config_file=file)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_sasl_and_tls_by_configuration_file(
    apache_server: ApacheKafka, broker: Broker, tmp_path: Path, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = broker.new_topic()
    broker.publish(topic, [encode(card(n)) for n in range(3)])
    settings = secured(apache_server, tmp_path, topic, PASSWORD, apache_server.certificate, mechanism)
    with KafkaCapture(settings) as capture:
        assert offsets(drain(capture, {})) == [(0, 0), (0, 1), (0, 2)]
        assert PASSWORD not in repr(capture) + repr(vars(capture)) + repr(settings)
    wrong = secured(apache_server, tmp_path, topic, "wrong-0815", apache_server.certificate, mechanism)
    with KafkaCapture(wrong) as refused:
        refused.set_blocking(False)
        with pytest.raises(SourceError, match=r"uthentication .*\n.*FRAUD_KAFKA_CONFIG_FILE") as reported:
            refused.preflight()
        assert "wrong-0815" not in str(reported.value) + caplog.text


def test_a_certificate_of_nobody_we_trust_is_refused(
    apache_server: ApacheKafka, broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(tmp_path / "other.p12", tmp_path / "other.pem")
    settings = secured(apache_server, tmp_path, broker.new_topic(), PASSWORD, tmp_path / "other.pem", "PLAIN")
    with KafkaCapture(settings) as stranger:
        stranger.set_blocking(False)
        with pytest.raises(SourceError, match="certificate verify failed") as reported:
            stranger.preflight()
        assert PASSWORD not in str(reported.value) + caplog.text
