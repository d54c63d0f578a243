"""The bank's writer against a real PostgreSQL: tables as given, truth beside them, every operation once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.truth import BankTruth

pytestmark = pytest.mark.postgres
COLUMNS = """
select table_name, column_name, data_type, is_nullable, character_maximum_length, numeric_precision, numeric_scale
from information_schema.columns where table_schema = 'public' order by table_name, ordinal_position
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("bank"), fsync=False) as running:
        yield running


@pytest.fixture
def dsn(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> str:
    return server.create_database(str(request.node.name))


def test_schema_is_the_reference_s(dsn: str) -> None:
    with closing(BankWriter(dsn)) as writer:
        writer.prepare()
    with psycopg.connect(dsn) as connection:
        found = connection.execute(COLUMNS).fetchall()
        users = connection.execute("select min(user_id), max(user_id), count(*) from users").fetchone()
    assert found == [
        ("transactions", "transaction_id", "integer", "NO", None, 32, 0),
        ("transactions", "user_id", "integer", "YES", None, 32, 0),
        ("transactions", "transaction_date", "timestamp without time zone", "YES", None, None, None),
        ("transactions", "amount", "numeric", "YES", None, 10, 2),
        ("users", "user_id", "integer", "NO", None, 32, 0),
        ("users", "name", "character varying", "YES", 100, None, None),
        ("users", "email", "character varying", "YES", 100, None, None),
        ("users", "registration_date", "timestamp without time zone", "YES", None, None, None),
    ]
    assert users == (1, 20, 20)


def test_table_is_what_the_operations_say_and_a_second_start_continues(dsn: str) -> None:
    with closing(BankWriter(dsn)) as writer:
        writer.write(300)
    with closing(BankWriter(dsn)) as writer:  # another process would begin like this
        writer.write(300)
    with psycopg.connect(dsn) as connection:
        numbers = connection.execute("select array_agg(number order by number) from demo_truth.operations").fetchone()
        users = connection.execute("select count(*) from users").fetchone()
        ids = "select array_agg(transaction_id order by transaction_id) from "
        live = connection.execute(ids + "transactions").fetchone()
        reported = connection.execute(
            ids + "(select transaction_id from demo_truth.operations"
            " group by 1 having bool_or(kind = 'insert') and not bool_or(kind = 'delete')) as left_over"
        ).fetchone()
    assert numbers == (list(range(600)),)
    assert users == (20,)
    assert live == reported


def test_truth_is_read_little_by_little(dsn: str) -> None:
    truth = BankTruth(dsn)
    with closing(truth), closing(BankWriter(dsn)) as writer:
        writer.write(200)
        first = truth.read_new()
        assert truth.read_new() == []
        assert (truth.generated().rows, len(truth.source_counts())) == (200, 2)
        writer.write(100)
        second = truth.read_new()
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from demo_truth.operations where anomaly is not null").fetchone()
    assert row == (len(first) + len(second),)
    assert {each.kind for each in first + second} >= {"large", "testing"}
    assert all(earlier.at <= later.at for earlier, later in zip(first, second, strict=False))


def test_a_cut_connection_loses_and_doubles_nothing(dsn: str) -> None:
    stop, writer = threading.Event(), BankWriter(dsn)
    writer.prepare()
    thread = threading.Thread(target=writer.run, args=(400.0, stop))
    thread.start()
    cuts = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(6):
            time.sleep(0.15)
            cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            cuts += len(connection.execute(cut + " and pid <> pg_backend_pid()").fetchall())
        before = connection.execute("select count(*) from demo_truth.operations").fetchone()
        time.sleep(1.0)
        stop.set()
        thread.join()
        numbers = connection.execute("select count(*), max(number) + 1 from demo_truth.operations").fetchone()
        agree = connection.execute(
            "select (select count(*) from transactions),"
            " (select sum(case kind when 'insert' then 1 when 'delete' then -1 else 0 end) from demo_truth.operations)"
        ).fetchone()
    assert cuts >= 2
    assert before is not None and numbers is not None and agree is not None
    assert numbers[0] == numbers[1] > before[0]
    assert agree[0] == agree[1]
