"""Transactions that keep records of a topic from being read: open ones, with records of others behind them.

A consumer of committed records reads up to the last stable offset: the first record of the oldest transaction that is
neither committed nor aborted. What was committed behind it waits. Decides nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, TopicPartition

from fraud_lakehouse.sources.kafka.config import KafkaClients
from fraud_lakehouse.sources.kafka.topic import KafkaSource, KafkaTopic

_READ_SECONDS = 5.0  # for the first record of an open transaction
_STILL_SECONDS = 1.0  # between the two questions: in a topic under load, transactions are open at every moment


@dataclass(frozen=True)
class OpenTransaction:
    """The oldest open transaction of a partition.

    Args:
        topic, partition: where.
        last_stable_offset: its first record; readers of committed records get no further.
        high_watermark: where the partition ends.
        since: the timestamp of its first record (UTC); None where the record has none.
    """

    topic: str
    partition: int
    last_stable_offset: int
    high_watermark: int
    since: datetime | None

    @property
    def waiting(self) -> int:
        """Records that wait, its own and transaction markers included."""
        return self.high_watermark - self.last_stable_offset


def open_transactions(clients: KafkaClients, source: KafkaSource, topic: KafkaTopic) -> list[OpenTransaction]:
    """The transactions that are open now and still are a second later, by partition; none is the usual answer.

    Raises:
        SourceError: the broker does not answer.
    """
    stable = source.ends(range(topic.partitions))
    ends = source.high_watermarks(stable)  # asked later: what lies between may just have been committed
    suspected = [number for number, end in ends.items() if end > stable[number]]
    if not suspected:
        return []
    time.sleep(_STILL_SECONDS)
    now = source.ends(suspected)
    consumer = clients.uncommitted_consumer()
    try:
        return [
            OpenTransaction(topic.name, number, stable[number], ends[number], _written_at(found))
            for number in suspected
            if now[number] == stable[number]
            and (found := _first_record(consumer, topic.name, number, stable[number])) is not None
        ]
    finally:
        consumer.close()


def _first_record(consumer: Consumer, topic: str, partition: int, offset: int) -> tuple[int, int] | None:
    """The timestamp (kind, ms) of the first record from an offset on, committed or not; None: there is none."""
    consumer.assign([TopicPartition(topic, partition, offset)])
    deadline = time.monotonic() + _READ_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        message = consumer.poll(left)
        if message is not None:
            return None if message.error() else message.timestamp()
    return None


def _written_at(timestamp: tuple[int, int]) -> datetime | None:
    kind, milliseconds = timestamp
    return None if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(milliseconds / 1000, UTC)
