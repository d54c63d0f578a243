"""The demo's web shop: changes of its payments and users as a connector writes them, with fraud in it. Pure.

Payments come in blocks, and each is made from the seed and its block alone, so a stream continues anywhere. Event time
advances three seconds from one change to the next. A few changes correct or delete a payment of the same block.

Fraud cases, as the web shop knows them: `too_many_count` (eleven payments of one account within minutes),
`too_many_amount` (amounts of 50 to 1,000 up to a total of 1,000), `too_large` (a single one of 1,000 to 1,050),
`too_far` (from an address outside the networks of customers).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

SEED = 7
BLOCK = 512
STEP = 3.0  # event seconds between changes
USERS = 250
_BEGIN = datetime(2026, 1, 1, 6, tzinfo=UTC).timestamp()
_NEAR = ("8.8.8.8", "13.52.0.9", "23.0.0.7", "34.192.0.1", "52.25.0.3", "64.233.160.4", "172.217.0.5", "203.0.113.6")
_FAR = ("1.1.1.1", "41.79.129.2", "62.210.16.6", "91.121.0.8", "145.239.32.25", "165.227.56.83", "202.54.1.1")
_CORRECTED, _DELETED = 0.03, 0.02
_CASES = 2  # of each kind in a block


@dataclass(frozen=True, slots=True)
class Change:
    """A change event; of a fraudulent payment also its kind of fraud and its case."""

    envelope: dict[str, Any]
    kind: str | None = None
    case: str | None = None

    @property
    def transaction_id(self) -> str:
        """The id of its payment."""
        return str((self.envelope["after"] or self.envelope["before"])["ID"])


@dataclass(frozen=True, slots=True)
class _Planned:
    """A payment at `at` (event time, seconds since 1970 UTC)."""

    at: float
    account: int
    amount: float
    address: str
    kind: str | None = None
    case: str | None = None


def changes(seed: int, begin: int = 0) -> Iterator[Change]:
    """An endless stream of changes of payments, after its first `begin` ones."""
    block, skipped = divmod(begin, BLOCK)
    while True:
        yield from _block(seed, block)[skipped:]
        block, skipped = block + 1, 0


def users(seed: int) -> Iterator[Change]:
    """The users as a snapshot; with their password hashes, which capture drops."""
    chance = random.Random(f"users {seed}")
    for number in range(1, USERS + 1):
        row = {
            "ID": number,
            "PASSWORD": f"pbkdf2_sha256${chance.getrandbits(64):016x}",
            "LAST_LOGIN": None,
            "IS_SUPERUSER": 0,
            "USERNAME": f"customer{number}",
            "FIRST_NAME": "",
            "LAST_NAME": "",
            "EMAIL": f"customer{number}@example.org",
            "IS_STAFF": 0,
            "IS_ACTIVE": 1,
            "DATE_JOINED": _microseconds(_BEGIN - 86_400 * chance.randrange(1, 900)),
        }
        yield Change(_envelope("r", None, row, number, "AUTH_USER", _BEGIN))


def encode(change: Change) -> bytes:
    """The event as compact JSON without a schema."""
    return msgspec.json.encode(change.envelope)


def _block(seed: int, number: int) -> list[Change]:
    chance = random.Random(f"accounts {seed} {number}")
    start = _BEGIN + number * BLOCK * STEP
    planned = _fraud(chance, number, start)
    corrections = int(BLOCK * _CORRECTED)
    deletions = int(BLOCK * _DELETED)
    while len(planned) < BLOCK - corrections - deletions:
        at = start + chance.random() * BLOCK * STEP
        planned.append(_Planned(at, 1 + chance.randrange(USERS), _usual(chance), chance.choice(_NEAR)))
    planned.sort(key=lambda one: one.at)
    rows = [_row(number * BLOCK + index + 1, one) for index, one in enumerate(planned)]
    events: list[tuple[float, str, int, dict[str, Any] | None, dict[str, Any] | None]] = [
        (one.at, "c", index, None, rows[index]) for index, one in enumerate(planned)
    ]
    ordinary = [index for index, one in enumerate(planned) if one.kind is None]
    end = start + BLOCK * STEP
    for place, index in enumerate(chance.sample(ordinary, corrections + deletions)):
        row = rows[index]
        at = min(end, planned[index].at + chance.random() * 600)
        if place < corrections:
            events.append((at, "u", index, row, row | {"AMOUNT": _usual(chance)}))
        else:
            events.append((at, "d", index, row, None))
    events.sort(key=lambda one: one[0])
    found = []
    for place, (at, op, index, before, after) in enumerate(events):
        one = planned[index]
        envelope = _envelope(op, before, after, number * BLOCK + place, "USER_TRANSACTION", at)
        found.append(Change(envelope, one.kind, one.case))
    return found


def _fraud(chance: random.Random, number: int, start: float) -> list[_Planned]:
    found: list[_Planned] = []
    for case in range(_CASES):
        for kind in ("too_many_count", "too_many_amount", "too_large", "too_far"):
            account, address = 1 + chance.randrange(USERS), chance.choice(_NEAR)
            at = start + chance.random() * (BLOCK * STEP - 120)
            if kind == "too_many_count":
                amounts = [_usual(chance) for _ in range(11)]
            elif kind == "too_many_amount":
                amounts = []
                while sum(amounts) <= 1000:
                    amounts.append(round(chance.uniform(50, 1000), 2))
            elif kind == "too_large":
                amounts = [round(chance.uniform(1000, 1050), 2)]
            else:
                amounts, address = [_usual(chance)], chance.choice(_FAR)
            name = f"{kind}-{number}-{case}"
            found += [_Planned(at + 5 * place, account, one, address, kind, name) for place, one in enumerate(amounts)]
    return found


def _usual(chance: random.Random) -> float:
    return round(chance.uniform(0.25, 50), 2)


def _row(number: int, one: _Planned) -> dict[str, Any]:
    return {
        "ID": number,
        "AMOUNT": one.amount,
        "RECEIVED_AT": _microseconds(one.at),
        "IP_ADDRESS": one.address,
        "ACCOUNT_ID": one.account,
    }


def _envelope(
    op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, position: int, table: str, at: float
) -> dict[str, Any]:
    scn = str(1_000_000 + position)
    source = {"connector": "oracle", "schema": "SAMPLE", "table": table, "scn": scn, "commit_scn": scn}
    return {"before": before, "after": after, "source": source | {"ts_ms": int(at * 1000)}, "op": op}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
