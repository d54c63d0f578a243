"""Gathered records have the offsets that the messages have, holes included."""

from __future__ import annotations

from confluent_kafka import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.sources.kafka.chunk import Chunk


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 2)), min_size=1, max_size=5), max_size=4))
def test_offsets_are_those_of_the_messages(portions: list[list[tuple[int, int]]]) -> None:
    chunk = Chunk("t")
    ends = {0: 0, 1: 0}
    expected: list[tuple[int, int]] = []
    for portion in portions:
        messages, seen = [], {}
        for partition, step in portion:  # a step of 2 leaves a hole, as compaction and transactions do
            offset = ends[partition] + step - 1
            ends[partition] = seen[partition] = offset + 1
            expected.append((partition, offset))
            messages.append(Message(topic="t", partition=partition, offset=offset, value=b"x", timestamp=(1, 5)))
        assert chunk.add(messages) == seen
    records = chunk.records
    assert list(zip(records.partitions, records.offsets, strict=True)) == expected
    assert records.values == [b"x"] * len(expected) and chunk.rows == len(expected)
