"""What the PostgreSQL benchmarks share: the table, the logs written to it, the programs and clocks beside ours."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.postgres_system import postgres_binaries
from fraud_lakehouse.settings import Settings

TRANSACTIONS = 1_000
CREATE = (
    "create table transactions (transaction_id serial primary key, user_id int, transaction_date timestamp,"
    " amount decimal(10,2))"
)
INSERT = (
    "insert into transactions (user_id, transaction_date, amount)"
    " select 1 + g * 7919 %% 10000, timestamp '2024-01-01' + g * interval '37 ms', (g %% 100000) / 100.0"
    " from generate_series(%s::bigint, %s::bigint) g"
)


def write_inserts(dsn: str, rows: int) -> None:
    """`rows` inserts in TRANSACTIONS transactions."""
    with psycopg.connect(dsn) as connection:
        for number in range(TRANSACTIONS):
            first = rows * number // TRANSACTIONS
            connection.execute(INSERT, [first + 1, rows * (number + 1) // TRANSACTIONS])
            connection.commit()


def write_mixed(dsn: str, rows: int) -> None:
    """As many changes: 70 % inserts, 20 % updates and 10 % deletes of rows inserted before, in each transaction."""
    each = rows // TRANSACTIONS
    inserts, updates = each * 7 // 10, each * 2 // 10
    with psycopg.connect(dsn) as connection:
        for number in range(TRANSACTIONS):
            before = number * inserts
            connection.execute(INSERT, [before + 1, before + inserts])
            connection.execute(
                "update transactions set amount = amount + 1 where transaction_id between %s and %s",
                [before + 1, before + updates],
            )
            connection.execute(
                "delete from transactions where transaction_id between %s and %s",
                [before + updates + 1, before + each - inserts],
            )
            connection.commit()


def server_cpu(server: EmbeddedPostgres) -> float:
    """CPU seconds of all of the server's processes so far, those that ended included."""
    postmaster = psutil.Process(server.pid)
    own = postmaster.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in postmaster.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended just now: counts with the postmaster next time
            spent = child.cpu_times()
            total += spent.user + spent.system
    return total


def program(name: str) -> str:
    """Path of one of PostgreSQL's own client programs, of the server's version."""
    return str(postgres_binaries() / name)


def version_of(name: str) -> str:
    """What the program says of itself."""
    return subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True).stdout.strip()


def settings_of(dsn: str, home: Path) -> Settings:
    """A new lake with a slot of its own."""
    name = uuid4().hex[:12]
    return Settings(lake=str(home / name), postgres_dsn=dsn, postgres_slot=f"s_{name}")  # type: ignore[arg-type]
