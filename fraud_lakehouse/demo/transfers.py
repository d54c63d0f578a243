"""The demo's labelled stream of bank transfers, with fraud in it. Pure: no broker, no clock, no file.

Transfers come in blocks, and each is made from the seed and its block alone, so a stream continues anywhere. Event time
advances 90 s from one transfer to the next. Records are out of order by at most 10 seconds.

Fraud cases: `new_beneficiary` (many times the usual amount to an account never paid before), `many_senders` (a mule
collects from a dozen people), `fan_out` (one account is emptied to a dozen others), `circle` (money goes round three or
four people). Of ordinary transfers some look alike: companies that many people pay, and payrolls.

The bank's own `evaluation` knows part of it: most fraud is not `fraudulent` there, and a few honest transfers are not
identified.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

SEED = 7
BLOCK = 512
STEP = 90.0  # event seconds between transfers
PEOPLE = 300
COMPANIES = 3
BANKS = ("Albion Bank", "Banco Sur", "Caisse du Nord", "Deltabank", "Ostbank")
_JITTER = 10.0
_BEGIN = datetime(2026, 1, 1, 6, tzinfo=UTC).timestamp()
_FIRST = "Ada Bruno Chidi Dana Emil Farah Goran Hana Ivo Jana Kofi Lea Mateo Nadia Oskar Priya Quentin Rosa".split()
_LAST = "Aalto Carvalho Delgado Fontaine Haddad Kimura Kowalska Leroy Mensah Nair Novak Nyberg Okafor Petrov".split()
_JOBS = "baker clerk driver engineer gardener nurse painter teacher".split()
_STREETS = "Birch Church Garden Harbour Mill Park Station".split()
_BLOOD = ("A+", "A-", "B+", "B-", "AB+", "AB-", "0+", "0-")


@dataclass(frozen=True, slots=True)
class Person:
    """One person with one account; the fields are those of the record."""

    id: str
    name: str
    address: str
    email: str
    birthdate: str
    phone_number: str
    job: str
    company: str
    ssn: str
    blood_group: str
    website: tuple[str, ...]
    username: str
    bank_account: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """A record, and for a fraudulent one its kind of fraud and its case."""

    record: dict[str, Any]
    kind: str | None = None
    case: str | None = None

    @property
    def transaction_id(self) -> str:
        """The record's id."""
        return str(self.record["transaction_id"])


@dataclass(slots=True)
class _Planned:
    """A transfer at `at` (event time, seconds since 1970 UTC)."""

    at: float
    sender: Person
    receiver: Person
    amount: float
    kind: str | None = None
    case: str | None = None


def transfers(seed: int, begin: int = 0) -> Iterator[Transfer]:
    """An endless stream, after its first `begin` transfers."""
    block, skipped = divmod(begin, BLOCK)
    while True:
        yield from _block(seed, block)[skipped:]
        block, skipped = block + 1, 0


def encode(transfer: Transfer) -> bytes:
    """The record as compact JSON."""
    return msgspec.json.encode(transfer.record)


def _block(seed: int, number: int) -> list[Transfer]:
    chance = random.Random(f"transfers {seed} {number}")
    start = _BEGIN + number * BLOCK * STEP
    planned = _fraud(chance, seed, number, start)
    planned += _payroll(chance, seed, number, start)
    while len(planned) < BLOCK:
        planned.append(_ordinary(chance, seed, number, start + chance.random() * BLOCK * STEP))
    arrived = sorted(planned, key=lambda one: one.at + chance.random() * _JITTER)
    return [_transfer(chance, one) for one in arrived]


def _ordinary(chance: random.Random, seed: int, number: int, at: float) -> _Planned:
    people = _people(seed)
    index = chance.randrange(PEOPLE)
    kind = chance.random()
    if kind < (0.1 if number else 0.04):  # in the beginning a company that many pay would look like a mule
        receiver = people[PEOPLE + (index + chance.randrange(2)) % COMPANIES]
    elif kind < 0.95:
        receiver = people[(index + 7 * (1 + chance.randrange(5))) % PEOPLE]  # one of five friends
    else:
        receiver = people[(index + 1 + chance.randrange(PEOPLE - 1)) % PEOPLE]
    return _Planned(at, people[index], receiver, _usual(chance, index))


def _payroll(chance: random.Random, seed: int, number: int, start: float) -> list[_Planned]:
    """In every third block a company pays eight employees within a quarter of an hour, always the same ones."""
    if number % 3:
        return []
    people = _people(seed)
    at = start + chance.random() * STEP * BLOCK / 2
    return [_Planned(at + 120.0 * one, people[PEOPLE], people[one], 2500.0 + 10 * one) for one in range(8)]


def _fraud(chance: random.Random, seed: int, number: int, start: float) -> list[_Planned]:
    people, found = _people(seed), list[_Planned]()

    def victim() -> int:
        return chance.randrange(PEOPLE)

    def time(hours: float) -> float:
        """A time at which a case of so many hours begins and still ends in this block."""
        return start + chance.random() * (BLOCK * STEP - hours * 3600)

    def add(case: str, *transfers: tuple[float, Person, Person, float]) -> None:
        kind = case.rpartition("-")[0]
        found.extend(_Planned(*one, kind, f"{case}-{number}") for one in transfers)

    for case in range(3):
        index, mule = victim(), _person(seed, f"mule {number} {case}")
        add(f"new_beneficiary-{case}", (time(0), people[index], mule, _usual(chance, index) * chance.uniform(12, 25)))
    mule, at = _person(seed, f"collector {number}"), time(2)
    victims = chance.sample(range(PEOPLE), chance.randint(9, 14))
    add("many_senders-0", *((at + chance.random() * 7200, people[one], mule, _usual(chance, one)) for one in victims))
    index, at = victim(), time(0.5)
    targets = [_person(seed, f"target {number} {one}") for one in range(chance.randint(9, 14))]
    add("fan_out-0", *((at + chance.random() * 1800, people[index], one, _usual(chance, index)) for one in targets))
    for case in range(2):
        ring = [people[one] for one in chance.sample(range(PEOPLE), chance.randint(3, 4))]
        at, amount = time(9), chance.uniform(400, 2000)
        legs = []
        for sender, receiver in zip(ring, [*ring[1:], ring[0]], strict=True):
            legs.append((at, sender, receiver, amount))
            at, amount = at + chance.uniform(600, 7200), amount * chance.uniform(0.93, 0.99)
        add(f"circle-{case}", *legs)
    return found


def _usual(chance: random.Random, index: int) -> float:
    """A usual amount of a person: log-normal around what is typical for them."""
    return (40.0 + index % 50 * 4) * chance.lognormvariate(0.0, 0.4)


def _transfer(chance: random.Random, one: _Planned) -> Transfer:
    evaluation = chance.choices(("fraudulent", "unidentified", "normal"), (15, 35, 50) if one.kind else (0.2, 4, 95.8))[
        0
    ]
    record = {
        "transaction_id": f"{chance.getrandbits(96):024x}",
        "sender_bank_account": one.sender.bank_account,
        "sender_details": asdict(one.sender),
        "receiver_bank_account": one.receiver.bank_account,
        "receiver_details": asdict(one.receiver),
        "amount": max(round(one.amount, 2), 0.01),
        "status": "completed",
        "evaluation": evaluation,
        "transfer_date": datetime.fromtimestamp(int(one.at), UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "sender_bank": BANKS[int(one.sender.bank_account[2:4]) % len(BANKS)],
    }
    return Transfer(record, one.kind, one.case)


@cache
def _people(seed: int) -> list[Person]:
    """The people, and the companies behind them."""
    people = [_person(seed, f"person {number}") for number in range(PEOPLE)]
    return people + [_person(seed, f"company {number}") for number in range(COMPANIES)]


def _person(seed: int, name: str) -> Person:
    chance = random.Random(f"person {seed} {name}")
    first, last = chance.choice(_FIRST), chance.choice(_LAST)
    identity = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).hexdigest()
    user = f"{first}.{last}.{identity[:4]}".lower()
    return Person(
        id=identity,
        name=f"{first} {last}",
        address=f"{chance.randint(1, 99)} {chance.choice(_STREETS)} Street",
        email=f"{user}@example.org",
        birthdate=f"{chance.randint(1940, 2005)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}",
        phone_number=f"+44 7700 900{chance.randint(0, 999):03d}",
        job=chance.choice(_JOBS),
        company=f"{last} and {chance.choice(_LAST)}",
        ssn=f"{chance.randint(900, 999)}-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}",
        blood_group=chance.choice(_BLOOD),
        website=(f"https://{user}.example.org",),
        username=user,
        bank_account=f"XB{chance.randint(10, 99)}{chance.randint(10**11, 10**12 - 1)}",
    )
