"""Tables with hostile names, created while the product runs: each is replicated like any other, and stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from tests.patience import PATIENCE
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand

_FORMATS = ["csv", "json", "parquet", "tsv", "ndjson", "jsonl", "arrow", "csv.gz"]
_OF_THE_LAKE = ["_delta_log", "alerts", "batches", "card_transactions", "bronze", "_work", "main", "temp", "memory"]
_HARD_TO_QUOTE = [
    'a"b',
    "a'b",
    "select",
    "x; drop table users",
    "{{ this }}",
    "{% raw %}",
    "\U0001f600",
    "..",
    "%2e%2e",
    "a\\b",
    "a/b",
    "two\nlines",
    " ",
    "n" * 63,
]
_COLUMNS = [
    "select",
    'a"b',
    "a'b",
    "\U0001f600\U0001f600",
    "\U00020000",
    "{{ this }}",
    "_op",
    "_LSN",
    "_delete",
    "_lake_x",
    "Id",
    " ",
    "%s",
    "a.b",
    "null",
    "c" * 63,
]
_WIDE = 600


def created(names: Sequence[str], count: int) -> Callable[[LiveStand], None]:
    """So many tables of these names with two columns and a few rows."""

    def inject(life: LiveStand) -> None:
        life.live()
        for name in life.stand.dice.sample([one for one in names if one not in life.stand.tables], count):
            _create(life, name, ["id", "value"])
        _captured(life)

    return inject


def hostile_columns(life: LiveStand) -> None:
    """A table whose columns have such names."""
    life.live()
    _create(life, f"columns_{len(life.stand.tables)}", ["id", *_COLUMNS])
    _captured(life)


def wide(life: LiveStand) -> None:
    """A table of 600 columns."""
    life.live()
    _create(life, f"wide_{len(life.stand.tables)}", ["id", *(f"c{number}" for number in range(1, _WIDE))])
    _captured(life)


def _captured(life: LiveStand) -> None:
    """Alerts go on, and the new tables are in bronze: the running process reads the catalog every few seconds."""
    with life.stand.working():
        life.check_alerts()
    life.go_on()
    lake, until = life.stand.lake, time.monotonic() + PATIENCE
    missing = [life.stand.bronze_name(name) for name in life.stand.tables]
    while missing := [name for name in missing if not lake.exists("bronze", name)]:
        assert time.monotonic() < until, f"not captured: {missing}"
        time.sleep(0.2)


def _create(life: LiveStand, name: str, columns: Sequence[str]) -> None:
    """A table with an integer in every column, a snapshot's row or two, and an insert, an update and a delete."""
    table, names = sql.Identifier(name), [sql.Identifier(column) for column in columns]
    kinds = sql.SQL(", ").join(sql.SQL("{} int").format(column) for column in names[1:])
    insert = sql.SQL("insert into {} values ({})").format(table, sql.SQL(", ").join([sql.Placeholder()] * len(names)))
    with psycopg.connect(life.stand.ledger.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create table {} ({} int primary key, {})").format(table, names[0], kinds))
        life.stand.tables.append(name)
        for key in range(1, 4):
            connection.execute(insert, [key * (place + 1) for place in range(len(names))])
        update = sql.SQL("update {} set {} = -1 where {} = 2").format(table, names[-1], names[0])
        connection.execute(update)
        connection.execute(sql.SQL("delete from {} where {} = 3").format(table, names[0]))


FILE_FORMATS = LiveFault("live: tables named as file formats", "hostile table names", created(_FORMATS, 2))
FAULTS = [
    FILE_FORMATS,
    LiveFault("live: tables named as the lake's own", "hostile table names", created(_OF_THE_LAKE, 2)),
    LiveFault("live: tables whose names are hard to quote", "hostile table names", created(_HARD_TO_QUOTE, 2)),
    LiveFault("live: hostile columns", "hostile column names", hostile_columns),
    LiveFault("live: a table of 600 columns", "table of 600 columns", wide),
]
