"""Replica, history, ledger, features and alerts of PostgreSQL changes equal an oracle, however the log is split."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from unittest.mock import ANY

import pytest

from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.transactions_oracle import START, Change, Replayed, committed_at, random_log


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("transactions") / "lake")
    yield lake
    lake.transformer.close()


def land(lake: SmallLake, commits: list[list[Change]]) -> None:
    for table in ("users", "transactions"):
        if rows := [row for commit in commits for name, row in commit if name == table]:
            lake.land(table, rows)


def check(lake: SmallLake, expected: Replayed) -> None:
    assert_same(lake.rows("silver", "users"), list(expected.users.values()), "user_id")
    assert_same(lake.rows("silver", "transactions"), list(expected.transactions.values()), "transaction_id")
    for table, key in (("users", "user_id"), ("transactions", "transaction_id")):
        assert_same(lake.rows("silver", f"{table}_history"), expected.history[table], key, "_lsn", "_seq")
    assert_same(lake.rows("silver", "transactions_ledger"), expected.ledger, "transaction_id", "_lsn", "_seq", "weight")
    assert_same(lake.rows("gold", "transaction_features"), expected.features, "transaction_id", "_lsn", "_seq")
    assert_same(lake.rows("gold", "alerts"), expected.alerts(), "rule", "transaction_id")


@pytest.mark.parametrize("seed", range(3))
def test_any_split_of_the_log_gives_what_one_build_gives(lake: SmallLake, seed: int) -> None:
    log = random_log(seed, transactions=150)
    rng = random.Random(seed)
    bounds = [0, *sorted(rng.sample(range(1, len(log)), 3)), len(log)]
    for start, end in pairwise(bounds):
        land(lake, log[start:end])
        tier = rng.choice(["hot", "replica", "none"])
        if tier != "none":
            lake.build(tier)
    lake.build("all")

    expected = Replayed().replay(log)
    check(lake, expected)

    lake.build("all", full_refresh=True)
    check(lake, expected)


def test_alerts_outlive_a_full_refresh_unchanged(lake: SmallLake) -> None:
    land(lake, random_log(99, transactions=60))
    lake.build("all")
    before = sorted(lake.rows("gold", "alerts"), key=lambda row: row["alert_id"])
    lake.build("all", full_refresh=True)

    assert before
    assert sorted(lake.rows("gold", "alerts"), key=lambda row: row["alert_id"]) == before


def test_anomalies_equal_the_reference_query(lake: SmallLake) -> None:
    log = random_log(7, transactions=200)
    land(lake, log)
    lake.build("all")
    state = Replayed().replay(log)

    averages: dict[int, Row] = {}
    for owner in {row["user_id"] for row in state.transactions.values()} - {None}:
        mine = [row["amount"] for row in state.transactions.values() if row["user_id"] == owner]
        known = [amount for amount in mine if amount is not None]
        mean = sum(known, Decimal(0)) / len(known) if known else None
        averages[owner] = {"user_id": owner, "avg_amount": mean, "transaction_count": len(mine)}
    anomalies = []
    for row in state.transactions.values():
        user = state.users.get(row["user_id"])
        if user is None:
            continue
        mean, amount = averages[row["user_id"]]["avg_amount"], row["amount"]
        known_both = mean is not None and amount is not None
        anomalies.append(
            {**row, "name": user["name"], "email": user["email"]}
            | {"is_anomaly": known_both and amount > 3 * mean, "amount_diff": amount - mean if known_both else None}
        )

    assert_same(lake.rows("gold", "user_avg"), list(averages.values()), "user_id")
    assert_same(lake.rows("gold", "transaction_anomalies"), anomalies, "transaction_id")


def test_a_burst_of_one_user_in_one_commit_counts_up(lake: SmallLake) -> None:
    rows = [
        {"transaction_id": number, "user_id": 1, "amount": Decimal(1), "transaction_date": None}
        | {"_op": "c", "_lsn": 5, "_seq": number}
        for number in range(150)
    ]
    for row in rows:
        row["transaction_date"] = random_log(0, 0)[0][0][1]["_committed_at"].replace(tzinfo=None)
    lake.land("transactions", rows)
    lake.build("hot")

    counts = {row["_seq"]: row["count_10min"] for row in lake.rows("gold", "transaction_features")}
    assert [counts[number] for number in range(150)] == [number + 1 for number in range(150)]


def test_back_dated_payments_in_between_hide_no_burst(lake: SmallLake) -> None:
    noon = START
    dates = [noon, *(noon - timedelta(days=day) for day in range(1, 61)), noon + timedelta(minutes=5)]
    rows = [
        {"transaction_id": number, "user_id": 1, "amount": Decimal(600), "transaction_date": date}
        | {"_op": "c", "_lsn": 10 * number + 10, "_seq": 1}
        for number, date in enumerate(dates)
    ]
    lake.land("transactions", rows[:40])
    lake.build("hot")
    lake.land("transactions", rows[40:])
    lake.build("hot")

    last = next(row for row in lake.rows("gold", "transaction_features") if row["transaction_id"] == "61")
    assert (last["count_10min"], last["sum_10min"]) == (2, 1200.0)
    assert "velocity" in {row["rule"] for row in lake.rows("gold", "alerts") if row["transaction_id"] == "61"}


def test_an_amount_that_is_no_number_counts_as_none(lake: SmallLake) -> None:
    """NaN as a payment without an amount, but for its alert; an infinite date as a payment that is not there."""
    rows: list[Row] = [
        {"transaction_id": number, "user_id": 1, "amount": Decimal(10), "transaction_date": START}
        | {"_op": "c", "_lsn": 10 * number, "_seq": 1, "_committed_at": committed_at(10 * number)}
        for number in range(1, 10)
    ]
    rows[6] |= {"amount": None, "_text": '{"amount": "NaN"}'}
    rows[7] |= {"transaction_date": None, "_text": '{"transaction_date": "infinity"}'}
    for part in (rows[:7], rows[7:]):
        lake.land("transactions", part)
        lake.build("hot")
    lake.build("replica")

    features = {row["transaction_id"]: row for row in lake.rows("gold", "transaction_features")}
    names = ("amount", "event_time", "prior_count", "prior_mean", "count_10min", "sum_10min")
    assert [tuple(features[number][name] for name in names) for number in ("7", "8", "9")] == [
        (ANY, START, 6, 10.0, 7, 60.0),
        (10.0, None, 6, 10.0, 0, 0.0),
        (10.0, START, 6, 10.0, 8, 70.0),
    ]
    assert math.isnan(features["7"]["amount"])
    alerts = [(row["rule"], row["transaction_id"], row["amount"]) for row in lake.rows("gold", "alerts")]
    assert alerts == [("amount_out_of_range", "7", None)]
    texts = {row["transaction_id"]: row["_text"] for row in lake.rows("silver", "transactions_history")}
    assert [texts[number] for number in (6, 7, 8)] == [None, '{"amount": "NaN"}', '{"transaction_date": "infinity"}']
