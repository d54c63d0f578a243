"""A serial ledger in PostgreSQL: what was committed, in which order, known without asking the product.

One transaction after the other, whichever thread runs it, so the order of commits is the order of this record. A
transaction is recorded after the server confirmed it; one whose answer was lost is looked up once the server is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from tests.patience import PATIENCE

Row = tuple[Any, ...]
Event = tuple[str, Any, Row | None]
"""(`c`, `u` or `d`, key, the row afterwards or None)."""

TABLES: dict[str, tuple[str, ...]] = {
    "accounts": ("id", "balance", "note", "stamp"),
    "transfers": ("id", "source", "target", "amount", "stamp"),
    "users": ("user_id", "name", "email", "registration_date"),
    "transactions": ("transaction_id", "user_id", "transaction_date", "amount"),
}
"""Columns of each table; the first is its key."""

TOTAL = Decimal(40_000)
"""The sum of all balances after every commit."""

_CREATE = """
create table accounts (id int primary key, balance numeric(14, 2) not null, note text, stamp bigint not null);
alter table accounts alter note set storage external;
create table transfers (id bigint primary key, source int, target int, amount numeric(14, 2), stamp bigint not null);
create table users (user_id int primary key, name varchar(100), email varchar(100), registration_date timestamp);
create table transactions
    (transaction_id int primary key, user_id int, transaction_date timestamp, amount numeric);
create schema harness;
create table harness.done (number bigint primary key);
"""
_START = datetime(2026, 1, 1)  # noqa: DTZ001 (as in the reference system: no zone)
_KINDS = {
    "transfer": 40,
    "pay": 30,
    "open": 6,
    "close": 5,
    "rekey": 5,
    "annotate": 6,
    "amend": 6,
    "user": 4,
    "strike": 4,
    "savepoint": 6,
    "abort": 8,
    "everything": 4,
}


@dataclass(frozen=True)
class Committed:
    """One transaction: by table its events in order."""

    number: int
    events: dict[str, list[Event]]


@dataclass
class Ledger:
    """The writer and its record.

    Args:
        dsn: of a database of its own; tables are created by `create`.
        seed: decides every operation.
    """

    dsn: str
    seed: int
    committed: list[Committed] = field(default_factory=list)
    aborted: int = 0
    uncertain: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._rows: dict[str, dict[Any, Row]] = {table: {} for table in TABLES}
        self._lock = threading.Lock()
        self._stamp = 0
        self._number = 0
        self._connection: psycopg.Connection[Any] | None = None

    def create(self) -> None:
        """Create the tables and their first rows; part of the record as any other transaction."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(_CREATE)
        self._transaction(self._begin_bank)

    def run(self, transactions: int, until: Callable[[], bool] = lambda: False) -> None:
        """Do so many transactions, those that end in a rollback included; stops early when `until` says so."""
        for _ in range(transactions):
            if until():
                return
            with self._lock:
                kind = self._dice.choices(list(_KINDS), list(_KINDS.values()))[0]
                self._transaction(getattr(self, f"_{kind}"), keep=kind != "abort")

    def pay(self, amount: Decimal | str, *, user: int | None = None, date: datetime | None = None) -> int:
        """Commit one payment of this amount ("NaN" as text, since it equals nothing); its transaction_id."""
        with self._lock:
            number = self._next()
            payer = self._dice.randint(1, 8) if user is None else user
            self._transaction(lambda: self._insert("transactions", number, payer, date or _date(number), amount))
            return number

    def delete_payment(self, number: int) -> None:
        """Commit the deletion of one payment, if it is still there."""
        with self._lock:
            if number in self._rows["transactions"]:
                self._transaction(lambda: self._delete("transactions", number))

    def rows(self, table: str) -> dict[Any, Row]:
        """What the table holds after the last commit, by key."""
        return dict(self._rows[table])

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- one transaction -----------------------------------------------------------------------------------------

    def _transaction(self, work: Callable[[], None], *, keep: bool = True) -> None:
        self._number += 1
        before = {table: dict(rows) for table, rows in self._rows.items()}
        self._events: dict[str, list[Event]] = {}
        try:
            connection = self._connected()
            work()
            if not keep:
                connection.rollback()
            else:
                connection.execute("insert into harness.done values (%s)", (self._number,))
                connection.commit()
        except psycopg.OperationalError:
            keep = self._was_committed()
        if keep:
            self.committed.append(Committed(self._number, self._events))
        else:
            self._rows = before
            self.aborted += 1

    def _was_committed(self) -> bool:
        """The server went away: what became of the transaction, once it answers again."""
        self.uncertain += 1
        self.close()
        row = self._connected().execute("select from harness.done where number = %s", (self._number,)).fetchone()
        self._connected().rollback()
        return row is not None

    def _connected(self) -> psycopg.Connection[Any]:
        deadline = time.monotonic() + PATIENCE
        while self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(self.dsn, connect_timeout=5)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        return self._connection

    # -- statements, each with its event -------------------------------------------------------------------------

    def _insert(self, table: str, *row: Any) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, TABLES[table]))
        values = sql.SQL(", ").join([sql.Placeholder()] * len(row))
        self._execute(sql.SQL("insert into {} ({}) values ({})").format(sql.Identifier(table), names, values), row)
        self._rows[table][row[0]] = row
        self._note(table, "c", row[0], row)

    def _update(self, table: str, key: Any, **changes: Any) -> None:
        columns = TABLES[table]
        old = self._rows[table].pop(key)
        row = tuple(changes.get(name, value) for name, value in zip(columns, old, strict=True))
        sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in changes)
        where = sql.Identifier(columns[0])
        statement = sql.SQL("update {} set {} where {} = %s").format(sql.Identifier(table), sets, where)
        self._execute(statement, [*changes.values(), key])
        if row[0] != key:
            self._note(table, "d", key, None)
        self._rows[table][row[0]] = row
        self._note(table, "u", row[0], row)

    def _delete(self, table: str, key: Any) -> None:
        where = sql.Identifier(TABLES[table][0])
        self._execute(sql.SQL("delete from {} where {} = %s").format(sql.Identifier(table), where), [key])
        del self._rows[table][key]
        self._note(table, "d", key, None)

    def _execute(self, statement: sql.Composed, values: Any) -> None:
        self._connected().execute(statement, values)

    def _note(self, table: str, op: str, key: Any, row: Row | None) -> None:
        self._events.setdefault(table, []).append((op, key, row))

    def _next(self) -> int:
        self._stamp += 1
        return self._stamp

    def _any(self, table: str) -> Any:
        return self._dice.choice(list(self._rows[table]))

    # -- kinds of transaction ------------------------------------------------------------------------------------

    def _begin_bank(self) -> None:
        for number in range(1, 41):
            self._insert("accounts", number, TOTAL / 40, self._text(), self._next())
        for number in range(1, 9):
            self._insert("users", number, f"user {number}", f"u{number}@example.org", _START)
        for _ in range(60):
            self._pay()

    def _transfer(self) -> None:
        source, target = self._dice.sample(list(self._rows["accounts"]), 2)
        amount = Decimal(self._dice.randint(1, 5_000)) / 100
        self._move(source, target, amount)

    def _move(self, source: int, target: int, amount: Decimal) -> None:
        accounts = self._rows["accounts"]
        self._update("accounts", source, balance=accounts[source][1] - amount, stamp=self._next())
        self._update("accounts", target, balance=accounts[target][1] + amount, stamp=self._next())
        number = self._next()
        self._insert("transfers", number, source, target, amount, number)

    def _pay(self) -> None:
        number = self._next()
        chance = self._dice.random()
        amount = self._dice.randint(200_000, 900_000) if chance < 0.04 else self._dice.randint(1_000, 9_000)
        user = 9_000 + number if chance > 0.98 else self._dice.randint(1, 8)
        self._insert("transactions", number, user, _date(number), Decimal(amount) / 100)

    def _open(self) -> None:
        self._insert("accounts", 1_000 + self._next(), Decimal("0.00"), self._text(), self._next())

    def _close(self) -> None:
        if len(self._rows["accounts"]) <= 20:
            return self._open()
        source, target = self._dice.sample(list(self._rows["accounts"]), 2)
        self._move(source, target, self._rows["accounts"][source][1])
        self._delete("accounts", source)
        return None

    def _rekey(self) -> None:
        self._update("accounts", self._any("accounts"), id=1_000 + self._next(), stamp=self._next())

    def _annotate(self) -> None:
        self._update("accounts", self._any("accounts"), note=self._text(), stamp=self._next())

    def _amend(self) -> None:
        key = self._any("transactions")
        self._update("transactions", key, amount=Decimal(self._dice.randint(1_000, 9_000)) / 100)

    def _user(self) -> None:
        self._update("users", self._any("users"), email=f"u{self._next()}@example.org")

    def _strike(self) -> None:
        if len(self._rows["transactions"]) > 40:
            self._delete("transactions", self._any("transactions"))
        if self._rows["transfers"]:
            self._delete("transfers", self._any("transfers"))

    def _savepoint(self) -> None:
        """A sub-transaction that is rolled back between two that stay."""
        self._transfer()
        kept = {table: dict(rows) for table, rows in self._rows.items()}, {t: list(e) for t, e in self._events.items()}
        self._execute(sql.SQL("savepoint inner_one").format(), None)
        self._transfer()
        self._pay()
        self._execute(sql.SQL("rollback to savepoint inner_one").format(), None)
        self._rows, self._events = kept
        self._transfer()

    def _abort(self) -> None:
        self._transfer()
        self._pay()
        self._rekey()

    def _everything(self) -> None:
        for _ in range(self._dice.randint(2, 30)):
            self._transfer()
            self._pay()
        self._close()
        self._user()

    def _text(self) -> str | None:
        """Nothing, a few characters, or so many that PostgreSQL leaves them out of updates that do not touch them."""
        length = self._dice.choice([0, 10, 4_000])
        return f"{self._dice.getrandbits(4 * length):0{length}x}" if length else None


def _date(number: int) -> datetime:
    """When a payment of this number was made."""
    return _START + timedelta(seconds=40 * number)
