"""From a Kafka topic to bronze/card_transactions, exactly once.

One step: read from our own positions (never the group's) -> append the rows of all partitions with every partition's
next offset in one Delta commit -> (fsynced) -> commit the group's offsets, which only dashboards look at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from typing import Protocol, Self, cast

import polars as pl

from fraud_lakehouse.capture.kafka import KafkaCapture
from fraud_lakehouse.capture.kafka_records import CARD_SCHEMA
from fraud_lakehouse.capture.kafka_source import TopicRecreatedError
from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakeError, SourceError
from fraud_lakehouse.lake.audit import Audit
from fraud_lakehouse.lake.batches import Batch, Batches
from fraud_lakehouse.lake.bronze import BronzeTable
from fraud_lakehouse.lake.failpoints import failpoint
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.landed import Landed
from fraud_lakehouse.settings import Settings

SOURCE = "kafka"
TABLE = "card_transactions"


class Records(Protocol):
    """What `read` gives: rows, the first offset read and the next offset to read by app_id."""

    frame: pl.DataFrame
    positions: dict[str, int]
    first: dict[str, int]
    newest_timestamp: datetime | None


class TopicSource(Protocol):
    """The part of `KafkaCapture` that landing needs."""

    def preflight(self) -> None: ...
    def partitions(self) -> list[str]: ...
    def read(self, positions: Mapping[str, int | None], max_rows: int, timeout: float) -> Records | None: ...
    def commit_group(self, positions: Mapping[str, int]) -> None: ...
    def close(self) -> None: ...


class KafkaIngest:
    """Lands one topic. Handles stay warm between steps; one instance per thread.

    Args:
        capture: the source; default: the one of the settings. Opened at the first step.
    """

    def __init__(self, settings: Settings, lake: Lake, capture: TopicSource | None = None) -> None:
        self.settings = settings
        self.lake = lake
        self.capture = capture or cast(TopicSource, KafkaCapture(settings))
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source's connections; nothing needs to be saved."""
        self._ready = False
        self.capture.close()

    def step(self, max_rows: int, timeout: float) -> list[Landed]:
        """Land at most about `max_rows` records, waiting up to `timeout` seconds for the first.

        Returns:
            one item, or [] when there was nothing new.

        Raises:
            SourceError: the broker cannot be read; the next step starts again with the checks.
            GapError: records are gone, or the topic is another one; recorded in control/audit.
            ConcurrentWriterError: another writer was first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; the records are read again.
        """
        try:
            with self._audit.gaps(SOURCE):
                return self._step(max_rows, timeout)
        except (SourceError, GapError, ConcurrentWriterError):
            self._ready = False
            raise

    @cached_property
    def _audit(self) -> Audit:
        return Audit(self.lake)

    @cached_property
    def _bronze(self) -> BronzeTable:
        return BronzeTable.open_or_create(self.lake, TABLE, CARD_SCHEMA, ())

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.lake)

    def _step(self, max_rows: int, timeout: float) -> list[Landed]:
        if not self._ready:
            self.capture.preflight()
            self._identity = identity_of(self.capture.partitions())
            self._audit.check(SOURCE, self._identity, self._recreated(self._identity), scope=self.settings.kafka_topic)
        self._bronze.refresh()
        landed = self._land(max_rows, timeout)
        if not self._ready:
            self._audit.resumed(SOURCE)
            self._ready = True
        return landed

    def _recreated(self, identity: str) -> TopicRecreatedError:
        return TopicRecreatedError(
            f"Kafka topic {self.settings.kafka_topic!r} is now {identity}: it was created anew, or in another cluster",
            "correct FRAUD_KAFKA_BOOTSTRAP_SERVERS, or capture the new topic from its beginning: "
            "`fraud-lakehouse accept-source kafka`",
        )

    def _land(self, max_rows: int, timeout: float) -> list[Landed]:
        began = time.monotonic()
        before = {app_id: self._bronze.position(app_id) for app_id in self.capture.partitions()}
        records = self.capture.read(before, max_rows, timeout)
        if records is None:
            return []
        if (identity := identity_of(list(records.positions))) != self._identity:
            raise self._recreated(identity)
        version = self._bronze.append(records.frame, records.positions)
        item = Landed(
            TABLE,
            records.frame.height,
            sum(records.first.values()),
            sum(records.positions.values()),
            version,
            records.newest_timestamp,
            time.monotonic() - began,
            SOURCE,
        )
        failpoint("kafka.before_group_commit")
        self.capture.commit_group(records.positions)
        self._note(item, records)
        return [item] if item.rows else []

    def _note(self, item: Landed, records: Records) -> None:
        """Add the batch to control/batches: for status only, so a failure is left to the next lake write to tell."""
        counts = dict(records.frame.group_by("_partition").len().iter_rows())
        batches = [
            Batch(
                SOURCE,
                app_id,
                TABLE,
                records.first.get(app_id, position),
                position,
                counts.get(int(app_id.rpartition(":")[2]), 0),
                item.newest_committed_at,
                item.seconds,
            )
            for app_id, position in records.positions.items()
        ]
        with contextlib.suppress(LakeError):
            self._batches.commit([batch for batch in batches if batch.rows], {})


def identity_of(app_ids: list[str]) -> str:
    """The part that a topic's positions share: `kafka:<cluster id>:<topic id>`."""
    return app_ids[0].rpartition(":")[0]


def accept_kafka(settings: Settings, lake: Lake, capture: TopicSource | None = None) -> str:
    """Accept the topic as it is now: a recreated one from its beginning, a shortened one from what it still has.

    Positions outside what the broker holds are moved to its nearest offset; what was skipped is in the audit row.

    Returns:
        the accepted identity, `kafka:<cluster id>:<topic id>`.

    Raises:
        SourceError: the broker cannot be reached.
    """
    source = capture or cast(TopicSource, KafkaCapture(settings))
    try:
        source.preflight()
        identity = identity_of(source.partitions())
    finally:
        source.close()
    Audit(lake).record(SOURCE, "accepted", {"identity": identity, "scope": settings.kafka_topic})
    return identity
