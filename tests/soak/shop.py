"""A third source: a second PostgreSQL database, whose payments have another shape than the bank's.

Nothing of the product knows it: two entries in the pipeline folder declare it. It has a table `users` as the bank has.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from fraud_lakehouse.pipeline import shipped_folder
from tests.soak.workload import Workload

STREAM = "shop_payments"
_SOURCE = """
{name}:
  type: postgres
  dsn_env: {variable}
  prefix: shop_
"""
_STREAM = f"""
{STREAM}:
  from: shop_orders
  kind: changes
  id: id
  time: paid_at
  amount: total
  entities:
    account: {{key: account, exists_in: {{table: shop_users, column: login}}}}
"""
_CREATE = """
create table users (login text primary key, is_seller boolean, stamp bigint);
create table orders (id text primary key, account text, paid_at timestamptz, total numeric, stamp bigint);
"""
_TABLES = {"users": ("login", "is_seller", "stamp"), "orders": ("id", "account", "paid_at", "total", "stamp")}
"""With each update and deletion comes a new stamp: no two states are the same, so a snapshot's moment is known."""
_KINDS = {"order": 50, "burst": 5, "amend": 8, "move": 10, "cancel": 8, "user": 4, "several": 5, "abort": 8}
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ACCOUNTS = [f"account{number}" for number in range(1, 9)]


class Shop(Workload):
    """The writer of the shop's database, and its record."""

    tables = _TABLES
    prefix = "shop_"
    schema = _CREATE
    kinds = _KINDS

    def pay(self, amount: Decimal) -> str:
        """Commit one payment of this amount; its id."""
        with self._lock:
            key = _key(self._stamp + 1)
            self._transaction(lambda: self._insert_order(self._dice.choice(_ACCOUNTS), amount))
            return key

    def _first_rows(self) -> None:
        for account in _ACCOUNTS:
            self._insert("users", account, False, 0)
        for _ in range(40):
            self._order()

    def _insert_order(self, account: str, total: Decimal) -> None:
        number = self._next()
        self._insert("orders", _key(number), account, _START + timedelta(seconds=40 * number), total, number)

    def _order(self) -> None:
        number = self._stamp + 1
        account = f"guest{number}" if self._dice.random() > 0.98 else self._dice.choice(_ACCOUNTS)
        self._insert_order(account, self._cents(1_000, 9_000))

    def _burst(self) -> None:
        """Four payments of an account within three minutes: together more than the limit."""
        account = self._dice.choice(_ACCOUNTS)
        for _ in range(4):
            self._insert_order(account, self._cents(26_000, 40_000))

    def _amend(self) -> None:
        self._update("orders", self._any("orders"), total=self._cents(1_000, 9_000), stamp=self._next())

    def _move(self) -> None:
        """A payment is another account's now."""
        self._update("orders", self._any("orders"), account=self._dice.choice(_ACCOUNTS), stamp=self._next())

    def _cancel(self) -> None:
        if len(self._rows["orders"]) > 20:
            self._delete("orders", self._any("orders"))
        self._user()

    def _user(self) -> None:
        self._update("users", self._any("users"), is_seller=self._dice.random() < 0.5, stamp=self._next())

    def _several(self) -> None:
        for _ in range(self._dice.randint(2, 20)):
            self._order()
        self._move()
        self._cancel()

    def _abort(self) -> None:
        self._burst()
        self._move()
        self._cancel()

    def _cents(self, least: int, most: int) -> Decimal:
        return Decimal(self._dice.randint(least, most)) / 100


def declare(folder: Path, name: str, variable: str) -> None:
    """Write a pipeline folder: the shipped one, and the shop.

    Args:
        name: of the source; its slot and its publication follow from it.
        variable: the environment variable of its connection.
    """
    shutil.copytree(shipped_folder(), folder)
    for file, text in (("sources.yml", _SOURCE.format(name=name, variable=variable)), ("streams.yml", _STREAM)):
        with (folder / file).open("a") as declared:
            declared.write(text)


def _key(number: int) -> str:
    return f"o{number:07}"
