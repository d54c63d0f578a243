"""The card stream: repeatable, nearly sorted, labelled, and fraud in it that rules can find."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from datetime import datetime
from itertools import islice

import msgspec
import pytest

from fraud_lakehouse.demo.card_record import FIELDS, encode, stable_user_id
from fraud_lakehouse.demo.cardholders import cardholders
from fraud_lakehouse.demo.cards import BLOCK, CardStream, Purchase, first_checkpoint

COUNT = 12_000
RATE = 50.0


@pytest.fixture(scope="module")
def purchases() -> list[Purchase]:
    return list(islice(CardStream(7, first_checkpoint(RATE)), COUNT))


def seconds(purchase: Purchase) -> float:
    return datetime.fromisoformat(f"{purchase.record.trans_date_trans_time}+00:00").timestamp()


def test_record_has_the_twelve_fields(purchases: list[Purchase]) -> None:
    record = msgspec.json.decode(encode(purchases[0].record))
    assert tuple(record) == FIELDS
    assert record["merchant"].startswith("fraud_")
    assert record["user_id"] == stable_user_id(record["last"], record["first"], record["dob"])
    assert all(purchase.record.amt > 0 for purchase in purchases)


def test_the_same_seed_is_the_same_stream(purchases: list[Purchase]) -> None:
    assert list(islice(CardStream(7, first_checkpoint(RATE)), 2_000)) == purchases[:2_000]
    assert list(islice(CardStream(8, first_checkpoint(RATE)), 100)) != purchases[:100]


def test_a_checkpoint_continues_the_stream_exactly(purchases: list[Purchase]) -> None:
    stream = CardStream(7, first_checkpoint(RATE))
    for _ in range(4 * BLOCK):
        next(stream)
    kept = msgspec.json.decode(msgspec.json.encode(stream.checkpoint()), type=type(stream.checkpoint()))
    assert list(islice(CardStream(7, kept), 3_000)) == purchases[4 * BLOCK : 4 * BLOCK + 3_000]


def test_transaction_numbers_are_unique(purchases: list[Purchase]) -> None:
    assert len({purchase.record.trans_num for purchase in purchases}) == COUNT


def test_events_are_out_of_order_by_less_than_the_allowed_lateness(purchases: list[Purchase]) -> None:
    newest, worst = seconds(purchases[0]), 0.0
    for purchase in purchases:
        worst = max(worst, newest - seconds(purchase))
        newest = max(newest, seconds(purchase))
    assert 0 < worst < 15


def test_event_time_advances_900_times_as_fast_as_the_wall(purchases: list[Purchase]) -> None:
    hours = (seconds(purchases[-1]) - seconds(purchases[0])) / 3600
    assert hours == pytest.approx(COUNT / RATE * 900 / 3600, rel=0.15)


def test_label_and_truth_agree_and_every_kind_occurs(purchases: list[Purchase]) -> None:
    assert all(bool(purchase.record.is_fraud) == (purchase.kind is not None) for purchase in purchases)
    kinds = Counter(purchase.kind for purchase in purchases if purchase.kind)
    assert set(kinds) == {"large", "burst", "testing", "night"}
    assert 0.004 < kinds.total() / COUNT < 0.03


def test_night_fraud_happens_at_night(purchases: list[Purchase]) -> None:
    hours = {int(seconds(purchase) % 86400) // 3600 for purchase in purchases if purchase.kind == "night"}
    assert hours <= {0, 1, 2, 3, 4, 5}


def test_people_are_the_same_whatever_their_number() -> None:
    assert cardholders(7, 300)[:200] == cardholders(7, 200)
    assert len({person.user_id for person in cardholders(7, 3000)}) == 3000


@pytest.mark.parametrize("rate", [50.0, 1000.0])
def test_plain_rules_find_most_of_the_fraud_with_few_mistakes(rate: float) -> None:
    """The rules written once more, naively: 3 times or a hundredth of the earlier mean, 10 or 1,000 in 10 minutes."""
    earlier: dict[int, list[float]] = defaultdict(list)
    recent: dict[int, deque[tuple[float, float]]] = defaultdict(deque)
    right = wrong = missed = 0
    for purchase in islice(CardStream(7, first_checkpoint(rate)), int(rate) * 240 if rate < 100 else 40_000):
        record, at = purchase.record, seconds(purchase)
        before, window = earlier[record.user_id], recent[record.user_id]
        window.append((at, record.amt))
        while window[0][0] < at - 600:
            window.popleft()
        fires = len(window) > 10 or sum(amount for _, amount in window) > 1000
        if len(before) >= 5:
            mean = sum(before) / len(before)
            fires = fires or record.amt > 3 * mean or record.amt < 0.01 * mean
        before.append(record.amt)
        right += fires and purchase.kind is not None
        wrong += fires and purchase.kind is None
        missed += not fires and purchase.kind is not None
    assert right / (right + wrong) > 0.85
    assert right / (right + missed) > 0.6
