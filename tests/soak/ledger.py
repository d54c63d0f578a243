"""The bank's ledger: accounts whose balances add up, and payments of users for the rules."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from psycopg import sql

from tests.soak.workload import Workload

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


class Ledger(Workload):
    """The writer of the bank's database, and its record."""

    tables = TABLES
    schema = _CREATE
    kinds = _KINDS

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

    # -- kinds of transaction ------------------------------------------------------------------------------------

    def _first_rows(self) -> None:
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
