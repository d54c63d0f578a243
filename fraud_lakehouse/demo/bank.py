"""The demo's bank: a PostgreSQL database with continuous inserts, updates and deletes of transactions.

`operation` is pure: the n-th operation of a seed is always the same, so a restart continues the same stream.
`BankWriter` applies operations and only decides which existing row is meant.
Mix, amounts and dates follow the public reference generator (insert 70 %, delete 20 %, update 10 %).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import psycopg

from fraud_lakehouse.demo.truth import TRUTH_TABLES

_logger = logging.getLogger(__name__)

USERS = 20
UNKNOWN_USER_SHARE = 0.005
_TICK = 0.05  # seconds between checks of what is due
_GROUP = 50  # maximum operations per database transaction

_TABLES = f"""
create table if not exists public.users (
    user_id serial primary key,
    name varchar(100),
    email varchar(100),
    registration_date timestamp default current_timestamp
);
create table if not exists public.transactions (
    transaction_id serial primary key,
    user_id int,
    transaction_date timestamp default current_timestamp,
    amount decimal(10, 2)
);
{TRUTH_TABLES}
"""
_NAMES = """
Ada Lindqvist, Bruno Carvalho, Chidi Okafor, Dana Novak, Emil Hartmann, Farah Haddad, Goran Petrov, Hana Kimura,
Ivo Marchetti, Jana Kowalska, Kofi Mensah, Lea Fontaine, Mateo Rojas, Nadia Rahman, Oskar Nyberg, Priya Nair,
Quentin Leroy, Rosa Delgado, Sven Aalto, Tomasz Zielinski
"""

# One statement: a row and its truth are committed together or not at all.
_APPLY = {
    "insert": "with changed as (insert into public.transactions (user_id, transaction_date, amount)"
    " values (%(user_id)s, %(date)s, %(amount)s) returning transaction_id)",
    "update": "with changed as (update public.transactions set user_id = %(user_id)s, transaction_date = %(date)s,"
    " amount = %(amount)s where transaction_id = %(id)s returning transaction_id)",
    "delete": "with changed as (delete from public.transactions where transaction_id = %(id)s"
    " returning transaction_id)",
}
_RECORD = (
    " insert into demo_truth.operations (number, kind, transaction_id, anomaly)"
    " select %(number)s, %(kind)s, transaction_id, %(anomaly)s from changed returning transaction_id"
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the table of transactions.

    `pick` in [0, 1) selects the existing row to update or delete. A delete has values too: it becomes an insert if
    there are no rows. `anomaly` is "large", "testing", "unknown_user" or None.
    """

    number: int
    kind: Literal["insert", "delete", "update"]
    pick: float
    user_id: int
    transaction_date: datetime
    amount: Decimal
    anomaly: str | None


def operation(seed: int, number: int, until: datetime) -> Operation:
    """One operation of a seed's stream.

    Args:
        seed: of the stream.
        number: of the operation, from 0.
        until: naive UTC; dates are between the first day of its year (at least 90 days back) and this.
    """
    chance = random.Random(seed * 1_000_003 + number)
    share, pick, size, place = chance.random(), chance.random(), chance.random(), chance.random()
    kind: Literal["insert", "delete", "update"] = "insert" if share < 0.7 else "delete" if share < 0.9 else "update"
    anomaly: str | None = None
    if size < 0.05:
        anomaly, amount = "large", chance.uniform(1000, 10000)
    elif size < 0.1:
        anomaly, amount = "testing", chance.uniform(0.01, 1)
    else:
        amount = chance.uniform(10, 1000)
    user_id = chance.randint(1, USERS)
    if anomaly is None and chance.random() < UNKNOWN_USER_SHARE:
        anomaly, user_id = "unknown_user", chance.randint(9001, 9999)
    begin = min(until.replace(month=1, day=1, hour=0, minute=0, second=0), until - timedelta(days=90))
    date = (begin + place * (until - begin)).replace(microsecond=0)
    return Operation(number, kind, pick, user_id, date, Decimal(f"{amount:.2f}"), anomaly)


class BankWriter:
    """Applies the stream of a seed to a database, each operation exactly once, even if the connection is lost.

    Args:
        dsn: connection string of the demo's database.
        seed: of the stream.
    """

    def __init__(self, dsn: str, seed: int = 7) -> None:
        self._dsn = dsn
        self._seed = seed
        self._until = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        self._connection: psycopg.Connection[Any] | None = None
        self._live: list[int] = []
        self._next = 0

    def prepare(self) -> None:
        """Create the tables and the 20 users if they are missing, and read the current rows."""
        self.close()
        self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=10)
        with self._connection.transaction():
            self._connection.execute("select pg_advisory_xact_lock(20, 20)")  # of two concurrent starts, one creates
            self._connection.execute(_TABLES)
            names = " ".join(_NAMES.split()).split(", ")
            users = [(name, f"{name.lower().replace(' ', '.')}@example.com") for name in names]
            if self._connection.execute("select 1 from public.users limit 1").fetchone() is None:
                self._connection.cursor().executemany("insert into public.users (name, email) values (%s, %s)", users)
        rows = self._connection.execute("select transaction_id from public.transactions order by 1").fetchall()
        self._live = [row[0] for row in rows]
        row = self._connection.execute("select coalesce(max(number) + 1, 0) from demo_truth.operations").fetchone()
        self._next = row[0] if row else 0

    def write(self, count: int) -> None:
        """Apply the next `count` operations, up to 50 in one transaction.

        Raises:
            psycopg.OperationalError: the connection is lost; `prepare` determines what was committed.
        """
        if self._connection is None:
            self.prepare()
        assert self._connection is not None
        while count > 0:
            with self._connection.transaction():
                for _ in range(min(count, _GROUP)):
                    self._apply(operation(self._seed, self._next, self._until))
            count -= _GROUP

    def run(self, rate: float, stop: threading.Event) -> None:
        """Write `rate` operations per second until `stop` is set; reconnects after a lost connection."""
        pause = 0.1
        start, done = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - start) * rate) - done
            try:
                self.write(min(due, max(_GROUP, int(rate))))  # after an outage, at most one second's operations at once
                pause = 0.1
            except psycopg.OperationalError as error:
                _logger.warning("connection to the bank lost, trying again in %.1f s: %s", pause, error)
                stop.wait(pause)
                pause = min(pause * 2, 2.0)
                self._reconnect()
            done += due
            stop.wait(_TICK if rate > 1 / _TICK else min(1 / max(rate, 0.01), 0.5))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _reconnect(self) -> None:
        try:
            self.prepare()
        except psycopg.OperationalError:
            self.close()  # the next write reconnects

    def _apply(self, wanted: Operation) -> None:
        assert self._connection is not None
        kind = wanted.kind if self._live else "insert"
        place = int(wanted.pick * len(self._live))
        values = {
            "number": wanted.number,
            "kind": kind,
            "user_id": wanted.user_id,
            "date": wanted.transaction_date,
            "amount": wanted.amount,
            "anomaly": None if kind == "delete" else wanted.anomaly,
            "id": self._live[place] if self._live else None,
        }
        row = self._connection.execute(_APPLY[kind] + _RECORD, values).fetchone()
        if row is None:
            raise psycopg.OperationalError(f"transaction {values['id']} was deleted by another session")
        self._next += 1
        if kind == "insert":
            self._live.append(row[0])
        elif kind == "delete":
            self._live[place] = self._live[-1]
            self._live.pop()
