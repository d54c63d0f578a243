"""What the models over PostgreSQL changes must say, worked out change by change in plain Python."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

Row = dict[str, Any]
Change = tuple[str, Row]  # table, bronze row

TEN_MINUTES = timedelta(minutes=10)
START = datetime(2026, 1, 1)  # noqa: DTZ001 transaction dates have no zone


def committed_at(lsn: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=lsn)


def random_log(seed: int, transactions: int) -> list[list[Change]]:
    """Changes by commit: a snapshot first, then random operations with every kind of change.

    Ids are few so that they are used again; dates are minutes apart, so that ten minutes and ties are met exactly.
    """
    rng = random.Random(seed)
    users: set[int] = set()
    payments: set[int] = set()
    newest: dict[int, Row] = {}
    log: list[list[Change]] = []

    def user(identity: int) -> Row:
        return {"user_id": identity, "name": f"name {rng.random()}", "email": rng.choice([None, f"{rng.random()}"])}

    def payment(identity: int) -> Row:
        amounts = [None, Decimal(rng.randrange(1, 100)) / 100, Decimal(rng.randrange(100000, 999999)) / 100]
        amount = rng.choice([*amounts, *(Decimal(rng.randrange(1000, 5000)) / 100 for _ in range(8))])
        date = rng.choice([None, *(START + timedelta(minutes=rng.randrange(90)) for _ in range(12))])
        owner = rng.choice([None, *(rng.randrange(1, 7) for _ in range(9))])
        newest[identity] = {"transaction_id": identity, "user_id": owner, "amount": amount, "transaction_date": date}
        return newest[identity]

    def again(identity: int) -> Row:
        return newest[identity] if rng.random() < 0.3 else payment(identity)

    users.update((1, 2, 3))
    payments.update(range(5))
    snapshot: list[Change] = [("users", _snapshotted(user(identity), 10, identity)) for identity in (1, 2, 3)]
    log.append(snapshot + [("transactions", _snapshotted(payment(number), 10, number + 1)) for number in range(5)])

    for commit in range(transactions):
        lsn = 20 + 3 * commit
        changes: list[Change] = []
        for step in range(rng.randrange(1, 6)):
            position = {"_lsn": lsn, "_seq": 2 * step + 1}
            table, key, live, fresh = rng.choices(
                [("users", "user_id", users, user), ("transactions", "transaction_id", payments, payment)], [1, 6]
            )[0]
            free = [number for number in range(8 if table == "users" else 60) if number not in live]
            kind = rng.choices("cudkt", [60, 25, 12, 6, 1])[0]
            if kind == "t":
                live.clear()
                changes.append((table, {"_op": "t", **position}))
            elif kind == "c" and free:
                identity = rng.choice(free)
                live.add(identity)
                changes.append((table, {**fresh(identity), "_op": "c", **position}))
            elif kind == "u" and live:
                row = (again if table == "transactions" else fresh)(rng.choice(sorted(live)))
                changes.append((table, {**row, "_op": "u", **position, **_unsent(rng, table)}))
            elif kind == "d" and live:
                identity = rng.choice(sorted(live))
                live.remove(identity)
                changes.append((table, {key: identity, "_op": "d", **position}))
            elif kind == "k" and live and free:
                old, new = rng.choice(sorted(live)), rng.choice(free)
                live.remove(old)
                live.add(new)
                changes.append((table, {key: old, "_op": "d", "_lsn": lsn, "_seq": 2 * step}))
                changes.append((table, {**fresh(new), "_op": "u", **position, **_unsent(rng, table)}))
        if changes:
            log.append(changes)
        if rng.random() < 0.05:  # what a resync lands: rows once more, some of them with what the log has missed
            resynced = [again(identity) for identity in sorted(payments)[: rng.randrange(8)]]
            log.append([("transactions", _snapshotted(row, lsn + 1, n)) for n, row in enumerate(resynced, 1)])
    for change in (row for commit in log for _, row in commit):
        change["_committed_at"] = committed_at(change["_lsn"])
    return log


def _snapshotted(row: Row, lsn: int, seq: int) -> Row:
    return {**row, "_op": "r", "_lsn": lsn, "_seq": seq}


def _unsent(rng: random.Random, table: str) -> Row:
    if table == "users" and rng.random() < 0.5:
        return {"email": None, "_unchanged": '["email"]'}
    return {}


@dataclass
class Replayed:
    """The state after a log, and everything that must have been derived on the way."""

    users: dict[int, Row] = field(default_factory=dict)
    transactions: dict[int, Row] = field(default_factory=dict)
    history: dict[str, list[Row]] = field(default_factory=lambda: {"users": [], "transactions": []})
    ledger: list[Row] = field(default_factory=list)
    features: list[Row] = field(default_factory=list)

    def replay(self, log: list[list[Change]]) -> Replayed:
        for commit in log:
            # snapshot rows of one table know those of the other, whatever their order in the commit
            for table, change in sorted(commit, key=lambda one: one[1]["_op"] == "r" and one[0] == "transactions"):
                self._apply(table, change)
        return self

    def _apply(self, table: str, change: Row) -> None:
        rows = self.users if table == "users" else self.transactions
        key = "user_id" if table == "users" else "transaction_id"
        op = change["_op"]
        if op == "t":
            for identity in sorted(rows):
                self._close(table, rows, identity, change)
            return
        identity = change[key]
        moved = self._moved if self._moved_at == (change["_lsn"], change["_seq"] - 1) and identity not in rows else None
        previous = rows.get(identity) or moved
        is_entry = table == "transactions" and not (op != "d" and _is_same_payment(rows.get(identity), change))
        if identity in rows:
            self._close(table, rows, identity, change, is_entry=is_entry)
        if op == "d":
            self._moved, self._moved_at = previous, (change["_lsn"], change["_seq"])
            return
        row = {name: value for name, value in change.items() if not name.startswith("_")}
        if change.get("_unchanged"):
            assert previous is not None
            row["email"] = previous["email"]
        rows[identity] = row
        self.history[table].append(
            {**row, "valid_from": change["_committed_at"], "valid_to": None, "is_deleted": False}
            | {"_lsn": change["_lsn"], "_seq": change["_seq"]}
        )
        if is_entry:
            self.features.append(self._measure(row, change))

    _moved: Row | None = None
    _moved_at: tuple[int, int] = (-1, -1)

    def _close(self, table: str, rows: dict[int, Row], identity: int, change: Row, *, is_entry: bool = True) -> None:
        row = rows.pop(identity)
        key = "user_id" if table == "users" else "transaction_id"
        version = next(v for v in reversed(self.history[table]) if v[key] == identity)
        version.update(valid_to=change["_committed_at"], is_deleted=change["_op"] in "dt")
        if table == "transactions" and is_entry:
            self._enter(row, -1, change)

    def _enter(self, row: Row, weight: int, change: Row) -> None:
        self.ledger.append({**row, "weight": weight, **{name: change[name] for name in ("_lsn", "_seq", "_op")}})

    def _measure(self, row: Row, change: Row) -> Row:
        owner = row["user_id"]
        others = [
            other["amount"]
            for other in self.transactions.values()
            if owner is not None and other["user_id"] == owner and other is not row and other["amount"] is not None
        ]
        self._enter(row, 1, change)
        recent = [entry for entry in self.ledger if entry["user_id"] == owner] if owner else self.ledger[-1:]
        date = row["transaction_date"]
        near = [
            entry
            for entry in recent
            if date and entry["transaction_date"] and date - TEN_MINUTES <= entry["transaction_date"] <= date
        ]
        return {
            "source": "postgres.transactions",
            "transaction_id": str(row["transaction_id"]),
            "user_id": owner,
            "amount": row["amount"],
            "event_time": date,
            "op": change["_op"],
            "prior_count": len(others),
            "prior_mean": sum(others) / len(others) if others else None,
            "count_10min": sum(entry["weight"] for entry in near),
            "sum_10min": sum(entry["weight"] * (entry["amount"] or 0) for entry in near),
            "user_exists": owner in self.users,
            "_lsn": change["_lsn"],
            "_seq": change["_seq"],
        }

    def alerts(self) -> list[Row]:
        """The first firing of each rule on each transaction."""
        fired: dict[tuple[str, str], Row] = {}
        for row in self.features:
            for rule in _rules_fired(row):
                alert = {"rule": rule, "transaction_id": row["transaction_id"], "amount": row["amount"]}
                fired.setdefault((rule, row["transaction_id"]), alert)
        return list(fired.values())


def _is_same_payment(row: Row | None, change: Row) -> bool:
    return row is not None and all(row[name] == change[name] for name in ("user_id", "amount", "transaction_date"))


def _rules_fired(row: Row) -> list[str]:
    amount, mean = row["amount"], row["prior_mean"]
    fired = []
    if amount is not None and mean is not None and row["prior_count"] >= 5:
        if amount > 3 * mean:
            fired.append("amount_above_mean")
        if amount < mean / 100:
            fired.append("amount_below_mean")
    if row["count_10min"] > 10 or row["sum_10min"] > 1000:
        fired.append("velocity")
    if not row["user_exists"]:
        fired.append("unknown_user")
    return fired
