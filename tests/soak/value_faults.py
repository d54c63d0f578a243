"""Values that a source may hold and no model can use: amounts beyond reason, event times far from now, wrong types.

After each one an alert of every source must still arrive; the oracle says what the values may and may not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand

_HUGE = [Decimal("9" * 29), Decimal("9" * 29 + ".999999999"), Decimal("1e15"), Decimal("1e100"), Decimal("1e28") * 3]
_NEGATIVE = [-amount for amount in _HUGE]
_NO_NUMBER = ["NaN", Decimal("Infinity"), Decimal("-Infinity")]
_CARD_AMOUNTS = [9e28, 1e15, 1.7e308, -9e28, 1_000_000_000_001.0]
_WRONG_TYPES: list[dict[str, object]] = [
    {"amt": "NaN"},
    {"amt": "Infinity"},
    {"amt": float("nan")},
    {"amt": float("-inf")},
    {"amt": True},
    {"amt": {"value": 1}},
    {"amt": [1.0]},
    {"amt": None},
    {"user_id": 2**80},
    {"user_id": "7"},
    {"cc_num": -(2**63)},
    {"is_fraud": 9_000_000_000},
    {"merchant": "\x00\ud83d" * 3},
    {"trans_num": None},
    {"first": "x" * 200_000},
]
_OLD = ["1900-01-01 00:00:00", "1601-01-01 00:00:00", "0001-01-01 00:00:00"]
_NO_TIMES = ["2024-02-30 00:00:00", "9999-99-99 00:00:00", "now", "", "infinity", "+12345-01-01 00:00:00"]


def paid(amounts: Sequence[Decimal | str]) -> Callable[[LiveStand], None]:
    """PostgreSQL payments of such amounts, half of them deleted again; alerts go on before and after that."""

    def inject(life: LiveStand) -> None:
        life.live()
        ledger, dice = life.stand.ledger, life.stand.dice
        payments = [ledger.pay(amount) for amount in dice.sample(list(amounts), min(3, len(amounts)))]
        with life.stand.working():
            life.check_alerts()
        for payment in payments:
            if dice.random() < 0.5:
                ledger.delete_payment(payment)
        life.go_on()
        life.check_alerts()

    return inject


def dated(dates: Callable[[], Sequence[datetime]]) -> Callable[[LiveStand], None]:
    """PostgreSQL payments of such dates, by users who go on paying."""

    def inject(life: LiveStand) -> None:
        life.live()
        for date in dates():
            life.stand.ledger.pay(Decimal(50), date=date)
        with life.stand.working():
            life.check_alerts()
        life.go_on()

    return inject


def published(records: Callable[[], Sequence[dict[str, object]]]) -> Callable[[LiveStand], None]:
    """Card records with such fields among good ones; alerts go on."""

    def inject(life: LiveStand) -> None:
        life.live()
        cards = life.stand.cards
        with life.stand.working():
            for fields in records():
                cards.publish_poison(**fields)
            life.check_alerts()
        life.go_on()

    return inject


def _future() -> list[datetime]:
    """More than a day after any record's own timestamp."""
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    return [datetime(9999, 12, 31, 23, 59, 59), now + timedelta(days=3), now + timedelta(days=3_650)]  # noqa: DTZ001


def _past() -> list[datetime]:
    return [datetime(1900, 1, 1), datetime(1, 1, 1)]  # noqa: DTZ001 (as in the tables: no zone)


def _times(texts: Sequence[str]) -> list[dict[str, object]]:
    return [{"trans_date_trans_time": text} for text in texts]


HUGE_AMOUNTS = LiveFault("live: PostgreSQL amounts of 29 digits", "implausible amounts in PostgreSQL", paid(_HUGE))
FUTURE_CARDS = LiveFault(
    "live: card payments in the future",
    "event times in the future, cards",
    published(lambda: _times([f"{time:%Y-%m-%d %H:%M:%S}" for time in _future()])),
)
FAULTS = [
    HUGE_AMOUNTS,
    FUTURE_CARDS,
    LiveFault("live: PostgreSQL amounts far below 0", "implausible amounts in PostgreSQL", paid(_NEGATIVE)),
    LiveFault("live: PostgreSQL amounts that are no number", "amounts that are no number", paid(_NO_NUMBER)),
    LiveFault("live: PostgreSQL payments in the future", "event times in the future, PostgreSQL", dated(_future)),
    LiveFault("live: PostgreSQL payments long ago", "event times long ago, PostgreSQL", dated(_past)),
    LiveFault(
        "live: card amounts of 29 digits",
        "implausible amounts of cards",
        published(lambda: [{"amt": amount} for amount in _CARD_AMOUNTS]),
    ),
    LiveFault("live: card fields of wrong types", "card fields of wrong types", published(lambda: _WRONG_TYPES)),
    LiveFault(
        "live: card payments long ago", "event times long ago, cards", published(lambda: _times([*_OLD, *_NO_TIMES]))
    ),
]
