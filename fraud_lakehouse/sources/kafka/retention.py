"""Whether offsets still lie within what a broker holds; when not, which error says what is lost. Asks no broker."""

from __future__ import annotations

from collections.abc import Mapping

from fraud_lakehouse.sources.kafka.topic import LogTruncatedError, RetentionGapError


def check_range(
    topic: str, offsets: Mapping[int, int], starts: Mapping[int, int], ends: Mapping[int, int], unit: str
) -> None:
    """See that no next offset lies before its partition's start or beyond its end, where these are given.

    Args:
        unit: the topic's name as a unit of capture.

    Raises:
        RetentionGapError: an offset lies before the earliest the broker still has.
        LogTruncatedError: an offset lies beyond the end of the log.
    """
    for partition, offset in offsets.items():
        if partition in starts and offset < starts[partition]:
            where = f"before the earliest the broker still has, {starts[partition]}"
            raise RetentionGapError(*lost(topic, partition, offset, where, unit))
        if partition in ends and offset > ends[partition]:
            where = f"beyond the end of the log, {ends[partition]}"
            raise LogTruncatedError(*lost(topic, partition, offset, where, unit))


def lost(topic: str, partition: int, offset: int, where: str, unit: str) -> tuple[str, str]:
    """The problem and the fix of an offset that is not in the log any more."""
    return (
        f"Kafka topic {topic!r}, partition {partition}: our next offset {offset} is {where}",
        f"find out what was lost, then accept the topic as it is now: fraud-lakehouse accept-source {unit}",
    )
