"""The embedded PostgreSQL of the tests: one server a session, databases of their own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from fraud_lakehouse.demo.postgres import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running server (`.dsn`, `.create_database(name)`, `.stop()`, `.start()`), without fsync."""
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-postgres-"))
    home.chmod(0o711)  # as root the server runs as another user
    server = EmbeddedPostgres(home, fsync=False, settings={"max_prepared_transactions": "8"})
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of an empty database; it and its replication slots go after the test."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgres.create_database(name)
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        # A slot is free a moment after its reader was ended: drop_database waits for the same.
        connection.execute(
            "do $$ declare s record; begin"
            "  for i in 1..200 loop"
            "    exit when not exists (select from pg_replication_slots where active);"
            "    perform pg_sleep(0.01);"
            "  end loop;"
            "end $$"
        )
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", (name,)
        )
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
