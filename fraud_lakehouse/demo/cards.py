"""The demo's labelled stream of card transactions, with fraud in it. Pure: no broker, no clock, no file.

Event time is faster than wall time (by default 900 times), so that windows of 360 minutes close during the demo. It is
even faster at night, when there are few purchases. Records are out of order by at most 10 seconds.

Fraud cases, each several purchases on one card: `large` (many times the usual), `burst` (a dozen and more within
minutes), `testing` (cents, then a large one), `night` (between midnight and five, above the usual).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from fraud_lakehouse.demo.card_record import CardTransaction
from fraud_lakehouse.demo.cardholders import MERCHANTS, Cardholder, cardholders

BLOCK = 1024  # records between checkpoints
SPEED_UP = 900.0  # event seconds per wall second
_JITTER = 10.0  # seconds an event may be out of order; the allowed lateness is 15
_CASES_PER_RECORD = 0.003
_BEGIN = datetime(2012, 1, 1, 8, tzinfo=UTC).timestamp()
_BUSY = [0.12] * 5 + [0.3, 0.6, 0.9] + [1.2] * 4 + [1.5, 1.4] + [1.3] * 4 + [1.6, 1.6, 1.4, 1.1, 0.7, 0.35]
_MEAN_BUSY = sum(_BUSY) / 24


@dataclass(frozen=True, slots=True)
class Purchase:
    """A record; for a fraudulent one, also its kind of fraud and its case."""

    record: CardTransaction
    kind: str | None = None
    case: str | None = None


@dataclass(order=True, slots=True)
class Planned:
    """A planned fraudulent purchase; `at` is event time in seconds since 1970 UTC."""

    at: float
    order: int
    person: int
    amount: float
    kind: str
    case: str


@dataclass
class Checkpoint:
    """The state of a stream at the start of a block, from which it continues as if it had not stopped.

    Args:
        number: records generated before, a multiple of BLOCK unless the rate was changed.
        clock: event time, seconds since 1970 UTC.
        people: number of cardholders.
        step: mean event seconds between records.
        planned: planned purchases of current fraud cases.
    """

    number: int
    clock: float
    people: int
    step: float
    planned: list[Planned]


def first_checkpoint(rate: float) -> Checkpoint:
    """The beginning of a stream of `rate` records per wall second.

    There are three people per record and second (at least 200), so that usual shopping triggers no velocity rule.
    """
    return Checkpoint(0, _BEGIN, max(200, round(3 * rate)), SPEED_UP / rate, [])


class CardStream:
    """An endless iterator of purchases; the same seed and checkpoint give the same purchases.

    Args:
        seed: of people, purchases and fraud.
        start: where to begin.
    """

    def __init__(self, seed: int, start: Checkpoint) -> None:
        self.number = start.number
        self._seed = seed
        self._clock = start.clock
        self._step = start.step
        self._people = _people(seed, start.people)
        self._planned = [Planned(*_fields(purchase)) for purchase in start.planned]
        heapq.heapify(self._planned)
        self._chance = random.Random()
        self._reseed()

    def checkpoint(self) -> Checkpoint:
        """The current state; exact at multiples of BLOCK, and after `retime`."""
        return Checkpoint(self.number, self._clock, len(self._people), self._step, sorted(self._planned))

    def retime(self, rate: float) -> Checkpoint:
        """Continue at another rate, with more people if it is higher; returns the checkpoint of the change."""
        changed = first_checkpoint(rate)
        self._step = changed.step
        self._people = _people(self._seed, max(len(self._people), changed.people))
        self._reseed()
        return self.checkpoint()

    def __iter__(self) -> Iterator[Purchase]:
        return self

    def __next__(self) -> Purchase:
        if self.number % BLOCK == 0:
            self._reseed()
        self.number += 1
        chance = self._chance
        hour = int(self._clock % 86400) // 3600
        clock = self._clock + chance.expovariate(1.0) * self._step * _MEAN_BUSY / _BUSY[hour]
        if self._planned and self._planned[0].at <= clock:
            return self._misuse(heapq.heappop(self._planned))  # the next call draws a new gap
        self._clock = clock
        at_night = hour < 4
        # There are fewer records at night, but as many fraud cases per hour as by day.
        if chance.random() < _CASES_PER_RECORD * (8 if at_night else 1):
            self._plan(at_night)
        person = self._people[int(chance.random() * len(self._people))]
        merchant, category = person.shops[int(chance.random() * len(person.shops))]
        amount = person.amount(chance, category)
        return Purchase(self._record(person, merchant, category, amount, is_fraud=0))

    def _reseed(self) -> None:
        self._chance.seed(f"{self._seed} {self.number}")

    def _plan(self, at_night: bool) -> None:
        chance = self._chance
        index = chance.randrange(len(self._people))
        usual = self._people[index].usual
        kind = "night" if at_night else chance.choices(("large", "testing", "burst"), (5, 3, 1))[0]
        if kind == "large":
            plan = [(chance.uniform(0, 3600), chance.uniform(5, 14)) for _ in range(chance.randint(1, 2))]
        elif kind == "testing":
            plan = [(30.0 * lock, chance.uniform(0.0002, 0.006)) for lock in range(chance.randint(2, 4))]
            plan.append((300.0, chance.uniform(6, 12)))
        elif kind == "burst":
            plan = [(20.0 * lock, chance.uniform(0.8, 2.5)) for lock in range(chance.randint(12, 22))]
        else:
            plan = [(700.0 * lock, chance.uniform(2.5, 6)) for lock in range(chance.randint(2, 5))]
        case = f"{kind}-{self.number}"
        for lock, (delay, factor) in enumerate(plan):
            amount = max(0.01, round(usual * factor, 2))
            heapq.heappush(self._planned, Planned(self._clock + delay, lock, index, amount, kind, case))

    def _misuse(self, planned: Planned) -> Purchase:
        merchant, category = MERCHANTS[int(self._chance.random() * len(MERCHANTS))]
        person = self._people[planned.person]
        self._clock = max(self._clock, planned.at)
        record = self._record(person, merchant, category, planned.amount, is_fraud=1)
        return Purchase(record, planned.kind, planned.case)

    def _record(
        self, person: Cardholder, merchant: str, category: str, amount: float, *, is_fraud: int
    ) -> CardTransaction:
        chance = self._chance
        return CardTransaction(
            trans_date_trans_time=_text(int(self._clock - chance.random() * _JITTER)),
            cc_num=person.cc_num,
            merchant=merchant,
            category=category,
            amt=amount,
            first=person.first,
            last=person.last,
            zipcode=person.zipcode,
            dob=person.dob,
            trans_num=f"{chance.getrandbits(128):032x}",
            is_fraud=is_fraud,
            user_id=person.user_id,
        )


@cache
def _people(seed: int, count: int) -> list[Cardholder]:
    return cardholders(seed, count)


def _fields(purchase: Planned) -> tuple[float, int, int, float, str, str]:
    return purchase.at, purchase.order, purchase.person, purchase.amount, purchase.kind, purchase.case


def _text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
