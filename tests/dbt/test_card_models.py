"""Silver, windows and features of card records equal brute force, however records are landed and builds are split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.dbt import cards_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same

OVER = "user_trans_amt_last_360min"
KEYS = {
    OVER: ["trans_num"],
    f"{OVER}_windowed": ["window_start", "user_id"],
    f"{OVER}_hop": ["window_start", "user_id"],
    f"{OVER}_cumulate": ["window_start", "window_end", "user_id"],
    "user_card_sessions": ["window_start", "user_id"],
}
"""Tables of newest versions, which are not in the hot lane, and their keys; <table>_versions has all."""
BESIDE = (f"{OVER}_hop_versions", f"{OVER}_cumulate_versions", "user_card_sessions_versions")
"""Models compared here that are in the features lane."""
WINDOWS = {
    f"{OVER}_windowed": oracle.tumble,
    f"{OVER}_hop": oracle.hop,
    f"{OVER}_cumulate": oracle.cumulate,
    "user_card_sessions": oracle.sessions,
}


@pytest.fixture(scope="module", params=["drop", "correct"])
def shared_lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("cards") / "lake", late_rows=request.param)
    yield lake
    lake.transformer.close()


def arrivals(records: list[Row], rng: random.Random) -> Iterator[list[Row]]:
    """The records in commits; each takes some partitions only, so that one can run far ahead of another."""
    waiting = list(records)
    while waiting:
        partitions = {row["_partition"] for row in waiting}
        taken = set(rng.sample(sorted(partitions), rng.randrange(1, len(partitions) + 1)))
        most = rng.choice([1, 40, 150])
        chosen = [row for row in waiting if row["_partition"] in taken][:most]
        waiting = [row for row in waiting if row not in chosen]
        yield chosen


def build(lake: SmallLake, *models: str, full_refresh: bool = False) -> None:
    lake.transformer.build(models, full_refresh=full_refresh, tests=False).raise_for_errors()


def check(lake: SmallLake, *, tier: bool = True) -> None:
    """Build the replica lane with its 40 tests, or only what is compared here, and compare."""
    build(lake, *BESIDE, *KEYS)
    if tier:
        lake.build("replica")
    rows = oracle.distinct(lake.rows("bronze", "card_transactions"))
    late = oracle.late(rows)
    is_corrected = lake.late_rows == "correct"
    left_out = set() if is_corrected else {row["trans_num"] for row in late}

    expected = [
        {"trans_num": row["trans_num"], "_partition": row["_partition"], "_offset": row["_offset"]} for row in rows
    ]
    assert_same(lake.rows("silver", "card_transactions"), expected, "trans_num")
    assert_same(lake.rows("silver", "card_transactions_late"), late, "trans_num")
    assert_same(lake.rows("gold", OVER), oracle.over(rows), *KEYS[OVER])
    for table, closed in WINDOWS.items():
        assert_same(lake.rows("gold", table), closed(rows, left_out), *KEYS[table])
    assert_same(lake.rows("gold", "card_transaction_features"), oracle.features(rows), "transaction_id")


def check_known(lake: SmallLake, told: dict[tuple[Any, ...], datetime]) -> None:
    """Versions a build has added (not `told` yet) are known after all that had landed; those of a key one by one."""
    ingested = max(row["_ingested_at"] for row in lake.rows("bronze", "card_transactions"))
    for table, key in KEYS.items():
        for row in sorted(lake.rows("gold", f"{table}_versions"), key=lambda row: row["version"]):
            place = (table, *(row[name] for name in key))
            if (*place, row["version"]) not in told:
                assert row["known_at"] >= ingested, row
                assert row["version"] == 1 or row["known_at"] > told[*place, row["version"] - 1], row
                told[*place, row["version"]] = row["known_at"]
            assert told[*place, row["version"]] == row["known_at"]


def test_many_records_in_many_builds_give_what_brute_force_gives(lake: SmallLake) -> None:
    rng = random.Random(1)
    records = oracle.random_records(1, count=400, partitions=3)
    told: dict[tuple[Any, ...], datetime] = {}
    for rows in arrivals(records, rng):
        lake.land("card_transactions", rows)
        if rng.random() < 0.3:
            lake.build("hot")
            check(lake, tier=False)
            check_known(lake, told)
    lake.build("hot")
    check(lake)
    check_known(lake, told)
    assert max(version for *_, version in told) > 1, "nothing was corrected"

    lake.build("hot", full_refresh=True)
    build(lake, *BESIDE, full_refresh=True)
    check(lake)
    check_known(lake, {})


def test_order_of_arrival_within_the_lateness_changes_no_window(lake: SmallLake) -> None:
    rng = random.Random(5)
    records = oracle.random_records(5, count=200, partitions=1)
    in_time = [row for row in records if row.get("trans_num") and row["trans_date_trans_time"][-2:] <= "15"]
    in_time.sort(key=lambda row: row["trans_date_trans_time"])
    results = []
    for shuffled in (False, True):
        lake.clear()
        if shuffled:  # by less than the lateness
            in_time.sort(key=lambda row: (row["trans_date_trans_time"][:-2], rng.random()))
        for offset, row in enumerate(in_time):
            row["_offset"] = offset
        lake.land("card_transactions", in_time)
        lake.build("hot")
        windows = lake.rows("gold", "user_trans_amt_last_360min_windowed_versions")
        results.append(
            sorted((row["window_start"], row["user_id"], row["user_trans_count_last_360min"]) for row in windows)
        )

    assert results[0]
    assert results[0] == results[1]


def test_features_depend_on_the_order_of_arrival_not_on_batches(lake: SmallLake) -> None:
    """Ties and rows that are behind count the same whether records land one batch after another or all at once."""
    records = oracle.random_records(9, count=90, partitions=1)
    results = []
    for size in (90, 20, 7):
        lake.clear()
        for start in range(0, len(records), size):
            lake.land("card_transactions", records[start : start + size])
            if start % (3 * size) == 0:
                lake.build("hot")
        lake.build("hot")
        rows = lake.rows("gold", "card_transaction_features")
        measures = [(row["transaction_id"], row["prior_count"], row["count_10min"]) for row in rows]
        sums = [round(row["sum_10min"], 6) for row in rows]
        results.append(sorted(zip(measures, sums, strict=True)))

    assert results[0]
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_built_from_nothing_the_features_are_the_newest_of_their_versions(lake: SmallLake) -> None:
    in_order = [row for row in oracle.random_records(4, count=60, partitions=1) if row.get("trans_num")]
    in_order.sort(key=lambda row: row["trans_date_trans_time"])
    for offset, row in enumerate(in_order):
        row["_offset"] = offset
    lake.land("card_transactions", in_order[:-2])
    lake.build("hot")
    check(lake)
    lake.land("card_transactions", in_order[-2:])
    late_one = in_order[0] | {"trans_num": "behind", "_offset": len(in_order)}
    lake.land("card_transactions", [late_one])
    lake.build("hot")
    check(lake)
    lake.transformer.build([*KEYS], full_refresh=True, tests=False).raise_for_errors()
    check(lake, tier=False)
