"""The oracle itself, on payments counted by hand. No server, no product."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.soak.oracle import Features, LedgerState, Payment, card_features, closed_windows, late_ids

NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001 (event times have no zone)
RECORDED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def payment(
    key: str, amount: str | None, minutes: float = 0, *, user: int | None = 7, place: int = 0, given: bool = True
) -> Payment:
    number = None if amount is None else Decimal(amount)
    return Payment(key, user, (given, True), number, NOON + timedelta(minutes=minutes), RECORDED, place)


def shown(features: Features | None) -> tuple[float | None, int, int, float]:
    assert features is not None
    return features.prior_mean, features.prior_count, features.count_10min, features.sum_10min


def test_features_of_cards_count_what_had_arrived() -> None:
    found = card_features(
        [
            payment("a", "10"),
            payment("b", "20", 1),
            payment("early", "40", -5),  # arrives late: nothing lies before it
            payment("tie", "80", 1),  # of the same time as b
            payment("other", "99", 1, user=8),
            payment("later", "5", 12),
        ]
    )
    assert shown(found["b"]) == (10, 1, 2, 30)
    assert shown(found["early"]) == (None, 0, 1, 40)
    assert shown(found["tie"]) == (25, 2, 4, 150)
    assert shown(found["later"]) == (37.5, 4, 1, 5)


@pytest.mark.parametrize("amount", ["9e28", "-1e13", "1000000000000.5", None])
def test_an_excluded_amount_counts_in_no_sum_or_mean(amount: str | None) -> None:
    found = card_features([payment("a", "10"), payment("huge", amount, 1), payment("b", "20", 2)])
    assert shown(found["huge"]) == (10, 1, 2, 10)
    assert shown(found["b"]) == (10, 1, 3, 30)
    assert "amount_out_of_range" in found["huge"].rules
    assert found["b"].rules == set()


def test_an_amount_at_the_limit_counts() -> None:
    assert not payment("a", "1e12").is_amount_excluded


@pytest.mark.parametrize("time", [datetime(9999, 12, 31), datetime(1, 1, 1), NOON + timedelta(days=1, seconds=1)])  # noqa: DTZ001
def test_an_excluded_event_time_counts_nowhere(time: datetime) -> None:
    poison = Payment("poison", 7, (True, True), Decimal(50), time, RECORDED)
    rows = [payment("a", "10"), poison, payment("b", "20", 1)]
    found = card_features(rows)
    assert shown(found["poison"]) == (None, 0, 0, 0)
    assert shown(found["b"]) == (10, 1, 2, 30)
    assert late_ids(rows) == set()
    assert closed_windows([*rows, payment("end", "1", 361)], set()) == {(NOON, 7): (2, 15.0)}


def test_an_event_time_of_tomorrow_counts() -> None:
    assert not Payment("a", 7, (True, True), Decimal(1), NOON + timedelta(days=1), RECORDED).is_time_excluded


def test_features_of_the_ledger_are_of_the_state_before_the_change() -> None:
    ledger = LedgerState({7})
    assert shown(ledger.apply(1, payment("1", "10"))) == (None, 0, 1, 10)
    assert shown(ledger.apply(2, payment("2", "20", 1))) == (10, 1, 2, 30)
    assert shown(ledger.apply(1, payment("1", "60"))) == (20, 1, 1, 60)
    assert ledger.apply(1, payment("1", "60")) is None  # stated again
    assert shown(ledger.apply(3, payment("3", "1e30", 2))) == (40, 2, 3, 80)
    assert ledger.apply(1, None) is None
    assert shown(ledger.apply(4, payment("4", None, 2, given=False))) == (20, 1, 3, 20)
    unknown = ledger.apply(5, payment("5", "1", user=9))
    assert unknown is not None and unknown.rules == {"unknown_user"}


def test_a_payment_is_late_once_its_partition_has_closed_its_window() -> None:
    rows = [
        payment("a", "10"),
        payment("next", "1", 360.1, user=8),
        payment("in time", "20", 1),  # the watermark is 15 seconds behind
        payment("closes", "1", 361, user=8),
        payment("late", "30", 2),
    ]
    assert late_ids(rows) == {"late"}
    assert closed_windows(rows, {"late"}) == {(NOON, 7): (2, 15.0)}


def test_windows_wait_for_the_slowest_partition_but_not_for_one_a_year_behind() -> None:
    rows = [payment("a", "10"), payment("end", "1", 361)]
    assert closed_windows([*rows, payment("slow", "1", 1, place=1)], set()) == {}
    old = payment("old", "1", -600_000, place=1)
    assert closed_windows([*rows, old], set()) == {(NOON, 7): (1, 10.0), (datetime(2025, 1, 8, 18), 7): (1, 1.0)}  # noqa: DTZ001


@pytest.mark.parametrize(
    "features, rules",
    [
        ((10.0, 5, 1, 31.0), {"amount_above_mean"}),
        ((10.0, 4, 1, 31.0), set()),
        ((31.0 / 3, 5, 1, 31.0), set()),
        ((3_200.0, 5, 1, 31.0), {"amount_below_mean"}),
        ((100.0, 5, 11, 31.0), {"velocity"}),
        ((100.0, 5, 10, 1_000.5), {"velocity"}),
    ],
)
def test_rules(features: tuple[float, int, int, float], rules: set[str]) -> None:
    assert Features(payment("a", "31"), *features).rules == rules
