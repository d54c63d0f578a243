"""What features, windows and alerts must say, computed from bronze in plain Python: no SQL, nothing of the product.

One payment after the other in the source's order, each compared with what was there before it. Amounts beyond
`MAX_AMOUNT` and event times more than `MAX_FUTURE` after the record's own timestamp count in nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

MAX_AMOUNT = Decimal(10) ** 12
MAX_FUTURE = timedelta(days=1)
LATENESS = timedelta(seconds=15)
RECENT = timedelta(minutes=10)
WINDOW = timedelta(minutes=360)
FAR_BEHIND = timedelta(days=366)
"""A partition that is so far behind the newest of all keeps no window open."""
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (event times have no zone)
_YEARS = (datetime(2, 1, 1), datetime(9999, 1, 1))  # noqa: DTZ001


@dataclass(frozen=True)
class Payment:
    """A payment, or a version of one.

    Args:
        id: its transaction_id.
        given: whether it names an amount, and whether an event time, of whatever kind.
        amount, time: as a number and a time; None where there is none, or one that is neither.
        recorded_at: the record's own timestamp.
        place: its partition.
    """

    id: str
    user: int | str | None
    given: tuple[bool, bool]
    amount: Decimal | None
    time: datetime | None
    recorded_at: datetime | None
    place: int = 0

    @property
    def says(self) -> tuple[object, ...]:
        """What makes it another version."""
        return self.user, self.given, self.amount, self.time

    @property
    def is_amount_excluded(self) -> bool:
        """Whether the amount counts in no feature."""
        return self.given[0] and not (self.amount is not None and abs(self.amount) <= MAX_AMOUNT)

    @property
    def is_time_excluded(self) -> bool:
        """Whether the event time counts in no feature or window, and moves no watermark."""
        if not self.given[1]:
            return False
        if self.time is None or not _YEARS[0] <= self.time < _YEARS[1]:
            return True
        recorded_at = self.recorded_at and self.recorded_at.astimezone(UTC).replace(tzinfo=None)
        return recorded_at is not None and self.time > recorded_at + MAX_FUTURE

    @property
    def counted(self) -> Decimal | None:
        """The amount, as features count it."""
        return None if self.is_amount_excluded else self.amount


@dataclass(frozen=True)
class Features:
    """What a rule knows of a payment."""

    payment: Payment
    prior_mean: float | None
    prior_count: int
    count_10min: int
    sum_10min: float
    user_exists: bool | None = None

    @property
    def rules(self) -> set[str]:
        """The rules that fire on it."""
        fired = set()
        amount, mean = _double(self.payment.amount), self.prior_mean
        if amount is not None and mean is not None and self.prior_count >= 5:
            if mean > 0 and round(amount - 3 * mean, 6) > 0:
                fired.add("amount_above_mean")
            if amount >= 0 and round(0.01 * mean - amount, 6) > 0:
                fired.add("amount_below_mean")
        if self.count_10min > 10 or round(self.sum_10min, 6) > 1_000:
            fired.add("velocity")
        if self.user_exists is False:
            fired.add("unknown_user")
        if self.payment.is_amount_excluded:
            fired.add("amount_out_of_range")
        return fired


class _History:
    """Payments of one user that count, by event time."""

    def __init__(self) -> None:
        self._times: list[datetime] = []
        self._amounts: list[Decimal | None] = []

    def add(self, time: datetime, amount: Decimal | None) -> None:
        at = bisect_right(self._times, time)
        self._times.insert(at, time)
        self._amounts.insert(at, amount)

    def remove(self, time: datetime, amount: Decimal | None) -> None:
        at = self._amounts.index(amount, bisect_left(self._times, time))
        del self._times[at], self._amounts[at]

    def recent(self, until: datetime) -> tuple[int, float]:
        """How many there are in the ten minutes up to a time, and their sum."""
        first, last = bisect_left(self._times, until - RECENT), bisect_right(self._times, until)
        return last - first, float(_sum(self._amounts[first:last]))

    def since(self, time: datetime) -> list[Decimal | None]:
        """The amounts of those at this time and later."""
        return self._amounts[bisect_left(self._times, time) :]


class _Total:
    """How many amounts there are, and their exact sum."""

    def __init__(self) -> None:
        self.count, self.sum = 0, Decimal(0)

    def add(self, amount: Decimal | None, times: int = 1) -> None:
        if amount is not None:
            self.count, self.sum = self.count + times, self.sum + times * amount

    def mean_without(self, amounts: Sequence[Decimal | None]) -> tuple[float | None, int]:
        """The mean of all others, and how many they are."""
        count = self.count - sum(one is not None for one in amounts)
        return (float((self.sum - _sum(amounts)) / count) if count else None), count


def card_features(payments: Iterable[Payment]) -> dict[str, Features]:
    """By id, the features of card payments, which come in the order of arrival."""
    histories: dict[int | str, _History] = defaultdict(_History)
    totals: dict[int | str, _Total] = defaultdict(_Total)
    found = {}
    for payment in payments:
        user, time = payment.user, payment.time
        if payment.is_time_excluded:
            found[payment.id] = Features(payment, None, 0, 0, 0.0)
        elif user is None or time is None:  # it counts itself alone
            found[payment.id] = Features(payment, None, 0, 1, float(payment.counted or 0))
        else:
            mean, count = totals[user].mean_without(histories[user].since(time))
            histories[user].add(time, payment.counted)
            totals[user].add(payment.counted)
            found[payment.id] = Features(payment, mean, count, *histories[user].recent(time))
    return found


class LedgerState:
    """A table of payments in PostgreSQL, change by change.

    Args:
        users: ids of those that exist.
    """

    def __init__(self, users: set[int] | set[str]) -> None:
        self._users = users
        self._rows: dict[int | str, Payment] = {}
        self._histories: dict[int | str | None, _History] = defaultdict(_History)
        self._totals: dict[int | str | None, _Total] = defaultdict(_Total)

    def apply(self, key: int | str, payment: Payment | None) -> Features | None:
        """Take in a change of a row, None for a deletion; the features of its new version, None where there is none."""
        before = self._rows.get(key)
        if before is not None and payment is not None and before.says == payment.says:
            return None
        if before is not None:
            del self._rows[key]
            self._count(before, -1)
        if payment is None:
            return None
        mean, count = self._totals[payment.user].mean_without([])
        self._rows[key] = payment
        self._count(payment, 1)
        recent = (0, 0.0)
        if payment.time is not None and not payment.is_time_excluded:
            recent = self._histories[payment.user].recent(payment.time)
        return Features(payment, mean, count, *recent, payment.user in self._users)

    def _count(self, payment: Payment, times: int) -> None:
        if payment.is_time_excluded:  # neither does its amount
            return
        self._totals[payment.user].add(payment.counted, times)
        if payment.time is not None:
            history = self._histories[payment.user]
            (history.add if times > 0 else history.remove)(payment.time, payment.counted)


def late_ids(payments: Iterable[Payment]) -> set[str]:
    """Ids of the payments whose window had been closed by earlier ones of their partition; in order of arrival."""
    newest: dict[int, datetime] = {}
    late = set()
    for payment in payments:
        if payment.time is None or payment.is_time_excluded:
            continue
        before = newest.get(payment.place)
        if before is not None and _window(payment.time) + WINDOW <= before - LATENESS:
            late.add(payment.id)
        newest[payment.place] = max(payment.time, before or payment.time)
    return late


def closed_windows(
    payments: Sequence[Payment], late: set[str]
) -> dict[tuple[datetime, int | str | None], tuple[int, float | None]]:
    """By start and user, how many amounts a closed window has and their mean."""
    counted = [one for one in payments if one.time is not None and not one.is_time_excluded]
    newest: dict[int, datetime] = {}
    windows: dict[tuple[datetime, int | str | None], list[Decimal | None]] = defaultdict(list)
    for payment in counted:
        assert payment.time is not None
        newest[payment.place] = max(payment.time, newest.get(payment.place, payment.time))
        if payment.id not in late:
            windows[_window(payment.time), payment.user].append(payment.counted)
    if not newest:
        return {}
    waited_for = [time for time in newest.values() if max(newest.values()) - time <= FAR_BEHIND]
    watermark = min(waited_for) - LATENESS
    closed = {}
    for (start, user), amounts in windows.items():
        if start + WINDOW <= watermark:
            numbers = [amount for amount in amounts if amount is not None]
            closed[start, user] = (len(numbers), float(_sum(numbers) / len(numbers)) if numbers else None)
    return closed


def _window(time: datetime) -> datetime:
    """The start of its window."""
    return _EPOCH + (time - _EPOCH) // WINDOW * WINDOW


def _sum(amounts: Iterable[Decimal | None]) -> Decimal:
    return sum((amount for amount in amounts if amount is not None), Decimal(0))


def _double(amount: Decimal | None) -> float | None:
    """The amount as a finite double, as rules compare it."""
    return None if amount is None or not math.isfinite(double := float(amount)) else double
