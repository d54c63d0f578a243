"""A consumer on chosen partitions: takes bounded amounts, knows when it is at the end, never skips silently.

Speaks partitions and offsets; what a position is called and where it is kept is `capture/kafka.py`'s and the lake's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from fraud_lakehouse.capture.kafka_config import KafkaClients
from fraud_lakehouse.capture.kafka_records import RawRecords, decode
from fraud_lakehouse.capture.kafka_source import (
    KafkaSource,
    KafkaTopic,
    LogTruncatedError,
    RetentionGapError,
    TopicRecreatedError,
)
from fraud_lakehouse.errors import GapError, SourceError

CHUNK = 20_000
"""Records decoded at once: their Python objects are gone before the next ones come."""

SILENT_SECONDS = 10.0
"""How long a broker may neither deliver nor say "end of partition"."""

_FILL_SECONDS = 0.25
_SETTLE_SECONDS = 0.15  # longer than one fetch: what was acknowledged before a call is seen by it
_BEYOND_SECONDS = 2.0
_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


@dataclass
class _Taken:
    """What one call has gathered so far."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    size: int = 0


class KafkaReader:
    """Reads one topic's partitions from given offsets. Not for use by two threads at once.

    Args:
        clients: makes the consumer.
        source: asked about offsets and identity when something does not fit.
        topic: the topic as described when reading began.
    """

    def __init__(self, clients: KafkaClients, source: KafkaSource, topic: KafkaTopic) -> None:
        self._clients = clients
        self._source = source
        self._topic = topic
        self._consumer: Consumer = clients.consumer()
        self._held: list[Message] = []
        self._ended: set[int] = set()
        self._settled = 0.0
        self.next: dict[int, int | None] = {}
        """Next offset of each assigned partition; None: from the earliest, nothing read yet."""

    @property
    def assigned(self) -> bool:
        """Whether `assign` was called and nothing failed since."""
        return bool(self.next)

    def assign(self, offsets: Mapping[int, int | None]) -> None:
        """Read these partitions from these offsets on; None is the earliest the broker has.

        Raises:
            RetentionGapError: an offset lies before the earliest the broker still has.
            SourceError: the broker does not answer.
        """
        self._held, self._ended, self.next, self._settled = [], set(), {}, 0.0
        known = {partition: offset for partition, offset in offsets.items() if offset is not None}
        self._check_range(known, self._source.starts(known), {})
        self._consumer.assign(
            [
                TopicPartition(self._topic.name, partition, OFFSET_BEGINNING if offset is None else offset)
                for partition, offset in offsets.items()
            ]
        )
        self.next = dict(offsets)

    def take(self, max_rows: int, max_bytes: int, timeout: float) -> tuple[list[pl.DataFrame], dict[int, int]]:
        """Take what is there, at most `max_rows` rows and about `max_bytes` bytes of payload.

        Waits for the first record until every partition was seen at its end and `timeout` seconds are over: nothing
        taken means there was nothing. Returns as soon as it has all there is.

        Returns:
            frames as of `kafka_records.decode`, and the first offset taken by partition.

        Raises:
            GapError: records between our offset and the broker's are gone.
            SourceError: the broker went silent for 10 s, or the topic is gone.
        """
        try:
            return self._take(max_rows, max_bytes, timeout)
        except (GapError, SourceError):
            self.next = {}  # what was fetched is dropped: the next read must assign again
            raise

    def wait(self, timeout: float) -> bool:
        """Whether a record (or an error, which `take` will raise) is there, waiting up to `timeout` seconds for it."""
        deadline = time.monotonic() + timeout
        while not self._held:
            left = deadline - time.monotonic()
            message = self._consumer.poll(max(left, 0.0))
            if message is not None and not self._noted_end(message):
                self._held.append(message)
            elif left <= 0:
                return False
        return True

    def commit_group(self, offsets: Mapping[int, int]) -> None:
        """Tell the group's offsets to the broker without waiting; a refusal is of no consequence."""
        places = [TopicPartition(self._topic.name, partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException:
            return  # dashboards only: our positions are in the lake

    def seen_ends(self, ends: Mapping[int, int]) -> dict[int, int]:
        """The later of `ends` and what fetching has shown, by partition."""
        return {number: max(end, self.next.get(number) or 0, self._high(number)) for number, end in ends.items()}

    def _high(self, partition: int) -> int:
        """Where the last answered fetch said the partition ends, -1 before the first."""
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic.name, partition), cached=True)
        return max(int(found[1]), -1) if found else -1

    def close(self) -> None:
        """Leave the broker; commits nothing."""
        self._consumer.close()

    def _take(self, max_rows: int, max_bytes: int, timeout: float) -> tuple[list[pl.DataFrame], dict[int, int]]:
        taken = _Taken()
        started = heard = time.monotonic()
        timeout, self._settled = max(timeout, self._settled), _SETTLE_SECONDS
        while taken.rows < max_rows and taken.size < max_bytes:
            got = self._decode(self._fetch(min(CHUNK, max_rows - taken.rows), self._patience(taken)), taken)
            now = time.monotonic()
            if got:
                heard = now
            elif taken.rows:
                if self._caught_up() or now - heard > _FILL_SECONDS:
                    break
            elif self._ended >= self.next.keys():
                if now - started >= timeout and self._confirm_end():
                    break
                heard = now
            else:
                self._check_silence(now - heard)
        return taken.frames, taken.first

    def _patience(self, taken: _Taken) -> float:
        return 0.0 if taken.rows and self._caught_up() else 0.05

    def _fetch(self, most: int, timeout: float) -> list[Message]:
        """Up to `most` messages: what is queued now, else the first to come within `timeout` seconds."""
        messages, self._held = self._held, []
        if not messages:
            message = self._consumer.poll(timeout)
            if message is None:
                return []
            messages = [message]
        if most > len(messages):  # consume() would wait for the full number: only what is there
            messages += self._consumer.consume(most - len(messages), 0)
        return messages

    def _decode(self, messages: list[Message], taken: _Taken) -> int:
        """Decode the records among the messages into `taken`; how many there were."""
        partitions: list[int] = []
        offsets: list[int] = []
        timestamps: list[int | None] = []
        values: list[bytes | None] = []
        for message in messages:
            if message.error() is not None:
                if not self._noted_end(message):
                    self._raise_for(message)
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            kind, timestamp = message.timestamp()
            partitions.append(partition)
            offsets.append(offset)
            timestamps.append(timestamp if kind else None)
            value: Any = message.value()
            values.append(value)
            taken.size += len(value) if value is not None else 0
            taken.first.setdefault(partition, offset)
            self.next[partition] = offset + 1
        if partitions:
            self._ended.difference_update(
                partition for partition in set(partitions) if self.next[partition] != self._high(partition)
            )
            taken.frames.append(decode(RawRecords(self._topic.name, partitions, offsets, timestamps, values)))
            taken.rows += len(partitions)
        return len(partitions)

    def _noted_end(self, message: Message) -> bool:
        """Whether the message is "end of partition", which then is remembered."""
        error = message.error()
        if error is None or error.code() != KafkaError._PARTITION_EOF:
            return False
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None
        self._ended.add(partition)
        self.next[partition] = max(offset, self.next.get(partition) or 0)  # steps over transaction markers
        return True

    def _caught_up(self) -> bool:
        return all(
            partition in self._ended or (offset is not None and 0 <= self._high(partition) <= offset)
            for partition, offset in self.next.items()
        )

    def _confirm_end(self) -> bool:
        """Ask the broker anew: "at the end" may be older than this call."""
        ends = self._source.ends(self.next)
        later = {partition for partition, end in ends.items() if end > (self.next[partition] or 0)}
        self._ended -= later
        return not later

    def _check_silence(self, seconds: float) -> None:
        if seconds < _BEYOND_SECONDS:
            return
        for partition, offset in self.next.items():
            # The demo's broker answers a fetch beyond its end with nothing at all; Kafka with an error.
            if partition not in self._ended and offset is not None and 0 <= self._high(partition) < offset:
                self._check_range({partition: offset}, {}, {partition: self._high(partition)})
        if seconds >= SILENT_SECONDS:
            cause = self._clients.last_error or "it reports no error"
            raise SourceError(
                f"Kafka at {self._clients.bootstrap} delivers nothing from topic {self._topic.name!r} for "
                f"{seconds:.0f} s, nor does it say that there is nothing ({cause})",
                "see the broker's log; each partition needs a leader",
            )

    def _raise_for(self, message: Message) -> None:
        """Raise for an error event, unless librdkafka goes on by itself."""
        error = message.error()
        assert error is not None
        if error.code() in _RANGE:
            partition = message.partition()
            known = {number: offset for number, offset in self.next.items() if offset is not None}
            self._verify_identity()
            self._check_range(known, self._source.starts(known), self._source.ends(known))
            if partition in known:  # the log moved while we asked
                raise RetentionGapError(*self._lost(partition, known[partition], "not in the log any more"))
        elif error.code() in _GONE:
            self._verify_identity()
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise SourceError(
                f"Kafka at {self._clients.bootstrap} does not let us read topic {self._topic.name!r}",
                "grant READ on the topic to the user of FRAUD_KAFKA_CONFIG_FILE",
            )
        elif error.fatal():
            raise SourceError(f"Kafka at {self._clients.bootstrap}: {error.str()}", "see the broker's log")

    def _verify_identity(self) -> None:
        verify_identity(self._topic, self._source.describe())

    def _check_range(self, offsets: Mapping[int, int], starts: Mapping[int, int], ends: Mapping[int, int]) -> None:
        for partition, offset in offsets.items():
            if partition in starts and offset < starts[partition]:
                raise RetentionGapError(
                    *self._lost(partition, offset, f"before the earliest the broker still has, {starts[partition]}")
                )
            if partition in ends and offset > ends[partition]:
                raise LogTruncatedError(
                    *self._lost(partition, offset, f"beyond the end of the log, {ends[partition]}")
                )

    def _lost(self, partition: int, offset: int, where: str) -> tuple[str, str]:
        return (
            f"Kafka topic {self._topic.name!r}, partition {partition}: our next offset {offset} is {where}",
            "find out what was lost, then accept the topic as it is now: fraud-lakehouse accept-source kafka",
        )


def verify_identity(before: KafkaTopic, now: KafkaTopic) -> None:
    """Raise unless two descriptions are of the same topic of the same cluster.

    Raises:
        TopicRecreatedError: they are not, or partitions have vanished.
    """
    if before.identity != now.identity or now.partitions < before.partitions:
        raise TopicRecreatedError(
            f"Kafka topic {before.name!r} is another one now: it was {before.identity} with {before.partitions} "
            f"partitions, it is {now.identity} with {now.partitions}",
            "if that was intended, accept the new topic: fraud-lakehouse accept-source kafka",
        )


def app_positions(topic: KafkaTopic, offsets: Mapping[int, int | None], only: Iterable[int]) -> dict[str, int]:
    """Offsets of some partitions by app_id; those without an offset are left out."""
    return {topic.app_id(number): offset for number in only if (offset := offsets.get(number)) is not None}
