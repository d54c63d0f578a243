"""Amounts and event times that count nowhere: features are as if these were null, or the payments not there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.checks.excluded_values import evaluate_excluded_values
from fraud_lakehouse.transform.rebuild import rebuild
from tests.catalogues import BANK as BANK_PAYMENTS
from tests.catalogues import CARDS as CARD_PAYMENTS
from tests.catalogues import shipped_streams
from tests.dbt import cards_oracle as oracle
from tests.dbt.small_lake import SCHEMAS, Row, SmallLake, by
from tests.numbered import commit

CARDS, LEDGER = ("silver", "card_transactions"), ("silver", "transactions_ledger")
AMOUNTS = [1e12 + 1, -2e12, 1e15, -9e28, 1e308, math.inf, -math.inf, math.nan]
TIMES = ["9999-12-31 23:59:59", "2026-01-03 12:00:00", "0001-01-01 00:00:00"]
OVER = "user_trans_amt_last_360min"
KEYS = {
    ("silver", "card_transactions_late"): ("trans_num",),
    ("gold", OVER): ("trans_num",),
    ("gold", f"{OVER}_windowed"): ("window_start", "user_id"),
    ("gold", f"{OVER}_windowed_spine"): ("window_start", "user_id"),
    ("gold", f"{OVER}_hop"): ("window_start", "user_id"),
    ("gold", f"{OVER}_cumulate"): ("window_start", "window_end", "user_id"),
    ("gold", "user_card_sessions"): ("window_start", "user_id"),
    ("gold", "card_transaction_features"): ("transaction_id",),
    ("gold", "card_feature_vectors"): ("trans_num",),
}
BANK_KEYS = {
    ("silver", "transactions_ledger"): ("transaction_id", "_lsn", "weight"),
    ("gold", "transaction_features"): ("transaction_id", "_lsn"),
    ("gold", "transaction_feature_vectors"): ("transaction_id",),
}
GIVEN = {
    *("amt", "amount", "amount_text", "is_amount_excluded", "is_time_excluded", "version"),
    *("known_at", "scored_at", "landed_at", "_ingested_at", "alert_id", "fired_at", "_commit"),
}
"""Columns that say what was given, or when it was computed."""


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("excluded") / "lake", window_spine=True)
    yield lake
    lake.transformer.close()


def build_all(lake: SmallLake) -> None:
    lake.transformer.reload()  # as each cycle does
    for tier in ("hot", "features", "replica"):
        lake.transformer.build(lake.transformer.names(tier), tests=False).raise_for_errors()


def table(lake: SmallLake, layer: str, name: str, key: tuple[str, ...], extra: set[Any]) -> dict[Any, Row]:
    """The newest version of each row, without what was given; those of `extra` payments are left out."""
    rows = [row for row in lake.rows(layer, name) if row[key[0]] not in extra]
    newest = {tuple(row[part] for part in key): row for row in sorted(rows, key=lambda row: row.get("version") or 0)}
    return {
        place: {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
        for place, row in (
            (place, {name: value for name, value in row.items() if name not in GIVEN}) for place, row in newest.items()
        )
    }


def results(lake: SmallLake, keys: dict[tuple[str, str], tuple[str, ...]], extra: set[Any]) -> dict[str, Any]:
    found = {name: table(lake, layer, name, key, extra) for (layer, name), key in keys.items()}
    alerts = [row for row in lake.rows("gold", "alerts") if row["rule"] == "velocity"]
    return found | {"velocity": sorted(row["transaction_id"] for row in alerts)}


def land_and_build(lake: SmallLake, name: str, arrivals: list[list[Row]]) -> None:
    lake.clear()
    for rows in arrivals:
        lake.land(name, rows)
        build_all(lake)


def hours_apart(records: list[Row]) -> list[Row]:
    """The records over days, so that windows close and some payments are late."""
    for number, row in enumerate(records):
        moment = datetime.fromisoformat(row["trans_date_trans_time"]) + timedelta(hours=number // 8 * 2)
        row["trans_date_trans_time"] = moment.isoformat(" ")
    return records


def cards() -> tuple[list[list[Row]], list[list[Row]], set[str], set[str]]:
    """Landings with poison, the same without; ids of payments whose amount and whose time is excluded."""
    good = hours_apart([row for row in oracle.random_records(11, count=160, partitions=2) if row.get("trans_num")])
    poisoned, plain, amounts, times = [], [], set(), set()
    for number, row in enumerate(good):
        if number % 7 == 3:
            amounts.add(row["trans_num"])
            poisoned.append(row | {"amt": AMOUNTS[number // 7 % len(AMOUNTS)]})
            plain.append(row | {"amt": None})
        else:
            poisoned.append(row)
            plain.append(row)
        if number % 20 == 5:
            extra = row | {"trans_num": f"time-{number}", "trans_date_trans_time": TIMES[number // 20 % len(TIMES)]}
            times.add(extra["trans_num"])
            poisoned.append(extra | {"_offset": row["_offset"] + 10_000})
            plain.append({})
    halves = [[rows[:80], rows[80:]] for rows in (poisoned, [*plain])]
    return halves[0], [[row for row in rows if row] for rows in halves[1]], amounts, times


def test_card_features_are_as_if_excluded_values_were_null(lake: SmallLake) -> None:
    poisoned, plain, amounts, times = cards()
    land_and_build(lake, "card_transactions", plain)
    expected = results(lake, KEYS, set())
    assert [name for _, name in KEYS if not expected[name]] == []

    land_and_build(lake, "card_transactions", poisoned)
    found = results(lake, KEYS, times)
    for name, rows in expected.items():
        assert found[name] == rows, name

    silver = by(lake.rows("silver", "card_transactions"), "trans_num")
    assert {row["trans_num"] for row in silver.values() if row["is_amount_excluded"]} == amounts
    assert {row["trans_num"] for row in silver.values() if row["is_time_excluded"]} == times
    over, features = (
        by(lake.rows("gold", name), key)
        for name, key in ((OVER, "trans_num"), ("card_transaction_features", "transaction_id"))
    )
    for name in times:
        assert (over[name,]["user_trans_count_last_360min"], over[name,]["is_time_excluded"]) == (0, True)
        assert str(over[name,]["trans_date_trans_time"]) in TIMES
        row = features[name,]
        assert (row["count_10min"], row["sum_10min"], row["prior_count"], row["is_time_excluded"]) == (0, 0, 0, True)
    for name in amounts:
        assert features[name,]["count_10min"] >= 1 and features[name,]["is_amount_excluded"]
        assert silver[name,]["amt"] is not None

    alerts = [row for row in lake.rows("gold", "alerts") if row["rule"] == "amount_out_of_range"]
    assert sorted(row["transaction_id"] for row in alerts) == sorted(amounts)
    for row in alerts:
        evidence = json.loads(row["evidence"])
        assert evidence["amount_excluded"] is True and "time_excluded" not in evidence
        assert row["severity"] == "high" and math.isfinite(row["score"]) and row["score"] >= 1
        assert row["amount"] is None or math.isfinite(row["amount"])
    checked = evaluate_excluded_values(lake.lake, shipped_streams()[CARD_PAYMENTS])
    assert (checked.amounts, checked.times, checked.passed) == (len(amounts), len(times), False)
    assert len(checked.examples) == 5


BANK_AMOUNTS: list[Row] = [
    {"amount": Decimal("9" * 29)},
    {"amount": Decimal("-" + "9" * 29)},
    {"amount": Decimal(10**13)},
    {"_text": json.dumps({"amount": "1e+100"})},
    {"_text": json.dumps({"amount": "9" * 400})},
    {"_text": json.dumps({"amount": "NaN"})},
    {"_text": json.dumps({"amount": "-Infinity"})},
]
BANK_DATES: list[Row] = [
    {"transaction_date": datetime(9999, 12, 31, 23, 59, 59, 999999)},  # noqa: DTZ001
    {"transaction_date": datetime(2026, 3, 1)},  # noqa: DTZ001
    {"transaction_date": datetime(1, 1, 1)},  # noqa: DTZ001
    {"_text": json.dumps({"transaction_date": "infinity"})},
    {"_text": json.dumps({"transaction_date": "4714-11-24 00:00:00 BC"})},
]


def bank() -> tuple[list[list[Row]], list[list[Row]], set[int], set[int]]:
    """The same of the bank: inserts, of which some rows are deleted later."""
    start, committed = datetime(2026, 1, 1), datetime(2026, 1, 2, tzinfo=UTC)  # noqa: DTZ001
    poisoned, plain, amounts, times = [], [], set(), set()
    for number in range(60):
        at = {"_op": "c", "_lsn": 10 * number + 10, "_seq": 1, "_committed_at": committed + timedelta(seconds=number)}
        row = {"transaction_id": number, "user_id": number % 3, "amount": Decimal(number + 1)}
        row |= {"transaction_date": start + timedelta(minutes=number)} | at
        if number % 5 == 2:
            amounts.add(number)
            poisoned.append(row | {"amount": None} | BANK_AMOUNTS[number // 5 % len(BANK_AMOUNTS)])
            plain.append(row | {"amount": None})
        else:
            poisoned.append(row)
            plain.append(row)
        if number % 6 == 4:
            times.add(1000 + number)
            far = {"transaction_id": 1000 + number, "transaction_date": None, "_lsn": at["_lsn"] + 5}
            poisoned.append(row | far | BANK_DATES[number // 6 % len(BANK_DATES)])
        if number % 9 == 8:
            gone = at | {"_op": "d", "_lsn": at["_lsn"] + 7, "transaction_id": number - 3}
            poisoned.append(gone)
            plain.append(gone)
    cut = 305
    parts = [
        [[r for r in rows if r["_lsn"] < cut], [r for r in rows if r["_lsn"] >= cut]] for rows in (poisoned, plain)
    ]
    return parts[0], parts[1], amounts, times


def test_bank_features_are_as_if_excluded_values_were_null(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMAS["transactions"], "amount", pl.Decimal(38, 9))
    poisoned, plain, amounts, times = bank()
    land_and_build(lake, "transactions", plain)
    keys = BANK_KEYS
    expected = results(lake, keys, set())
    land_and_build(lake, "transactions", poisoned)
    gone = times | {str(number) for number in times}
    found = results(lake, keys, gone)
    assert [name for _, name in keys if not expected[name]] == []
    for name, rows in expected.items():
        assert found[name] == rows, name

    features = {row["transaction_id"]: row for row in lake.rows("gold", "transaction_features")}
    assert {int(name) for name, row in features.items() if row["is_amount_excluded"]} == amounts
    assert {int(name) for name, row in features.items() if row["is_time_excluded"]} == times
    assert features["2"]["amount"] == 1e29 and features["17"]["amount"] == 1e100
    assert math.isnan(features["27"]["amount"]) and features["32"]["amount"] == -math.inf
    assert features["1004"]["event_time"] == datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001
    vectors = {row["transaction_id"]: row for row in lake.rows("gold", "transaction_feature_vectors")}
    assert vectors[1004]["is_time_excluded"] and vectors[1004]["user_amount_count_30d"] is None
    alerts = [row for row in lake.rows("gold", "alerts") if row["rule"] == "amount_out_of_range"]
    assert sorted(int(row["transaction_id"]) for row in alerts) == sorted(amounts)
    assert all(math.isfinite(row["score"]) and json.loads(row["evidence"])["amount_excluded"] for row in alerts)
    checked = evaluate_excluded_values(lake.lake, shipped_streams()[BANK_PAYMENTS])
    assert (checked.amounts, checked.times) == (len(amounts), len(times))
    averages = {row["user_id"]: row["avg_amount"] for row in lake.rows("gold", "user_avg")}
    replica = [row for row in lake.rows("silver", "transactions") if row["amount"] is not None]
    for user, average in averages.items():
        own = [row["amount"] for row in replica if row["user_id"] == user]
        with localcontext(prec=60):
            assert average == pytest.approx(float(sum(own) / len(own)))


def test_a_lone_very_old_event_closes_and_delays_nothing(lake: SmallLake) -> None:
    """It is the only event of its partition, and would hold the watermark back for ever."""
    good = hours_apart([row for row in oracle.random_records(3, count=80, partitions=1) if row.get("trans_num")])
    old = good[0] | {"trans_num": "old", "user_id": 99, "_partition": 7, "trans_date_trans_time": "1900-01-01 00:00:00"}
    windows = ("gold", f"{OVER}_windowed_versions"), ("gold", "card_feature_vectors")
    found = []
    for more in ([], [old]):
        land_and_build(lake, "card_transactions", [[*good[:40], *more], good[40:]])
        found.append([[row for row in lake.rows(*name) if row["user_id"] != 99] for name in windows])
    assert all(len(rows) > 3 for rows in found[0])
    assert [[len(rows) for rows in one] for one in found] == [[len(rows) for rows in found[0]]] * 2
    assert not [row for row in found[1][0] if row["is_deleted"]]


def test_a_rebuild_heals_a_lake_that_counted_them(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built without limits and before there were flags: builds go on, and a rebuild gives what a new lake has."""
    monkeypatch.setitem(SCHEMAS["transactions"], "amount", pl.Decimal(38, 9))
    poisoned, _, amounts, times = cards()
    far = [row | {"trans_date_trans_time": "9000-01-01 00:00:00"} for row in poisoned[0] if row["trans_num"] in times]
    for row in [row for row in poisoned[0] if row["trans_num"] in amounts]:
        row["amt"] = 5e12
    first, second = [[*poisoned[0], *(row | {"trans_num": f"far-{row['trans_num']}"} for row in far)], poisoned[1]]
    bank_first, bank_second = bank()[0]

    def land(card_rows: list[Row], bank_rows: list[Row]) -> None:
        lake.land("card_transactions", card_rows)
        lake.land("transactions", bank_rows)

    lake.clear()
    land(first, bank_first)
    build_all(lake)
    land(second, bank_second)
    build_all(lake)
    expected = results(lake, KEYS | BANK_KEYS, set())

    lake.clear()
    land(first, bank_first)
    unlimited = SmallLake(lake.root, window_spine=False, max_future=0.0, max_amount=1e300)
    try:
        build_all(unlimited)
        assert any(row["amt"] == 5e12 and not row["is_amount_excluded"] for row in unlimited.rows(*CARDS))
    finally:
        unlimited.transformer.close()
    for name, added in ((CARDS, []), (LEDGER, ["amount_text"])):
        stored = pl.read_delta(lake.lake.uri(*name)).drop("is_amount_excluded", "is_time_excluded", *added)
        commit(lake.lake.uri(*name), stored, "overwrite", same_rows=True)
    build_all(lake)
    land(second, bank_second)
    build_all(lake)
    before = results(lake, KEYS | BANK_KEYS, set())
    for name in ("card_transaction_features", "transaction_features", f"{OVER}_windowed"):
        assert before[name] != expected[name], name

    rebuild(lake.transformer, lake.settings, ["card_transactions", "transactions_ledger"])
    build_all(lake)
    found = results(lake, KEYS | BANK_KEYS, set())
    for name, rows in expected.items():
        if name != "velocity":  # alerts that were recorded stay
            assert found[name] == rows, name


def test_limits_are_settings(lake: SmallLake) -> None:
    """FRAUD_MAX_AMOUNT bounds the absolute value, itself included; the reason and the score name it."""
    strict = SmallLake(lake.root, max_amount=100.0, max_future=60.0)
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    row = {"user_id": 1, "_topic": "t", "_partition": 0, "_timestamp": at}
    values = [(100.0, "12:01:00"), (100.01, "12:00:00"), (-250.0, "12:01:01"), (5.0, "11:00:00")]
    rows = [
        row
        | {"trans_num": str(number), "amt": amount, "trans_date_trans_time": f"2026-01-01 {time}", "_offset": number}
        for number, (amount, time) in enumerate(values)
    ]
    try:
        land_and_build(strict, "card_transactions", [rows])
    finally:
        strict.transformer.close()
    silver = by(strict.rows("silver", "card_transactions"), "trans_num")
    flags = {name[0]: (found["is_amount_excluded"], found["is_time_excluded"]) for name, found in silver.items()}
    assert flags == {"0": (False, False), "1": (True, False), "2": (True, True), "3": (False, False)}
    alerts = by(
        [row for row in strict.rows("gold", "alerts") if row["rule"] == "amount_out_of_range"], "transaction_id"
    )
    assert {name[0]: alert["score"] for name, alert in alerts.items()} == {"1": pytest.approx(1.0001), "2": 2.5}
    assert json.loads(alerts["2",]["evidence"]) == {
        "reason": "amount -250.0 is beyond 100 and counts in no feature",
        "amount": -250.0,
        "max_amount": 100,
        "amount_excluded": True,
        "time_excluded": True,
    }
