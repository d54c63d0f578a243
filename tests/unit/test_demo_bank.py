# ruff: noqa: DTZ001 # the source's dates have no zone
"""The bank's stream: its mix, amounts, dates and truth, and that it is the same every time."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from decimal import Decimal

import pytest

from fraud_lakehouse.demo.bank import Operation, operation

UNTIL = datetime(2026, 6, 30, 12)
COUNT = 5_000


@pytest.fixture(scope="module")
def stream() -> list[Operation]:
    return [operation(7, number, UNTIL) for number in range(COUNT)]


def test_mix_is_70_20_10_within_3_percent(stream: list[Operation]) -> None:
    mix = Counter(each.kind for each in stream)
    assert abs(mix["insert"] / COUNT - 0.7) < 0.03
    assert abs(mix["delete"] / COUNT - 0.2) < 0.03
    assert abs(mix["update"] / COUNT - 0.1) < 0.03


def test_amounts_follow_the_reference(stream: list[Operation]) -> None:
    large = [each for each in stream if each.amount > 1000]
    small = [each for each in stream if each.amount <= 1]
    assert abs(len(large) / COUNT - 0.05) < 0.03
    assert abs(len(small) / COUNT - 0.05) < 0.03
    assert max(each.amount for each in large) <= 10_000
    assert min(each.amount for each in small) >= Decimal("0.01")
    assert all(each.amount >= 10 for each in stream if each not in small)
    assert all(each.amount == round(each.amount, 2) for each in stream)


def test_dates_lie_earlier_this_year(stream: list[Operation]) -> None:
    dates = [each.transaction_date for each in stream]
    assert datetime(2026, 1, 1) <= min(dates) < datetime(2026, 1, 5)
    assert datetime(2026, 6, 25) < max(dates) <= UNTIL
    assert all(date.tzinfo is None and date.microsecond == 0 for date in dates)


def test_dates_reach_back_90_days_in_january() -> None:
    dates = [operation(7, number, datetime(2026, 1, 2)).transaction_date for number in range(500)]
    assert datetime(2025, 10, 4) <= min(dates) < datetime(2025, 10, 10)


def test_truth_names_exactly_the_anomalous_rows(stream: list[Operation]) -> None:
    for each in stream:
        if each.anomaly == "large":
            assert each.amount >= 1000
        elif each.anomaly == "testing":
            assert each.amount <= 1
        else:
            assert 10 <= each.amount <= 1000
            assert (each.anomaly == "unknown_user") == (each.user_id > 20)
    assert {each.anomaly for each in stream} == {"large", "testing", "unknown_user", None}


def test_users_are_uniform(stream: list[Operation]) -> None:
    known = Counter(each.user_id for each in stream if each.user_id <= 20)
    assert set(known) == set(range(1, 21))
    assert max(known.values()) < 1.6 * min(known.values())


def test_the_same_seed_is_the_same_stream_from_any_number(stream: list[Operation]) -> None:
    assert [operation(7, number, UNTIL) for number in range(4000, COUNT)] == stream[4000:]
    assert [operation(8, number, UNTIL) for number in range(100)] != stream[:100]
