"""Captures of a test's own database, each with a slot of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture


@pytest.fixture
def capture_of(database: str) -> Iterator[Callable[..., PostgresCapture]]:
    """Opens captures of the test's database with a slot named after it; closes them."""
    opened: list[PostgresCapture] = []

    def open_capture(dsn: str = database, **settings: object) -> PostgresCapture:
        slot = conninfo_to_dict(database)["dbname"]
        given = Settings(**{"postgres_dsn": dsn, "postgres_slot": slot, "postgres_tables": (), **settings})
        capture = PostgresCapture(given, postgres_source(given))
        capture._slot.patience = 0.2
        opened.append(capture)
        return capture

    yield open_capture
    for capture in opened:
        capture.close()


@pytest.fixture
def source(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key, note text, amount numeric(10,2))")
        yield connection
