"""Closed windows with zero counts equal brute force; arrival within the lateness changes neither windows nor OVER."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.dbt import cards_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same

TABLES = (
    "user_trans_amt_last_360min",
    "user_trans_amt_last_360min_windowed",
    "user_trans_amt_last_360min_windowed_spine",
)
MEAN, COUNT = "user_mean_trans_amt_last_360min", "user_trans_count_last_360min"


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("spine") / "lake", window_spine=True)
    yield lake
    lake.transformer.close()


def spine(windows: list[Row]) -> list[Row]:
    """Each user's closed windows from the first with a payment to the last; without payments they count 0."""
    held = {(row["window_start"], row["user_id"]): row for row in windows}
    result = []
    for user in {row["user_id"] for row in windows}:
        starts = [begin for begin, owner in held if owner == user]
        start = min(starts)
        while start <= max(starts):
            empty = {"window_start": start, "window_end": start + oracle.SIX_HOURS, "user_id": user}
            result.append(held.get((start, user), {**empty, MEAN: None, COUNT: 0}))
            start += oracle.SIX_HOURS
    return result


@pytest.mark.parametrize("gap", [0, 3])
def test_the_spine_equals_brute_force(lake: SmallLake, gap: int) -> None:
    """With a gap of days in the data there are windows that nobody paid in."""
    records = oracle.random_records(3, count=300, partitions=2)
    for number, row in enumerate(records):
        if number >= 250 and "trans_date_trans_time" in row:
            days = gap * (2 if number >= 296 else 1)
            moment = datetime.fromisoformat(row["trans_date_trans_time"]) + timedelta(days=days)
            row["trans_date_trans_time"] = moment.isoformat(" ")
    late_comers = [row for row in records[-4:] if row.get("trans_num") and "trans_date_trans_time" in row]
    assert {row["_partition"] for row in late_comers} == {0, 1}, "the watermark needs both partitions"
    for half in (records[:150], records[150:]):
        lake.land("card_transactions", half)
        lake.build("hot")
        lake.build_only(*TABLES)
        rows = oracle.distinct(lake.rows("bronze", "card_transactions"))
        windows = oracle.tumble(rows, {row["trans_num"] for row in oracle.late(rows)})
        expected = spine(windows)
        assert_same(lake.rows("gold", "user_trans_amt_last_360min_windowed_spine"), expected, "window_start", "user_id")
    assert (len(expected) > len(windows)) is bool(gap)


def test_order_of_arrival_within_the_lateness_changes_no_result(lake: SmallLake) -> None:
    """Over two partitions and several landings; values, not only counts."""
    rng = random.Random(8)
    records = [row for row in oracle.random_records(8, count=240, partitions=2) if "trans_date_trans_time" in row]
    by_number = {row["trans_num"]: row for row in records}
    in_time = sorted(by_number.values(), key=lambda row: row["trans_date_trans_time"])
    results: list[Any] = []
    for arrivals in (1, 4):
        lake.clear()
        if results:  # shuffled by less than the lateness
            moment = datetime.fromisoformat
            in_time.sort(key=lambda row: moment(row["trans_date_trans_time"]).timestamp() + rng.uniform(0, 15))
        for offset, row in enumerate(in_time):
            row["_offset"] = offset
        size = len(in_time) // arrivals + 1
        for start in range(0, len(in_time), size):
            lake.land("card_transactions", in_time[start : start + size])
            lake.build("hot")
        lake.build_only(*TABLES)
        tables = (
            ("user_trans_amt_last_360min", ("trans_num",)),
            ("user_trans_amt_last_360min_windowed", ("window_start", "user_id")),
        )
        results.append(
            [
                sorted(
                    (*(row[name] for name in key), round(row[MEAN], 9), row[COUNT]) for row in lake.rows("gold", table)
                )
                for table, key in tables
            ]
        )
        assert not lake.rows("silver", "card_transactions_late")
    assert all(results[0])
    assert results[0] == results[1]
