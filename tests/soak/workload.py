"""A serial writer into a PostgreSQL database: what was committed, in which order, known without asking the product.

One transaction after the other, whichever thread runs it, so the order of commits is the order of this record. A
transaction is recorded after the server confirmed it; one whose answer was lost is looked up once the server is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import psycopg
from psycopg import sql

from tests.patience import PATIENCE

Row = tuple[Any, ...]
Event = tuple[str, Any, Row | None]
"""(`c`, `u` or `d`, key, the row afterwards or None)."""

_DONE = """
create schema harness;
create table harness.done (number bigint primary key);
"""


@dataclass(frozen=True)
class Committed:
    """One transaction: by table its events in order."""

    number: int
    events: dict[str, list[Event]]


@dataclass
class Workload:
    """The writer and its record; subclasses have the tables and a method `_<kind>` for each kind of transaction.

    Args:
        dsn: of a database of its own; tables are created by `create`.
        seed: decides every operation.
    """

    tables: ClassVar[dict[str, tuple[str, ...]]]
    """Columns of each table; the first is its key."""
    prefix: ClassVar[str] = ""
    """What its bronze tables have before the table's name."""
    schema: ClassVar[str]
    """Statements that create the tables."""
    kinds: ClassVar[dict[str, int]]
    """Kinds of transaction and how often each is drawn; `abort` is rolled back."""

    dsn: str
    seed: int
    committed: list[Committed] = field(default_factory=list)
    aborted: int = 0
    uncertain: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._rows: dict[str, dict[Any, Row]] = {table: {} for table in self.tables}
        self._lock = threading.Lock()
        self._stamp = 0
        self._number = 0
        self._connection: psycopg.Connection[Any] | None = None

    def create(self) -> None:
        """Create the tables and their first rows; part of the record as any other transaction."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(self.schema)
            connection.execute(_DONE)
        self._transaction(self._first_rows)

    def run(self, transactions: int, until: Callable[[], bool] = lambda: False) -> None:
        """Do so many transactions, those that end in a rollback included; stops early when `until` says so."""
        for _ in range(transactions):
            if until():
                return
            with self._lock:
                kind = self._dice.choices(list(self.kinds), list(self.kinds.values()))[0]
                self._transaction(getattr(self, f"_{kind}"), keep=kind != "abort")

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _first_rows(self) -> None:
        raise NotImplementedError

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
        names = sql.SQL(", ").join(map(sql.Identifier, self.tables[table]))
        values = sql.SQL(", ").join([sql.Placeholder()] * len(row))
        self._execute(sql.SQL("insert into {} ({}) values ({})").format(sql.Identifier(table), names, values), row)
        self._rows[table][row[0]] = row
        self._note(table, "c", row[0], row)

    def _update(self, table: str, key: Any, **changes: Any) -> None:
        columns = self.tables[table]
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
        where = sql.Identifier(self.tables[table][0])
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
