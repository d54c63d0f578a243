"""Micro-batches of the records of one Kafka topic, from positions the caller keeps.

The lake's Delta commit holds the position and the rows together; here nothing is committed and no group is joined.
Reading again from an older position gives the same records again. Landing them is `ingest/__init__.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import cast

import polars as pl

from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import KafkaClients, TopicConfig, shipped_topic
from fraud_lakehouse.sources.kafka.reader import KafkaReader
from fraud_lakehouse.sources.kafka.records import RecordDecoder
from fraud_lakehouse.sources.kafka.topic import KafkaSource, KafkaTopic, verify_identity
from fraud_lakehouse.sources.kafka.transactions import OpenTransaction, open_transactions

BATCH_BYTES = 256 * 1024 * 1024
"""Payload bytes after which a micro-batch is full, whatever its rows."""

PROBE_ROWS = 100_000
"""Most records read to find the end of the log for `lag` when nothing was read before."""

REFRESH_SECONDS = 5.0
"""How often the topic is described again while idle: new partitions, another identity."""


@dataclass(frozen=True)
class KafkaBatch:
    """One micro-batch.

    Args:
        frame: columns of `records.schema_of` the topic's fields, in the order of arrival: offsets rise within each
            partition.
        positions: by app_id, the next offset to read once these rows are landed; only where it changed. A partition
            without rows can be among them: seen empty for the first time, or moved past transaction markers.
        first: by app_id, the first offset of this batch; partitions with rows only.
        newest_timestamp: newest record timestamp (UTC); None when no record has one.
        more: whether records behind these are known to be there.
    """

    frame: pl.DataFrame
    positions: dict[str, int]
    first: dict[str, int]
    newest_timestamp: datetime | None
    more: bool = False


@dataclass(frozen=True)
class PartitionLag:
    """How far a partition is behind: `rows` records from `position` (None: nothing landed) to `end`."""

    position: int | None
    start: int
    end: int
    rows: int


@dataclass(frozen=True)
class KafkaLag:
    """Lag of all partitions: `rows` records in total, and by app_id."""

    rows: int
    partitions: dict[str, PartitionLag]


class KafkaCapture:
    """Reads one topic; connects when first needed. Not for two threads at once.

    Args:
        topic: what is read; default: the one that the settings are shorthand for. Its servers must be set.

    Raises:
        SettingsError: they are not, or its properties file has a line that cannot be.
    """

    def __init__(self, settings: Settings, topic: TopicConfig | None = None) -> None:
        self.config = topic or shipped_topic(settings)
        """What is declared of the topic."""
        self._clients = KafkaClients(self.config)
        self._decoder = RecordDecoder(self.config)
        self._source = KafkaSource(self._clients, self.config.topic)
        self._topic: KafkaTopic | None = None
        self._described = 0.0
        self._reader: KafkaReader | None = None
        self._blocking = True
        self._reported: dict[int, int | None] = {}  # what the caller knows of each partition

    def preflight(self) -> None:
        """See that the broker answers and the topic is there.

        Raises:
            SourceError: unreachable (after about 8 s), no such topic (names those there are), not allowed.
        """
        self._describe()

    @property
    def topic(self) -> KafkaTopic:
        """The topic as last described: its identity and number of partitions."""
        return self._topic if self._topic is not None else self._describe()

    def partitions(self) -> list[str]:
        """The app_ids of the topic's partitions, asked now, in the order of their numbers.

        Raises:
            SourceError: as `preflight`.
            TopicRecreatedError: the identity is not what it was when this object first asked.
        """
        topic = self._describe()
        return [topic.app_id(number) for number in range(topic.partitions)]

    def read(
        self,
        positions: Mapping[str, int | None],
        max_rows: int,
        timeout: float = 0.0,
        max_bytes: int = BATCH_BYTES,
        *,
        fail_fast: bool = False,
    ) -> KafkaBatch | None:
        """The next micro-batch after `positions`.

        Args:
            positions: app_id -> next offset; absent or None: from the earliest record. Other topics' are ignored.
            max_rows: most rows of the batch.
            timeout: seconds to wait for a record when there is none.
            max_bytes: payload bytes after which the batch is full.
            hasty: not to wait for a broker that says nothing, this time.

        Returns:
            None when every partition was seen at its end and nothing came within `timeout`: the topic is drained. When
            hasty or not patient, also when the broker has said nothing for a moment.

        Raises:
            RetentionGapError, LogTruncatedError, TopicRecreatedError: records are lost; nothing is skipped.
            SourceError: the broker does not answer or deliver for about 10 s, the topic is gone.
        """
        topic = self._fresh_topic()
        wanted = {number: positions.get(topic.app_id(number)) for number in range(topic.partitions)}
        if self._reader is None:
            self._reader = KafkaReader(self._clients, self._source, topic, self._decoder.decode)
        reader = self._reader
        reader.fail_fast = fail_fast or not self._blocking
        if wanted != self._reported or not reader.assigned:
            self._reported = {}
            reader.assign(wanted)
            self._reported = wanted
        frame = reader.take(max_rows, max_bytes, timeout)
        if frame is None:
            return None
        try:
            self._describe()  # identities never come back: unchanged after the fetch means unchanged during it
        except (GapError, SourceError):
            self._reported = {}
            raise
        self._reported = dict(reader.handed)
        first = frame.group_by("_partition").agg(pl.col("_offset").min()).sort("_partition")
        return KafkaBatch(
            frame=frame,
            positions={
                app_id: offset
                for app_id, offset in topic.positions(reader.handed).items()
                if offset != positions.get(app_id)
            },
            first={topic.app_id(number): offset for number, offset in first.iter_rows()},
            newest_timestamp=cast("datetime | None", frame["_timestamp"].max()),
            more=reader.more,
        )

    def set_blocking(self, blocking: bool) -> None:
        """Whether calls wait for a broker that is away; without, they fail soon and the caller tries again later."""
        self._blocking = blocking
        self._source.set_blocking(blocking)

    def wait(self, timeout: float) -> bool:
        """Whether `read` would find something: a record, a new partition or an error. Waits up to `timeout` seconds.

        An error is also that no broker is connected any more, which `read` looks into.

        The record that wakes is kept for the next `read`. Before the first `read` the answer is yes.

        Raises:
            SourceError, TopicRecreatedError: every `REFRESH_SECONDS` the topic is described again, as by `partitions`.
        """
        if self._reader is None or not self._reader.assigned:
            return True
        if self._fresh_topic().partitions > len(self._reported):
            return True
        return self._reader.wait(timeout) or self._clients.all_down

    def commit_group(self, positions: Mapping[str, int]) -> None:
        """Publish positions as offsets of group `fraud_lakehouse` for dashboards: best effort, nothing reads them."""
        if self._reader is None or self._topic is None:
            return
        numbers = {self._topic.partition_of(app_id): offset for app_id, offset in positions.items()}
        self._reader.commit_group({number: offset for number, offset in numbers.items() if number is not None})

    def lag(self, positions: Mapping[str, int | None] | None = None) -> KafkaLag:
        """Records between positions and the end of each partition.

        Args:
            positions: as for `read`; without them, what this object has `passed` so far.

        Raises:
            SourceError: the broker does not answer.
        """
        topic = self._describe()
        numbers = range(topic.partitions)
        starts, ends = self._source.starts(numbers), self._ends(topic)
        found: dict[str, PartitionLag] = {}
        reached = self.passed() if positions is None else positions
        for number in numbers:
            position = reached.get(topic.app_id(number))
            begin = starts[number] if position is None else position
            end = max(ends[number], starts[number])
            found[topic.app_id(number)] = PartitionLag(position, starts[number], end, max(end - begin, 0))
        return KafkaLag(sum(part.rows for part in found.values()), found)

    def open_transactions(self) -> list[OpenTransaction]:
        """The transactions behind which nothing is read, by partition; takes a second where there are any.

        Raises:
            SourceError: the broker does not answer.
        """
        return open_transactions(self._clients, self._source, self._describe())

    def passed(self) -> dict[str, int]:
        """By app_id, the next offset to hand out, of partitions that were read; past markers without a record."""
        if self._topic is None or self._reader is None or not self._reader.assigned:
            return {}
        return self._topic.positions(self._reader.passed)

    def confirmed_ends(self) -> dict[str, int] | None:
        """By app_id, where each partition ends, if the last `read` found nothing and the broker has said so; else None.

        None also where a broker that says nothing was not waited for.
        """
        return self.passed() if self._reader is not None and self._reader.at_end else None

    def close(self) -> None:
        """Leave the broker and forget the topic's identity. The object can be used again."""
        reader, self._reader = self._reader, None
        self._reported, self._topic = {}, None
        if reader is not None:
            reader.close()
        self._source.close()

    def __enter__(self) -> KafkaCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ends(self, topic: KafkaTopic) -> dict[int, int]:
        """End of each partition; read from there on, since the demo's broker names the start of its last batch."""
        ends = self._source.ends(range(topic.partitions))
        if self._reader is not None and self._reader.assigned:
            return self._reader.seen_ends(ends)
        probe = KafkaReader(self._clients, self._source, topic, self._decoder.decode)
        try:
            probe.assign(dict(ends))
            probe.take(PROBE_ROWS, BATCH_BYTES, 0.0)
            return probe.seen_ends(ends)
        finally:
            probe.close()

    def _fresh_topic(self) -> KafkaTopic:
        if self._topic is not None and time.monotonic() - self._described < REFRESH_SECONDS:
            return self._topic
        return self._describe()

    def _describe(self) -> KafkaTopic:
        found = self._source.describe()
        if self._topic is not None:
            verify_identity(self._topic, found, self.config.name)
        self._topic, self._described = found, time.monotonic()
        return found
