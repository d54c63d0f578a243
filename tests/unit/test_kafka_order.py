"""Records of several partitions are handed out by time, each partition in its own order."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.sources.kafka.order import ArrivalOrder


def hold(order: ArrivalOrder, partition: int, first: int, timestamps: list[int | None]) -> None:
    numbers = [partition] * len(timestamps)
    frame = pl.DataFrame({"_partition": numbers, "_offset": range(first, first + len(timestamps))})
    order.add(lambda: frame, numbers, timestamps)


def test_only_up_to_the_horizon_and_the_limit() -> None:
    order = ArrivalOrder()
    hold(order, 0, 0, [10, 20, 30])
    hold(order, 1, 0, [15, 25])
    assert (order.ready(20), order.ready(None), order.ready(-1)) == (3, 5, 0)
    assert order.release(2, 20).rows() == [(0, 0), (1, 0)]
    assert (order.rows, order.ready(20), order.partitions()) == (3, 1, {0, 1})
    assert order.release(10, 20).rows() == [(0, 1)]
    assert order.release(10, None).rows() == [(1, 1), (0, 2)]
    assert (order.rows, order.partitions(), order.clocks) == (0, set(), {0: 30, 1: 25})


def test_time_that_falls_within_a_partition_keeps_its_order() -> None:
    order = ArrivalOrder()
    hold(order, 0, 0, [50, 10, None])
    hold(order, 0, 3, [20])
    hold(order, 1, 0, [40])
    assert order.release(10, None).rows() == [(1, 0), (0, 0), (0, 1), (0, 2), (0, 3)]


pieces = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.none() | st.integers(0, 50), min_size=1, max_size=5)), max_size=8
)


@given(pieces, st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(-1, 50)), max_size=6))
def test_every_cut_is_a_prefix_of_each_partition(
    added: list[tuple[int, list[int | None]]], cuts: list[tuple[int, int | None]]
) -> None:
    order = ArrivalOrder()
    ends = dict.fromkeys(range(3), 0)
    for partition, timestamps in added:
        hold(order, partition, ends[partition], timestamps)
        ends[partition] += len(timestamps)
    total = order.rows
    taken: list[tuple[int, int]] = []
    for most, horizon in [*cuts, (1000, None)]:
        if order.rows:
            frame = order.release(most, horizon)
            assert frame.height <= most
            taken += frame.rows()
    assert len(taken) == total == sum(ends.values())
    for partition in ends:
        assert [offset for number, offset in taken if number == partition] == list(range(ends[partition]))


@given(st.lists(st.lists(st.none() | st.integers(0, 50), min_size=1, max_size=5), max_size=6), st.integers(1, 6))
def test_a_partition_alone_is_handed_out_as_it_is(added: list[list[int | None]], most: int) -> None:
    order, reported, taken = ArrivalOrder(alone=True), ArrivalOrder(), list[tuple[int, int]]()
    for timestamps in added:
        hold(order, 0, len(taken) + order.rows, timestamps)
        hold(reported, 0, 0, timestamps)
        assert order.clocks == reported.clocks
        assert order.ready(order.clocks[0]) == order.rows
        taken += order.release(most, order.clocks[0]).rows()
    if order.rows:
        taken += order.release(1000, None).rows()
    assert taken == [(0, offset) for offset in range(sum(map(len, added)))]
