"""Publishes generated records to a topic at a rate, and what is true of them once the broker has acknowledged them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message

from fraud_lakehouse.demo.truth import Anomaly, Generated, RecordTruth
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.kafka.config import KafkaClients, TopicConfig
from fraud_lakehouse.sources.kafka.topic import KafkaSource, TopicMissingError

_TICK = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Made:
    """A record, with its id; of a fraudulent one also the kind of fraud and the case."""

    value: bytes
    transaction_id: str
    kind: str | None
    case: str | None


class RecordWriter(ABC):
    """Publishes records; writes truth and progress once the broker has acknowledged them.

    Args:
        topic: is created with one partition if it does not exist.
        truth: stores truth and progress.
        rate: records per second.

    Raises:
        SourceError: the broker cannot be reached.
    """

    def __init__(self, topic: TopicConfig, truth: RecordTruth, rate: float) -> None:
        clients = KafkaClients(topic)
        source = KafkaSource(clients, topic.topic)
        try:
            source.describe()
        except TopicMissingError:
            # One partition: at this speed of event time, partitions differ by more than the allowed lateness of 15 s.
            source.create()
        finally:
            source.close()
        self.rate = rate
        self._topic = topic.topic
        self._truth = truth
        self._failed: KafkaError | None = None
        self._producer = clients.producer()

    @property
    @abstractmethod
    def number(self) -> int:
        """Records generated so far."""

    @abstractmethod
    def next(self) -> Made:
        """The next record."""

    def write(self, count: int, stop: threading.Event) -> None:
        """Publish the next `count` records; returns once the broker has acknowledged them, or when `stop` is set.

        Raises:
            SourceError: the broker rejected a record.
        """
        millisecond = time.time_ns() // 1_000_000
        now = datetime.fromtimestamp(millisecond / 1000, UTC)
        anomalies: list[Anomaly] = []
        for _ in range(count):
            made = self.next()
            if made.kind and made.case:
                anomalies.append(Anomaly(made.transaction_id, made.kind, made.case, now))
            self._publish(made.value, millisecond)
        while self._producer.flush(0.2) > 0:
            if stop.is_set() and self._producer.flush(5.0) > 0:
                return  # the broker is unreachable: the next start generates the unacknowledged records again
        if self._failed is not None:
            raise SourceError(f"Kafka rejected a record: {self._failed.str()}", "see the broker's log")
        self._truth.append(anomalies)
        self._truth.save_progress(Generated(self.number, now))

    def run(self, stop: threading.Event) -> None:
        """Publish at the rate until `stop` is set."""
        start, done = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - start) * self.rate) - done
            if due > 0:
                self.write(min(due, max(1, int(self.rate))), stop)  # after an outage, one second's records at once
                done += due
            stop.wait(_TICK if self.rate > 1 / _TICK else min(1 / self.rate, 0.5))

    def _publish(self, value: bytes, timestamp: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, timestamp=timestamp, on_delivery=self._delivered)
            except BufferError:  # the queue is full: wait for the broker
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._failed = error or self._failed
