"""Fetched records on their way into columns: gathered message by message, read by threads of their own.

What a position is and when enough was fetched is the reader's business (`reader.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import polars as pl
from confluent_kafka import Message

from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.sources.kafka.records import Header, RawRecords

_AHEAD = 3  # chunks being read or waiting for it while the next is gathered
_THREADS = 2

Decode = Callable[[RawRecords], pl.DataFrame]
"""What gives the columns of records."""


class Chunk:
    """Records of one topic, column by column.

    Bytes and numbers are nothing to Python's garbage collector, messages are: taken by more than its threshold of 700,
    they wake it with every portion.

    Args:
        topic: their topic.
        only: the partition that all of them are of, where there is but one: it is not asked of each.
    """

    def __init__(self, topic: str, only: int | None = None) -> None:
        self._only = only
        self._offsets: list[int] | range = range(0)
        self._records = RawRecords(topic, [], self._offsets, [], [], [], [])
        self.rows = 0

    @property
    def records(self) -> RawRecords:
        """All of them."""
        return replace(self._records, offsets=self._offsets)

    def add(self, messages: list[Message]) -> dict[int, int]:
        """Add records (no events), in their order.

        Returns:
            by partition, the offset after the newest of them.
        """
        if self._only is None:
            partitions = cast("list[int]", list(map(Message.partition, messages)))
        else:
            partitions = [self._only] * len(messages)
        first, last = cast(int, messages[0].offset()), cast(int, messages[-1].offset())
        alone = partitions.count(partitions[0]) == len(partitions)
        # Offsets of one partition only rise: as many as there are records from the first to the last are without holes.
        whole = alone and last - first == len(messages) - 1
        offsets = range(first, last + 1) if whole else cast("list[int]", list(map(Message.offset, messages)))
        self._offsets = _joined(self._offsets, offsets)
        records = self._records
        records.partitions.extend(partitions)
        records.timestamps.extend([moment if kind else None for kind, moment in map(Message.timestamp, messages)])
        records.values.extend(cast("Iterable[bytes | None]", map(Message.value, messages)))
        records.keys.extend(cast("Iterable[bytes | None]", map(Message.key, messages)))
        records.headers.extend(cast("Iterable[list[Header] | None]", map(Message.headers, messages)))
        self.rows += len(messages)
        if alone:
            return {partitions[0]: last + 1}
        return {partition: offset + 1 for partition, offset in zip(partitions, offsets, strict=True)}


def _joined(before: list[int] | range, after: list[int] | range) -> list[int] | range:
    """Offsets and those that follow; without a hole they stay a range, which costs nothing a record."""
    if isinstance(before, range) and isinstance(after, range) and (not before or before.stop == after.start):
        return range(before.start if before else after.start, after.stop)
    joined = before if isinstance(before, list) else list(before)
    joined.extend(after)
    return joined


class DecodeAhead:
    """Reads chunks while the next ones are fetched: the parser lets go of Python's lock.

    Args:
        decode: gives the columns of records; called by several threads at once.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._pool = ThreadPoolExecutor(_THREADS, "kafka-decode")
        self._pending: deque[Future[pl.DataFrame]] = deque()

    def submit(self, records: RawRecords) -> Callable[[], pl.DataFrame]:
        """Have records read; the answer waits for their columns. Waits itself while too many are pending."""
        failpoint("kafka.after_read")
        self._pending.append(self._pool.submit(self._decode, records))
        if len(self._pending) > _AHEAD:
            self._pending.popleft().result()
        return self._pending[-1].result

    def close(self) -> None:
        """End the threads, when they have read what they were given."""
        self._pending.clear()
        self._pool.shutdown()
