"""A consumer on chosen partitions: takes bounded amounts, knows when it is at the end, never skips silently.

Speaks partitions and offsets; what a position is called is `capture.py`'s, where it is kept the lake's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.sources.kafka.chunk import Chunk, Decode, DecodeAhead
from fraud_lakehouse.sources.kafka.config import KafkaClients
from fraud_lakehouse.sources.kafka.order import ArrivalOrder
from fraud_lakehouse.sources.kafka.retention import check_range, lost
from fraud_lakehouse.sources.kafka.topic import (
    KafkaSource,
    KafkaTopic,
    RetentionGapError,
    verify_identity,
)

CHUNK = 20_000
"""Records decoded at once."""

SILENT_SECONDS = 10.0
"""How long a broker may neither deliver nor say "end of partition"."""

HELD_ROWS = 1_000_000
"""Most records held back for order; with more, order gives way."""

_FILL_SECONDS = 1.0
_HASTY_SECONDS = 0.3
_PORTION = 300  # messages alive at once: Python's collector wakes at 700 new objects
_PORTION_SECONDS = 0.02
_STALLED_SECONDS = 3.0
_SETTLE_SECONDS = 0.15  # longer than one fetch: what was acknowledged before a call is seen by it
_BEYOND_SECONDS = 1.0
_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


class KafkaReader:
    """Reads one topic's partitions from given offsets. Not for use by two threads at once.

    Args:
        clients: makes the consumer.
        source: asked about offsets and identity when something does not fit.
        topic: the topic as described when reading began.
        decode: gives the columns of its records.
    """

    def __init__(self, clients: KafkaClients, source: KafkaSource, topic: KafkaTopic, decode: Decode) -> None:
        self._clients = clients
        self._source = source
        self._topic = topic
        self._unit = clients.topic.name
        self._consumer: Consumer = clients.consumer()
        self._held: list[Message] = []
        self._ended: set[int] = set()
        self._settled = 0.0
        self._silent = 0.0
        self._behind = True
        self.fail_fast = False
        """Whether `take` gives up for now, instead of waiting, when a broker says nothing."""
        self.at_end = False
        """Whether the last `take` found nothing since the broker, asked anew, has nothing beyond `next`."""
        self._ahead = DecodeAhead(decode)
        self._order = ArrivalOrder()
        self.next: dict[int, int | None] = {}
        """Next offset to fetch of each assigned partition; None: from the earliest, nothing fetched yet."""
        self.handed: dict[int, int | None] = {}
        """Next offset to hand out of each assigned partition."""

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
        self._held, self._ended, self.next, self._settled, self._silent = [], set(), {}, 0.0, 0.0
        self._order = ArrivalOrder(alone=len(offsets) == 1)
        known = {partition: offset for partition, offset in offsets.items() if offset is not None}
        starts = self._source.starts(offsets)  # asking here saves the 0.5 s that librdkafka takes to find "beginning"
        check_range(self._topic.name, known, starts, {}, self._unit)
        self._consumer.assign(
            [
                TopicPartition(self._topic.name, partition, starts[partition] if offset is None else offset)
                for partition, offset in offsets.items()
            ]
        )
        self.next, self.handed = dict(offsets), dict(offsets)

    def take(self, max_rows: int, max_bytes: int, timeout: float) -> pl.DataFrame | None:
        """Take what is there in the order of arrival, at most `max_rows` rows, about `max_bytes` bytes fetched.

        Waits for the first record until every partition was seen at its end and `timeout` seconds are over: None
        means there was nothing. Returns as soon as it has all there is.

        Returns:
            a frame as of `RecordDecoder.decode` with at least one row; `handed` then is past it.

        Raises:
            GapError: records between our offset and the broker's are gone.
            SourceError: the broker went silent for 10 s, the topic is gone, or records cannot be decoded for now.
        """
        self.at_end = False
        try:
            horizon = self._fill(max_rows, max_bytes, timeout)
            if not self._order.rows:
                return None
            frame = self._order.release(max_rows, horizon)
        except (GapError, SourceError):
            self.next = {}  # what was fetched is dropped: the next read must assign again
            raise
        last = frame.group_by("_partition").agg(pl.col("_offset").max())
        self.handed |= {number: offset + 1 for number, offset in last.iter_rows()}
        self.handed = self.passed
        return frame

    @property
    def passed(self) -> dict[int, int | None]:
        """Next offset to hand out of each partition, as `next`: also past markers that came after the last `take`."""
        held = self._order.partitions()
        # Nothing held of a partition: what lies between its last record and its end are transaction markers.
        return self.handed | {number: offset for number, offset in self.next.items() if number not in held}

    @property
    def more(self) -> bool:
        """Whether records are known to be there behind those that `take` gave last."""
        return self._behind or self._order.rows > 0

    def wait(self, timeout: float) -> bool:
        """Whether a record (or an error, which `take` will raise) is there, waiting up to `timeout` seconds for it."""
        deadline = time.monotonic() + timeout
        while not (self._held or self._order.rows):
            message = self._consumer.poll(max(deadline - time.monotonic(), 0.0))
            if message is None:  # after as many whole milliseconds: to wait for the rest of one would take it all
                return False
            if not self._noted_end(message):
                self._held.append(message)
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
        seen = {number: max(end, self.next.get(number) or 0) for number, end in ends.items()}
        # A fetch's high watermark counts open transactions too: only where the end was not read.
        return {number: end if number in self._ended else max(end, self._high(number)) for number, end in seen.items()}

    def _high(self, partition: int) -> int:
        """Where the last answered fetch said the partition ends, -1 before the first."""
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic.name, partition), cached=True)
        return max(int(found[1]), -1) if found else -1

    def close(self) -> None:
        """Leave the broker; commits nothing."""
        self._ahead.close()
        self._consumer.close()

    def _fill(self, max_rows: int, max_bytes: int, timeout: float) -> int | None:
        """Fetch until there is enough to hand out, or all there is; up to which clock it may be (None: all)."""
        started = time.monotonic()
        heard, self._silent = started - self._silent, 0.0
        timeout, self._settled = max(timeout, self._settled), _SETTLE_SECONDS
        size = 0
        while True:
            horizon = self._horizon()
            self._behind = horizon is not None
            ready = self._order.ready(horizon)
            if ready >= max_rows or (ready and size >= max_bytes):
                return horizon
            if self._order.rows >= max(HELD_ROWS, max_rows):
                return None
            count, fetched = self._fetch(CHUNK, 0.0 if ready and horizon is None else 0.05)
            size += fetched
            now = time.monotonic()
            if count:
                heard = now
            elif self._order.rows:
                if horizon is None or (ready and now - heard > _FILL_SECONDS):
                    return horizon
                if now - heard > _STALLED_SECONDS:  # one partition without a leader does not hold up the others
                    return None
            elif self._ended >= self.next.keys():
                if now - started >= timeout and self._confirm_end():
                    self.at_end = True
                    return None
                heard = now
            else:
                self._check_silence(now - heard)
                if self.fail_fast and now - started > _HASTY_SECONDS:  # the next call goes on waiting
                    self._silent = now - heard
                    return None

    def _horizon(self) -> int | None:
        """The clock up to which no earlier record can come any more: None when all partitions are read to the end."""
        behind = [partition for partition in self.next if not self._caught_up(partition)]
        return min((self._order.clocks.get(partition, -1) for partition in behind), default=None)

    def _caught_up(self, partition: int) -> bool:
        offset = self.next[partition]
        return partition in self._ended or (offset is not None and 0 <= self._high(partition) <= offset)

    def _fetch(self, most: int, timeout: float) -> tuple[int, int]:
        """Hold what is queued now, else what comes first within `timeout` seconds; records and their bytes."""
        messages, self._held = self._held, []
        if not messages:
            message = self._consumer.poll(timeout)
            if message is None:
                return 0, 0
            messages = [message]
        # consume() waits for the full number: while far behind that is wanted, since small chunks cost more a record.
        patience = _PORTION_SECONDS if self._behind else 0
        chunk, wanted = Chunk(self._topic.name, next(iter(self.next)) if len(self.next) == 1 else None), len(messages)
        while len(messages) >= wanted:
            self._add(chunk, messages)
            if (wanted := min(most - chunk.rows, _PORTION)) <= 0:
                break
            messages = self._consumer.consume(wanted, patience)
        else:
            self._add(chunk, messages)
        records = chunk.records
        if chunk.rows:
            self._order.add(self._ahead.submit(records), records.partitions, records.timestamps)
        return chunk.rows, records.size

    def _add(self, chunk: Chunk, messages: list[Message]) -> None:
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not self._noted_error(message)]
        if not messages:
            return
        ends = chunk.add(messages)
        self.next |= {partition: max(end, self.next.get(partition) or 0) for partition, end in ends.items()}
        self._ended -= {
            partition for partition in self._ended.intersection(ends) if self.next[partition] != self._high(partition)
        }

    def _noted_error(self, message: Message) -> bool:
        """Whether the message is no record but an event, which then is dealt with; some raise."""
        if message.error() is None:
            return False
        if not self._noted_end(message):
            self._raise_for(message)
        return True

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
                check_range(self._topic.name, {partition: offset}, {}, {partition: self._high(partition)}, self._unit)
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
            verify_identity(self._topic, self._source.describe(), self._unit)
            check_range(self._topic.name, known, self._source.starts(known), self._source.ends(known), self._unit)
            if partition in known and not _is_stale(message, known[partition]):  # the log moved while we asked
                where = "not in the log any more"
                raise RetentionGapError(*lost(self._topic.name, partition, known[partition], where, self._unit))
        elif error.code() in _GONE:
            verify_identity(self._topic, self._source.describe(), self._unit)
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise SourceError(
                f"Kafka at {self._clients.bootstrap} does not let us read topic {self._topic.name!r}",
                f"grant READ on the topic to the user of {self._clients.topic.config_file_setting}",
            )
        elif error.fatal():
            raise SourceError(f"Kafka at {self._clients.bootstrap}: {error.str()}", "see the broker's log")


def _is_stale(message: Message, position: int) -> bool:
    """Whether the refused fetch was an earlier assignment's: librdkafka hands on its refusal after a new `assign`."""
    offset = message.offset()
    return offset is not None and 0 <= offset < position
