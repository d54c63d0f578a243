"""`replay` against the embedded broker."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from fraud_lakehouse.demo.card_record import FIELDS
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.replay import ReplayFileError, replay
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.kafka import topic as kafka_source
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from tests.fixtures_kafka import Broker
from tests.kafka_contract import SPARKOV_HEADER, sparkov_line, write_sparkov

pytestmark = pytest.mark.kafka


def test_published_json_has_the_twelve_keys_in_order(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    assert replay(kafka.settings(topic), write_sparkov(tmp_path, 3)).published == 3
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "g", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        messages = consumer.consume(3, 10)
        assert [message.key() for message in messages] == [None] * 3
        texts = [bytes(message.value() or b"") for message in messages]
    finally:
        consumer.close()
    assert [tuple(json.loads(text)) for text in texts] == [FIELDS] * 3
    assert texts[0].startswith(b'{"trans_date_trans_time":"2019-01-01 00:00:00","cc_num":2703186189652095,"merchant":')


def test_a_pipe_is_replayed_since_the_file_is_read_once(kafka: Broker, tmp_path: Path) -> None:
    topic, pipe = kafka.new_topic(), tmp_path / "pipe.csv"
    content = write_sparkov(tmp_path, 3).read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    assert replay(kafka.settings(topic), pipe).published == 3
    writer.join()


def test_rate_is_kept(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    started = time.monotonic()
    result = replay(kafka.settings("other"), write_sparkov(tmp_path, 100), rate=100, topic=topic)
    assert 0.9 < time.monotonic() - started < 5
    assert (result.published, result.topic) == (100, topic)


def test_wrong_line_publishes_nothing(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    path = tmp_path / "x.csv"
    path.write_text("\n".join([SPARKOV_HEADER, sparkov_line(0), sparkov_line(1, amt="?")]))
    with pytest.raises(ReplayFileError, match="no record was published"):
        replay(kafka.settings(topic), path)
    with KafkaCapture(kafka.settings(topic)) as capture:
        assert capture.read({}, 10) is None


def test_broker_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_source, "ANSWER_SECONDS", 1.0)
    with EmbeddedKafka(tmp_path / "kafka") as server:
        address = server.bootstrap
    with pytest.raises(SourceError, match=f"no Kafka broker answers at {address}"):
        replay(Broker(address).settings("t"), write_sparkov(tmp_path, 1))


def test_progress_is_reported_up_to_the_last_record(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.demo.replay.REPORT_ROWS", 2)
    seen: list[tuple[int, int]] = []
    replay(kafka.settings(kafka.new_topic()), write_sparkov(tmp_path, 5), report=lambda *of: seen.append(of))
    assert {total for _, total in seen} == {5}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == 3 and seen[-1] == (5, 5)
