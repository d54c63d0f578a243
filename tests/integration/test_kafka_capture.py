"""Kafka capture on the embedded broker: the contract of every broker, and what only this one can show."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.topic import ANSWER_SECONDS
from tests.fixtures_kafka import Broker, card
from tests.kafka_contract import CaptureContract, drain, offsets
from tests.patience import PATIENCE

pytestmark = pytest.mark.kafka


class TestEmbeddedBroker(CaptureContract):
    deletes_under_a_reader = False  # its answer to a fetch of a deleted topic crashes librdkafka 2.16 (segfault)

    @pytest.fixture
    def broker(self, kafka: Broker) -> Broker:
        return kafka


def test_unreachable_broker_is_named_within_ten_seconds(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path) as server:
        address = server.bootstrap
    started = time.monotonic()
    capture = KafkaCapture(Broker(address).settings("t"))
    with pytest.raises(SourceError, match=f"no Kafka broker answers at {address} .*[Cc]onnection refused"):
        capture.preflight()
    assert time.monotonic() - started < 10


def test_broker_lost_while_reading_then_back_as_another(tmp_path: Path) -> None:
    server = EmbeddedKafka(tmp_path)
    server.start()
    server.create_topic("t", 2)
    broker = Broker(server.bootstrap)
    with KafkaCapture(broker.settings("t")) as capture:
        broker.publish("t", [encode(card(1))])
        positions: dict[str, int] = {}
        assert len(offsets(drain(capture, positions))) == 1
        server.stop()
        with pytest.raises(SourceError, match="no Kafka broker answers"):
            capture.read(positions, 10)
        assert server.start() == broker.bootstrap  # same port, same cluster id, but its topics are new ones
        server.create_topic("t", 2)
        with pytest.raises(GapError, match="accept-source cards"):
            capture.read(positions, 10)
    server.stop()


@pytest.mark.parametrize("rounds", [3])
def test_concurrent_producer_loses_and_doubles_nothing(kafka: Broker, rounds: int) -> None:
    topic = kafka.new_topic(2)
    total = 6000

    def produce() -> None:
        writer = Broker(kafka.bootstrap)
        for start in range(0, total, 50):
            writer.publish(topic, [encode(card(n)) for n in range(start, start + 50)], start // 50 % 2)

    thread = threading.Thread(target=produce)
    thread.start()
    positions: dict[str, int] = {}
    seen: list[tuple[int, int]] = []
    for lock in range(rounds):  # a process dies and its successor goes on from the committed positions
        with KafkaCapture(kafka.settings(topic)) as capture:
            while (lock == rounds - 1 and thread.is_alive()) or len(seen) < total * (lock + 1) // (rounds + 1):
                seen += offsets(drain(capture, positions, max_rows=400))
            capture.read(dict(positions), 10)  # handed out, never committed
    thread.join()
    with KafkaCapture(kafka.settings(topic)) as capture:
        seen += offsets(drain(capture, positions))
    assert len(seen) == len(set(seen)) == total


def test_waiting_notices_that_the_broker_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_lakehouse.sources.kafka.capture.REFRESH_SECONDS", 3600.0)  # it is not asked
    server = EmbeddedKafka(tmp_path)
    server.start()
    server.create_topic("t", 1)
    with KafkaCapture(Broker(server.bootstrap).settings("t")) as capture:
        capture.set_blocking(False)
        assert capture.wait(60) and capture.read({}, 10) is None
        while capture.wait(0.1):  # what the connection said while it was made
            assert capture.read({}, 10) is None
        server.stop()
        deadline = time.monotonic() + PATIENCE
        while not capture.wait(0.1):
            assert time.monotonic() < deadline
        with pytest.raises(SourceError, match="no Kafka broker answers"):
            capture.read({}, 10)


def test_in_haste_a_broker_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    server = EmbeddedKafka(tmp_path)
    server.start()
    server.create_topic("t", 1)
    broker = Broker(server.bootstrap)
    with KafkaCapture(broker.settings("t")) as capture:
        capture.set_blocking(False)
        broker.publish("t", [encode(card(1))])
        positions: dict[str, int] = {}
        while not positions:
            drain(capture, positions)
        server.stop()
        for _ in range(3):  # the first one finds out
            started = time.monotonic()
            with pytest.raises(SourceError, match="no Kafka broker answers"):
                capture.preflight()
            capture.close()
            taken = time.monotonic() - started
        assert taken < ANSWER_SECONDS
        server.start()
        server.create_topic("t", 1)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                capture.preflight()
            except SourceError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                break
    server.stop()
