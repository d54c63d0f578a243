"""What a reader does when the broker answers a fetch, long after `assign`, that an offset is not in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.errors import GapError
from fraud_lakehouse.sources.kafka.reader import KafkaReader
from fraud_lakehouse.sources.kafka.topic import (
    KafkaTopic,
    LogTruncatedError,
    RetentionGapError,
    TopicRecreatedError,
)
from tests.fixtures_kafka import card, decode

TOPIC = KafkaTopic("t", "C", "T", 2)


@dataclass
class Log:
    """Partitions of one topic; the consumer of it, the clients that make that, and the source that is asked."""

    topic: KafkaTopic = TOPIC
    first: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    last: dict[int, int] = field(default_factory=lambda: {0: 9, 1: 9})
    queue: list[Message] = field(default_factory=list)
    max_record_bytes: int = 1000

    def record(self, partition: int, offset: int) -> None:
        value = encode(card(offset))
        self.queue.append(Message(topic="t", partition=partition, offset=offset, value=value, timestamp=(1, offset)))

    def refuse(self, partition: int, code: int, offset: int = -1001) -> None:
        self.queue.append(Message(topic="t", partition=partition, offset=offset, error=KafkaError(code)))

    # the clients and their consumer
    def consumer(self) -> Log:
        return self

    def assign(self, places: list[TopicPartition]) -> None: ...

    def close(self) -> None: ...

    def poll(self, timeout: float) -> Message | None:
        return self.queue.pop(0) if self.queue else None

    def consume(self, most: int, timeout: float) -> list[Message]:
        taken, self.queue = self.queue[:most], self.queue[most:]
        return taken

    def get_watermark_offsets(self, place: TopicPartition, cached: bool) -> tuple[int, int]:
        return self.first[place.partition], self.last[place.partition]

    # the source
    def describe(self) -> KafkaTopic:
        return self.topic

    def starts(self, partitions: Iterable[int]) -> Mapping[int, int]:
        return {partition: self.first[partition] for partition in partitions}

    def ends(self, partitions: Iterable[int]) -> Mapping[int, int]:
        return {partition: self.last[partition] for partition in partitions}


def reader_of(log: Log) -> KafkaReader:
    return KafkaReader(log, log, TOPIC, decode)  # type: ignore[arg-type]  # the log plays the clients and the source


def failure(log: Log, kind: type[GapError], *codes: int) -> str:
    """Both partitions are read up to offset 3, then a fetch of partition 1 is refused."""
    reader = reader_of(log)
    moved, log.first, log.last = (log.first, log.last), {0: 0, 1: 0}, {0: 9, 1: 9}
    try:
        reader.assign({0: 0, 1: None})
        for offset in range(3):
            log.record(0, offset)
            log.record(1, offset)
        assert reader._fetch(100, 0.0)[0] == 6
        assert reader.next == {0: 3, 1: 3}
        log.first, log.last = moved
        for code in codes:
            log.refuse(1, code)
        with pytest.raises(kind) as refused:
            reader.take(100, 1_000_000, 0.0)
        assert not reader.assigned, "the next read assigns anew, and checks every offset"
        return str(refused.value)
    finally:
        reader.close()


@pytest.mark.parametrize("code", [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE])
def test_retention_that_passes_a_reader_is_told_from_where_to_where(code: int) -> None:
    reported = failure(Log(first={0: 0, 1: 7}), RetentionGapError, code)
    assert "partition 1: our next offset 3 is before the earliest the broker still has, 7" in reported
    assert f"accept-source {TOPIC.name}" in reported


def test_the_partition_whose_records_are_gone_is_named_not_the_one_that_was_refused() -> None:
    reported = failure(Log(first={0: 5, 1: 0}), RetentionGapError, KafkaError._AUTO_OFFSET_RESET)
    assert "partition 0: our next offset 3 is before the earliest the broker still has, 5" in reported


def test_a_log_that_ends_before_the_reader_is_told() -> None:
    reported = failure(Log(last={0: 9, 1: 2}), LogTruncatedError, KafkaError._AUTO_OFFSET_RESET)
    assert "partition 1: our next offset 3 is beyond the end of the log, 2" in reported


def test_a_log_that_moved_back_while_it_was_asked_is_still_a_gap() -> None:
    reported = failure(Log(), RetentionGapError, KafkaError._AUTO_OFFSET_RESET)
    assert "partition 1: our next offset 3 is not in the log any more" in reported


@pytest.mark.parametrize("code", [KafkaError._AUTO_OFFSET_RESET, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_topic_made_anew_is_told_before_any_offset(code: int) -> None:
    anew: dict[str, Any] = {"topic": KafkaTopic("t", "C", "T2", 2), "first": {0: 7, 1: 7}}
    failure(Log(**anew), TopicRecreatedError, code)


@pytest.mark.parametrize("code", [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE])
def test_a_refusal_of_what_an_earlier_assignment_asked_for_is_none_of_this_one(code: int) -> None:
    log = Log(first={0: 0, 1: 6}, last={0: 9, 1: 7})
    reader = reader_of(log)
    try:
        reader.assign({1: 6})
        log.refuse(1, code, offset=3)
        log.record(1, 6)
        frame = reader.take(100, 1_000_000, 0.0)
        assert frame is not None and frame["_offset"].to_list() == [6]
        log.refuse(1, code, offset=7)
        with pytest.raises(RetentionGapError, match="our next offset 7 is not in the log any more"):
            reader.take(100, 1_000_000, 0.0)
    finally:
        reader.close()
