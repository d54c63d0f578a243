"""Publishes each row of the `_versions` tables to its topic, exactly once for a `read_committed` consumer.

Order and guarantee: a transaction contains rows in order and the position after them. Whenever a process is killed, the
next one aborts the open transaction, reads the position and continues from it. The messages do not depend on how rows
are divided into transactions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sinks.kafka.backlog import (
    GOLD,
    DiscontinuityError,
    backlog,
    begin,
    end,
    is_newest,
    newest_versions,
)
from fraud_lakehouse.sinks.kafka.errors import PositionUnclearError, PublishError, no_metadata, unclear
from fraud_lakehouse.sinks.kafka.feature_topic import FeatureTopic, feature_topics
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.sinks.kafka.rebuilt import differences
from fraud_lakehouse.sinks.kafka.topic_content import Content, read_topic
from fraud_lakehouse.sinks.kafka.transactions import Transactions
from fraud_lakehouse.sources.kafka.config import KafkaClients, shipped_topic
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, writer_lock

log = logging.getLogger(__name__)

TURN = "publish"
ROWS = 10_000
"""Maximum rows of a transaction."""
RENEW_SECONDS = 24 * 3600.0
"""Brokers delete offsets not committed for a week (offsets.retention.minutes), so they are committed again in time."""

Choice = Literal["now", "topic", "start"]


@dataclass(frozen=True)
class Published:
    """Result of a step for one topic: rows published, and the new position."""

    topic: str
    rows: int
    position: Position


class Publisher:
    """Publishes the features of one lake. A context manager.

    Args:
        choice: a person's decision for a topic whose position is unclear; None: raise an error.

    Raises:
        SettingsError: publishing is switched off, or Kafka is not configured.
    """

    def __init__(self, settings: Settings, lake: Lake, choice: Choice | None = None) -> None:
        if not settings.publish_features:
            raise SettingsError("features are not published", "set FRAUD_PUBLISH_FEATURES=true (see .env.example)")
        self._settings = settings
        self._lake = lake
        self._choice = choice
        self._clients = KafkaClients(shipped_topic(settings))
        self.topics = feature_topics(settings.publish_topic_prefix)
        self._transactions: Transactions | None = None
        self._audit: Audit | None = None
        self._lake_id = ""
        self._positions: dict[str, Position] = {}
        self._versions: dict[str, int] = {}  # Delta versions of which all rows are published, by topic
        self._renewed: dict[str, float] = {}

    def step(self, stop: Callable[[], bool] = lambda: False) -> list[Published]:
        """Publish all pending rows; a topic that fails does not delay the others.

        Args:
            stop: checked between transactions.

        Raises:
            PublishError: the first topic's that failed; the other topics are published.
            LakeError: the lake cannot be read.
        """
        due = [topic for topic in self.topics if self._is_due(topic)]
        if not due:
            return []
        with writer_lock(self._settings.work_dir, TURN_SECONDS, TURN):
            done, errors = [], []
            for topic in due:
                try:
                    done.append(self._catch_up(topic, stop))
                except PublishError as error:
                    self._forget(topic)
                    errors.append(error)
                    if not self._open().is_open:
                        break
            if errors:
                raise errors[0]
            return done

    def close(self) -> None:
        """Close the connections to the broker."""
        if self._transactions is not None:
            self._transactions.close()
        self._positions.clear()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _is_due(self, topic: FeatureTopic) -> bool:
        known = self._positions.get(topic.name)
        if known is None or known.until is not None or time.monotonic() >= self._renewed[topic.name] + RENEW_SECONDS:
            return self._lake.exists(GOLD, topic.table)
        return not is_newest(self._lake, topic, self._versions.get(topic.name, -1))

    def _catch_up(self, topic: FeatureTopic, stop: Callable[[], bool]) -> Published:
        transactions = self._open()
        transactions.open()
        with lake_errors(self._lake, GOLD, topic.table):
            try:
                begun = self._positions.get(topic.name) or self._first(topic)
                self._follow(topic, begun, stop)
            except PositionUnclearError as error:
                if self._choice is None:
                    raise
                begun = self._decide(topic, self._choice, error)
                self._follow(topic, begun, stop)
        position = self._positions[topic.name]
        if time.monotonic() >= self._renewed[topic.name] + RENEW_SECONDS:
            self._commit(topic, None, position)
        return Published(topic.name, position.published - begun.published, position)

    def _first(self, topic: FeatureTopic) -> Position:
        """The position in Kafka; for a topic that never had a record the beginning, committed before any message."""
        transactions = self._open()
        transactions.find(topic.name)
        position = transactions.position(topic.name)
        if position is None:
            if not transactions.is_untouched(topic.name):
                raise unclear(topic.name, "it has had records, but no position of this lake")
            position = begin(self._lake, topic)
            self._commit(topic, None, position)
            if transactions.position(topic.name) != position:
                raise no_metadata(self._clients.bootstrap, topic.name)
            self._record(topic, "publishing_begun", position)
        self._positions[topic.name] = position
        self._renewed.setdefault(topic.name, float("-inf"))
        return position

    def _follow(self, topic: FeatureTopic, position: Position, stop: Callable[[], bool]) -> None:
        """Publish range after range up to the table's newest commit."""
        while not stop():
            try:
                found = backlog(self._lake, topic, position)
            except DiscontinuityError as reason:
                if not self._begin_epoch(topic, position, str(reason)):
                    return
                position = self._positions[topic.name]
                continue
            if position.version is not None:
                self._commit(topic, None, found.position)
            position = found.position
            if found.rows is None:
                self._positions[topic.name] = position.finished(found.until)
                self._versions[topic.name] = found.version
                return
            was_under_way = position.until is not None
            for piece, behind in found.pieces(ROWS):
                self._commit(topic, piece, behind)
                position = behind
                if stop():
                    return
            if not was_under_way:
                return

    def _begin_epoch(self, topic: FeatureTopic, position: Position, reason: str) -> bool:
        """Publish the differences between a rebuilt table and its topic; False while the table has no rows.

        Raises:
            PositionUnclearError: the topic no longer has every message.
        """
        rows, behind = newest_versions(self._lake, topic)
        if rows.is_empty():
            return False
        content = self._content(topic)
        if content.count != position.published:
            raise unclear(
                topic.name, f"{reason}, and of {position.published:,} messages {content.count:,} are in the topic"
            )
        self._publish_differences(topic, rows, behind, content, position)
        self._record(topic, "publishing_rebuilt", self._positions[topic.name], reason=reason)
        return True

    def _publish_differences(
        self, topic: FeatureTopic, rows: pl.DataFrame, behind: Position, content: Content, position: Position | None
    ) -> None:
        """Publish the rows that the topic lacks.

        If the process is killed meanwhile, the stored position names no table. The differences are then computed again,
        and what was published by then is not among them.
        """
        epoch = _next_epoch(content, position)
        wanted = differences(rows, content, topic)
        until = Position("", epoch=epoch, published=content.count)
        for piece in wanted.iter_slices(ROWS):
            until = replace(until, published=until.published + piece.height)
            self._commit(topic, piece, until)
        self._commit(topic, None, replace(behind, epoch=epoch, published=until.published))

    def _decide(self, topic: FeatureTopic, choice: Choice, error: PublishError) -> Position:
        """Begin where a person decided; returns the position before anything is published."""
        transactions = self._open()
        transactions.open()
        content = self._content(topic)
        epoch = _next_epoch(content, None)
        begun = begin(self._lake, topic, epoch=epoch, published=content.count)
        if choice == "start":
            self._commit(topic, None, begun)
        elif choice == "now":
            rows, _ = newest_versions(self._lake, topic)
            # Rows that the topic lacks count as published: a later rebuild must not take the topic for complete.
            counted = content.count + max(rows.height, 1)
            begun = end(self._lake, topic, epoch=epoch, published=counted)
            self._commit(topic, None, begun)
        else:
            rows, behind = newest_versions(self._lake, topic)
            self._publish_differences(topic, rows, behind, content, None)
        self._renewed.setdefault(topic.name, time.monotonic())
        self._record(topic, "publishing_decided", self._positions[topic.name], choice=choice, reason=error.problem)
        return begun if choice != "topic" else self._positions[topic.name]

    def _commit(self, topic: FeatureTopic, rows: pl.DataFrame | None, position: Position) -> None:
        messages = () if rows is None else topic.messages(rows, self._lake_id, position.epoch)
        self._open().publish({topic.name: messages}, {topic.name: position})
        self._positions[topic.name] = position
        self._renewed[topic.name] = time.monotonic()

    def _content(self, topic: FeatureTopic) -> Content:
        return read_topic(self._clients, topic, self._open().group, self._lake_id)

    def _open(self) -> Transactions:
        if self._transactions is None:
            self._audit = Audit(self._lake)
            self._lake_id = str(self._lake.open("control", "audit").metadata().id)
            self._transactions = Transactions(self._clients, self._lake_id)
        return self._transactions

    def _forget(self, topic: FeatureTopic) -> None:
        """After an error: positions are read again when the producer is open again."""
        if self._open().is_open:
            self._positions.pop(topic.name, None)
        else:
            self._positions.clear()

    def _record(self, topic: FeatureTopic, event: str, position: Position, **detail: str) -> None:
        assert self._audit is not None
        log.info("%s: %s at commit %d, epoch %d", topic.name, event, position.commit, position.epoch)
        facts = {"topic": topic.name, "epoch": position.epoch, "published": position.published, **detail}
        self._audit.record("publish", event, facts)


def publish_features(settings: Settings, lake: Lake) -> list[Published]:
    """Publish all pending rows and close the connections; does nothing if publishing is switched off.

    Raises:
        PublishError, LakeError: as `Publisher.step`.
    """
    if not settings.publish_features:
        return []
    with Publisher(settings, lake) as publisher:
        return publisher.step()


def _next_epoch(content: Content, position: Position | None) -> int:
    newest = content.newest["epoch"].max()
    return max(position.epoch if position else -1, newest if isinstance(newest, int) else -1) + 1
