"""From a Kafka topic to its bronze table, exactly once.

One step: read from our own positions (never the group's) -> write the rows where no reader sees them -> commit the
rows of all partitions with every partition's next offset in one Delta commit -> (fsynced) -> commit the group's
offsets, which only dashboards look at. Where there was nothing to read: record that in control/idle_partitions, if
models wait for it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Self, cast

import polars as pl

from fraud_lakehouse.errors import GapError, LakeError, SourceError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.ingest.base import Waiting
from fraud_lakehouse.ingest.batches import Batch, Batches
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.idle_partitions import REFERENCE, IdlePartitions, Windows
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.ingest.topic_table import evolve, open_topic_table
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.capture import BATCH_BYTES, KafkaBatch, KafkaCapture
from fraud_lakehouse.sources.kafka.config import TopicConfig, shipped_topic
from fraud_lakehouse.sources.kafka.records import schema_of
from fraud_lakehouse.sources.kafka.topic import KafkaTopic, TopicMissingError, TopicRecreatedError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake

STEP_SECONDS = 0.05
"""How long a step waits for a first record; waiting for data is `wait`'s part."""

ABSENT_SECONDS = 5.0
"""How long an optional topic that does not exist is not asked for again."""

PIECE_ROWS = 100_000
"""Rows of one data file while a backlog of one partition is read."""

PIECE_BYTES = BATCH_BYTES // 2
"""Payload bytes of it: one piece is written while another is read."""


class KafkaIngest:
    """Lands one topic. Handles stay warm between steps; one instance per thread.

    Args:
        topic: the topic; default: the one that the settings are shorthand for.
        capture: the source; default: that of the topic. Opened at the first step.
        windows: the windows whose ends a topic without records is observed for; default: those of the reference.
    """

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        topic: TopicConfig | None = None,
        capture: KafkaCapture | None = None,
        windows: Callable[[], Sequence[Windows]] = lambda: REFERENCE,
    ) -> None:
        self.settings = settings
        self.lake = lake
        self.topic = topic or shipped_topic(settings)
        self.capture = capture or KafkaCapture(settings, self.topic)
        self.has_observed = False
        """Whether the last step recorded that the topic has nothing more."""
        self._idle = IdlePartitions(lake, settings, windows, self.topic)
        self._ready = False
        self._absent_until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source's connections; nothing needs to be saved."""
        self._ready = False
        self.capture.close()

    @property
    def name(self) -> str:
        """The topic's name among the sources."""
        return self.topic.name

    @property
    def update_delay(self) -> float:
        """Seconds between reads; 0: as rows come."""
        return self.topic.update_delay

    @property
    def due(self) -> float:
        """Without records there is nothing to do."""
        return math.inf

    def wait(self, timeout: float) -> bool:
        """Whether there is a record, waiting at most `timeout` seconds for it.

        Raises:
            SourceError, TopicRecreatedError: the broker does not answer, or the topic is another one.
        """
        if (pause := self._absent_until - time.monotonic()) > 0:
            time.sleep(min(timeout, pause))
            return False
        return self.capture.wait(timeout)

    def waiting(self) -> Waiting:
        """What the topic still holds; of partitions that are read to the end, no end.

        Raises:
            SourceError: the broker does not answer.
        """
        if time.monotonic() < self._absent_until:
            return Waiting(rows=0)
        lag = self.capture.lag()
        return Waiting(rows=lag.rows, ends={app_id: part.end for app_id, part in lag.partitions.items() if part.rows})

    def position(self) -> Mapping[str, int]:
        """By partition's app_id, the next offset to read."""
        return self.capture.passed()

    def set_blocking(self, blocking: bool) -> None:
        """Whether a step may wait for a broker that is unreachable."""
        self.capture.set_blocking(blocking)

    def step(self, max_rows: int, timeout: float = STEP_SECONDS) -> list[Ingested]:
        """Land at most about `max_rows` records, waiting up to `timeout` seconds for the first.

        Returns:
            one item, or [] when there was nothing new; `has_observed` then says whether that was recorded.

        Raises:
            SourceError: the broker cannot be read; the next step starts again with the checks.
            GapError: records are gone, or the topic is another one; recorded in control/audit.
            ConcurrentWriterError: another writer was first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; the records are read again.
        """
        self.has_observed = False
        try:
            with self._audit.gaps(self.topic.name):
                return self._step(max_rows, timeout)
        except BaseException:
            self.close()  # whatever it is, the next step reads again from the lake's position, as a new process does
            raise

    @cached_property
    def _audit(self) -> Audit:
        return Audit(self.lake, self.topic.renamed)

    @cached_property
    def _bronze(self) -> BronzeTable:
        return open_topic_table(self.lake, self.topic)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.lake)

    def _step(self, max_rows: int, timeout: float) -> list[Ingested]:
        if not self._ready:
            try:
                self.capture.preflight()
            except TopicMissingError:
                if not is_awaited(self.lake, self.topic):
                    raise
                self._absent_until = time.monotonic() + ABSENT_SECONDS
                return []
            topic = self.capture.topic
            self._identity = topic.identity
            self._audit.check(self.topic.name, topic.identity, self._recreated(topic), scope=topic.name)
        self._bronze.refresh()
        if not self._ready:
            evolve(self.lake, self._bronze, self.topic)
        ingested = self._ingest_rows(max_rows, timeout)
        if not self._ready:
            self._audit.resumed(self.topic.name)
            self._ready = True
        return ingested

    def _recreated(self, topic: KafkaTopic) -> TopicRecreatedError:
        return TopicRecreatedError(
            f"Kafka topic {topic.name!r} is now {topic.identity}: it was created anew, or in another cluster",
            f"correct {self.topic.servers_env}, or capture the new topic from its beginning: "
            f"`fraud-lakehouse accept-source {self.topic.name}`",
        )

    def _ingest_rows(self, max_rows: int, timeout: float) -> list[Ingested]:
        began, at = time.monotonic(), datetime.now(UTC)
        self._bronze.discard()  # of a step that was interrupted
        before = positions_of(self._bronze, self.capture.topic)
        failpoint("kafka.before_read")
        try:
            batch = self._stage(before, max_rows, timeout)
        except BaseException:
            self._bronze.discard()
            raise
        if batch is None:
            if (ends := self.capture.confirmed_ends()) is not None:
                self.has_observed = self._idle.observe(self.capture.topic, self._bronze.version, ends, at)
            return []
        if any(self._bronze.position(app_id) is not None for app_id in batch.positions.keys() - before.keys()):
            self._bronze.discard()
            return self._ingest_rows(max_rows, timeout)  # a partition new to us that another writer has landed from
        version = self._bronze.commit(batch.positions)
        self._idle.ingested(version, at)
        item = Ingested(
            self.topic.table,
            sum(batch.rows.values()),
            sum(batch.first.values()),
            sum(batch.positions.values()),
            version,
            batch.newest_timestamp,
            time.monotonic() - began,
            self.topic.name,
            batch.oldest_timestamp,
        )
        failpoint("kafka.before_group_commit")
        self.capture.commit_group(batch.positions)
        failpoint("kafka.after_group_commit")
        self._note(item, batch)
        return [item] if item.rows else []

    def _stage(self, before: Mapping[str, int | None], max_rows: int, timeout: float) -> _Staged | None:
        """Read records and write them for the next commit, a backlog in pieces: one is written while the next is read.

        What was read before the source failed is handed to the commit; the next step meets the failure again.
        """
        batch = _Staged()
        # Several partitions are put in order by time: for each piece, all that waits would be sorted again.
        whole = self.capture.topic.partitions > 1
        with ThreadPoolExecutor(1, "kafka-stage") as writer:
            writing: Future[None] | None = None
            left = max_rows
            while left > 0 and batch.more and batch.size < BATCH_BYTES:
                onward = writing is not None
                reached = {**before, **batch.positions}
                most = left if whole else min(left, PIECE_ROWS)
                try:
                    records = self.capture.read(
                        reached,
                        most,
                        0.0 if onward else timeout,
                        BATCH_BYTES if whole else PIECE_BYTES,
                        fail_fast=onward,
                    )
                except (SourceError, GapError):
                    if writing is None:
                        raise
                    break
                if records is None:
                    break
                failpoint("kafka.after_decode")
                if self.capture.topic.identity != self._identity:
                    raise self._recreated(self.capture.topic)
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._bronze.stage, records.frame)
                batch.add(records)
                left = 0 if whole else left - records.frame.height
            if writing is None:
                return None
            writing.result()
        return batch

    def _note(self, item: Ingested, batch: _Staged) -> None:
        """Add the batch to control/batches: for status only, so a failure is left to the next lake write to tell."""
        batches = [
            Batch(
                self.topic.name,
                app_id,
                self.topic.table,
                batch.first.get(app_id, position),
                position,
                batch.rows.get(int(app_id.rpartition(":")[2]), 0),
                item.newest_committed_at,
                item.seconds,
            )
            for app_id, position in batch.positions.items()
        ]
        with contextlib.suppress(LakeError):
            self._batches.commit([one for one in batches if one.rows], {})


@dataclass
class _Staged:
    """A batch that is written and not committed: as `KafkaBatch`, all its pieces together.

    Args:
        rows: by partition, how many.
        size: bytes of the columns in memory.
        more: whether there may be records behind.
    """

    positions: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    rows: Counter[int] = field(default_factory=Counter)
    oldest_timestamp: datetime | None = None
    newest_timestamp: datetime | None = None
    size: int = 0
    more: bool = True

    def add(self, records: KafkaBatch) -> None:
        """Take in the piece that follows."""
        self.positions |= records.positions
        self.first = records.first | self.first
        self.rows.update(dict(records.frame.group_by("_partition").len().iter_rows()))
        oldest = cast("datetime | None", records.frame["_timestamp"].min())
        self.oldest_timestamp = min(filter(None, (self.oldest_timestamp, oldest)), default=None)
        self.newest_timestamp = max(filter(None, (self.newest_timestamp, records.newest_timestamp)), default=None)
        self.size += int(records.frame.estimated_size())
        self.more = records.more


def is_awaited(lake: Lake, topic: TopicConfig) -> bool:
    """Whether a topic may be missing: it is optional, and nothing of it was ingested yet."""
    return topic.optional and not lake.exists("bronze", topic.table)


def positions_of(bronze: BronzeTable, topic: KafkaTopic) -> dict[str, int | None]:
    """By app_id, the next offset to read of each partition; None where nothing was landed."""
    return {app_id: bronze.position(app_id) for app_id in map(topic.app_id, range(topic.partitions))}


def accept_kafka(
    settings: Settings, lake: Lake, topic: TopicConfig | None = None, capture: KafkaCapture | None = None
) -> str:
    """Accept a topic as it is now: a recreated one from its beginning, a shortened one from what it still has.

    Positions outside what the broker holds are moved to its nearest offset; the audit row says from where to where.

    Args:
        topic, capture: as for `KafkaIngest`.

    Returns:
        the accepted identity, `kafka:<cluster id>:<topic id>`.

    Raises:
        SourceError: the broker cannot be reached.
    """
    config = topic or shipped_topic(settings)
    source = capture or KafkaCapture(settings, config)
    try:
        found = source.topic
        bronze = open_topic_table(lake, config)
        before = positions_of(bronze, found)
        held = source.lag(before).partitions
    finally:
        source.close()
    moved = {
        app_id: min(max(position, held[app_id].start), held[app_id].end)
        for app_id, position in before.items()
        if position is not None and not held[app_id].start <= position <= held[app_id].end
    }
    if moved:
        bronze.append(pl.DataFrame(schema=schema_of(config)), moved)
    skipped = {app_id: [before[app_id], position] for app_id, position in moved.items()}
    detail = {"identity": found.identity, "scope": found.name, "moved": skipped, "commit": bronze.newest_commit}
    Audit(lake).record(config.name, "accepted", detail)
    return found.identity
