"""Card records published to a topic, and where the broker says it put each of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, Message, Producer

from fraud_lakehouse.capture.kafka_records import encode
from tests.fixtures_kafka import card

BAD = [b"not json", b'{"amt": "ten"}', b"", b"\xff\xfe", b"[]"]


@dataclass
class CardStream:
    """A producer with an idempotent or plain connection, and the record of what was acknowledged.

    Args:
        bootstrap: the broker.
        topic: an existing topic with `partitions` partitions.
        seed: decides every record.
        transactional: whether the broker knows transactions (Apache Kafka does, the embedded one does not).
    """

    bootstrap: str
    topic: str
    seed: int
    partitions: int = 2
    transactional: bool = False
    published: dict[tuple[int, int], bytes] = field(default_factory=dict)
    aborted: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._number = 0
        config: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "log_level": 0, "linger.ms": 1}
        config |= {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}
        if self.transactional:  # no acknowledged record twice, though the broker restarts under the producer
            config |= {"transactional.id": f"soak-{self.topic}", "transaction.timeout.ms": 60_000}
        self._producer = Producer(config)
        if self.transactional:
            self._producer.init_transactions(60)

    def run(self, records: int, until: Callable[[], bool] = lambda: False) -> None:
        """Publish so many records, some of them unreadable; where there are transactions, some are aborted."""
        left = records
        while left > 0 and not until():
            size = min(left, self._dice.randint(1, 10))
            left -= size
            keep = not (self.transactional and self._dice.random() < 0.15)
            self._batch(size, keep=keep)

    @property
    def good(self) -> int:
        """Acknowledged records that can be read."""
        return sum(value not in BAD for value in self.published.values())

    def close(self) -> None:
        """Wait for the last acknowledgement."""
        self._producer.flush(10)

    def _batch(self, size: int, *, keep: bool) -> None:
        acknowledged: dict[tuple[int, int], bytes] = {}
        values = [self._value() for _ in range(size)]
        if self.transactional:
            self._producer.begin_transaction()

        def note(error: Any, message: Message) -> None:
            assert error is None, error
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            acknowledged[partition, offset] = message.value() or b""

        for value in values:
            self._producer.produce(self.topic, value, partition=self._dice.randrange(self.partitions), on_delivery=note)
        left = self._producer.flush(60)
        assert left == 0, f"{left} records were not acknowledged"
        if self.transactional:
            self._end(keep=keep)
        if keep:
            self.published |= acknowledged
        else:
            self.aborted += len(acknowledged)

    def _end(self, *, keep: bool) -> None:
        while True:
            try:
                if keep:
                    self._producer.commit_transaction(30)
                else:
                    self._producer.abort_transaction(30)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise

    def _value(self) -> bytes:
        self._number += 1
        if self._dice.random() < 0.04:
            return self._dice.choice(BAD)
        number, is_large = self._number, self._dice.random() < 0.03
        amount = self._dice.randint(100_000, 300_000) if is_large else self._dice.randint(500, 5_000)
        is_late = self._dice.random() < 0.02  # its window has closed, but for the first hours
        second = max(0, 30 * number - 28_800) if is_late else 30 * number
        return encode(
            card(
                number,
                trans_date_trans_time=f"2024-{1 + second // 2_419_200:02}-{1 + second // 86_400 % 28:02}"
                f" {second // 3_600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}",
                user_id=self._dice.randint(1, 6),
                amt=amount / 100,
            )
        )
