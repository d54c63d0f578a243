"""Card records published to a topic, and where the broker says it put each of them."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, Message, Producer

from fraud_lakehouse.demo.card_record import CardTransaction, encode
from tests.fixtures_kafka import card

PINNED = (1, 2, 3)
"""Users whose payments all go to one partition, so that the order of their arrival is that of the offsets."""
_PINNED_USER = re.compile(rb'"user_id":([123])[,}]')
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
    poison: set[bytes] = field(default_factory=set)
    aborted: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._lock = threading.Lock()
        self._number = 0
        config: dict[str, Any] = {"bootstrap.servers": self.bootstrap, "log_level": 0, "linger.ms": 1}
        config |= {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}
        if self.transactional:  # no acknowledged record twice, though the broker restarts under the producer
            config |= {"transactional.id": f"soak-{self.topic}", "transaction.timeout.ms": 60_000}
        self._producer = Producer(config)
        if self.transactional:
            self._producer.init_transactions(60)

    def pay(self, amount: float, **others: object) -> str:
        """Publish one payment of this amount; its trans_num."""
        with self._lock:
            number, second = self._next()
            record = _record(number, second, **{"user_id": self._dice.randint(1, 6), "amt": amount, **others})
            self._publish([encode(record)], keep=True)
            return record.trans_num

    def publish_poison(self, **fields: object) -> None:
        """Publish one record whose fields are replaced by these values, of whatever type; it may be quarantined."""
        with self._lock:
            number, second = self._next()
            values = json.loads(encode(_record(number, second, user_id=self._dice.randint(1, 6)))) | fields
            value = json.dumps(values, separators=(",", ":")).encode()
            self.poison.add(value)
            self._publish([value], keep=True)

    def run(self, records: int, until: Callable[[], bool] = lambda: False) -> None:
        """Publish so many records, some of them unreadable; where there are transactions, some are aborted."""
        left = records
        while left > 0 and not until():
            size = min(left, self._dice.randint(1, 10))
            left -= size
            keep = not (self.transactional and self._dice.random() < 0.15)
            with self._lock:
                self._publish([self._value() for _ in range(size)], keep=keep)

    @property
    def good(self) -> int:
        """Acknowledged records that can be read."""
        return sum(value not in BAD for value in self.published.values())

    def close(self) -> None:
        """Wait for the last acknowledgement."""
        self._producer.flush(10)

    def _publish(self, values: list[bytes], *, keep: bool) -> None:
        acknowledged: dict[tuple[int, int], bytes] = {}
        if self.transactional:
            self._producer.begin_transaction()

        def note(error: Any, message: Message) -> None:
            assert error is None, error
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            acknowledged[partition, offset] = message.value() or b""

        for value in values:
            self._producer.produce(self.topic, value, partition=self._partition(value), on_delivery=note)
        left = self._producer.flush(60)
        assert left == 0, f"{left} records were not acknowledged"
        if self.transactional:
            self._end(keep=keep)
        if keep:
            self.published |= acknowledged
        else:
            self.aborted += len(acknowledged)

    def _partition(self, value: bytes) -> int:
        pinned = _PINNED_USER.search(value)
        return int(pinned[1]) % self.partitions if pinned else self._dice.randrange(self.partitions)

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

    def _next(self) -> tuple[int, int]:
        """The next record's number and event time, in seconds since the start."""
        self._number += 1
        return self._number, 30 * self._number

    def _value(self) -> bytes:
        number, second = self._next()
        if self._dice.random() < 0.04:
            return self._dice.choice(BAD)
        is_large = self._dice.random() < 0.03
        amount = self._dice.randint(100_000, 300_000) if is_large else self._dice.randint(500, 5_000)
        is_late = self._dice.random() < 0.02  # its window has closed, but for the first hours
        second = max(0, second - 28_800) if is_late else second
        return encode(_record(number, second, user_id=self._dice.randint(1, 6), amt=amount / 100))


def _record(number: int, second: int, **fields: object) -> CardTransaction:
    time = (
        f"2024-{1 + second // 2_419_200:02}-{1 + second // 86_400 % 28:02}"
        f" {second // 3_600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
    )
    return card(number, **{"trans_date_trans_time": time, **fields})
