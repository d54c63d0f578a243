"""What is wrong with one table stays with it: it works, or it is left out alone and made good once it can be read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.defs.positions import new_data
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.ingest import PostgresIngest, resync
from fraud_lakehouse.ingest import postgres as ingest_postgres
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres import publication as postgres_publication
from fraud_lakehouse.sources.postgres import table_lock as postgres_hold
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.storage.lake import Lake
from tests.integration.test_resync import bronze, land, settings_of, state

pytestmark = pytest.mark.postgres
Open = Callable[..., PostgresCapture]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEW_TABLES_SECONDS", "BUSY_SECONDS"):
        monkeypatch.setattr(ingest_postgres, name, 0.0)
    monkeypatch.setattr(postgres_hold, "LOCK_SECONDS", 1)
    monkeypatch.setattr(postgres_publication, "LOCK_SECONDS", 1)


def left_out(settings: Settings) -> dict[str, str]:
    """By table, why `status` says that it is left out."""
    (postgres,) = collect(settings).sources
    assert postgres.error is None
    assert all(one["fix"] for one in postgres.left_out)
    return {one["table"]: one["problem"] for one in postgres.left_out}


def ids(settings: Settings, table: str = "payments") -> list[int]:
    return [row["id"] for row in state(settings, table, "id")]


@pytest.mark.parametrize("columns", [555, 1_599])
def test_a_wide_table_is_captured_by_snapshot_log_and_resync(
    database: str, source: psycopg.Connection, tmp_path: Path, columns: int
) -> None:
    settings = settings_of(database, tmp_path)
    kinds = ["text", "int", "numeric(5,2)", "bool", "date"]
    listed = ", ".join(f"c{number} {kinds[number % 5]}" for number in range(columns - 1))
    source.execute(f"create table wide (id int primary key, {listed})")
    source.execute(f"insert into wide (id, c0, c{columns - 2}) values (1, 'a', null), (2, null, null)")
    land(settings)
    source.execute(f"insert into wide (id, c0, c{columns - 5}) values (3, 'c', default)")
    source.execute("update wide set c1 = 7 where id = 1")
    source.execute("delete from wide where id = 2")
    land(settings)
    resync(settings, Lake.at(settings.lake), ["wide"])
    assert bronze(settings, "wide")["_op"].to_list() == ["r", "r", "c", "u", "d"], "a resync finds nothing to add"
    assert [(row["id"], row["c0"], row["c1"]) for row in state(settings, "wide", "id")] == [(1, "a", 7), (3, "c", None)]
    assert left_out(settings) == {}


def test_a_field_over_the_limit_leaves_its_table_out_until_the_limit_or_the_value_is_another(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path, max_field_bytes=2_000)
    source.execute("create table cards (id int primary key)")
    source.execute("insert into payments (note) values ('a'), ('b')")
    land(settings)
    source.execute("begin")
    source.execute("update payments set note = repeat('x', 3000) where id = 1")
    source.execute("delete from payments where id = 2")
    source.execute("insert into cards values (1)")
    source.execute("commit")
    source.execute("insert into payments (note) values ('c')")
    assert new_data(postgres_source(settings), settings) is not None
    for _ in range(2):  # each a new process
        land(settings)
    assert new_data(postgres_source(settings), settings) is None
    assert ids(settings, "cards") == [1], "a transaction's other tables land"
    assert ids(settings) == [1, 2]
    named = "note of table public.payments has 3,000 bytes in the row id = 1; FRAUD_MAX_FIELD_BYTES allows 2,000"
    assert left_out(settings) == {"public.payments": named}
    with pytest.raises(SourceTableError, match="has 3,000 bytes"):
        resync(settings, Lake.at(settings.lake), [])
    source.execute("insert into cards values (2)")
    source.execute("insert into payments (note) values ('d')")
    land(settings.model_copy(update={"max_field_bytes": 3_000}))
    assert ids(settings) == [1, 3, 4]
    assert ids(settings, "cards") == [1, 2]
    assert left_out(settings) == {}
    source.execute("update payments set note = 'e' where id = 1")
    land(settings)
    assert bronze(settings, "payments")["_op"].to_list()[-1] == "u", "its log is read again"


def test_a_table_whose_snapshot_fails_is_taken_later(database: str, source: psycopg.Connection, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path, max_field_bytes=2_000)
    for name in ("afterwards", "cards"):
        source.execute(sql.SQL("create table {} (id int primary key)").format(sql.Identifier(name)))
        source.execute(sql.SQL("insert into {} values (1)").format(sql.Identifier(name)))
    source.execute("insert into payments (note) select repeat('x', 1000 * n) from generate_series(1, 3) n")
    source.execute("create table zebras (id int primary key)")
    source.execute("insert into zebras values (1)")
    land(settings)
    assert {name: ids(settings, name) for name in ("afterwards", "cards", "zebras")} == {
        "afterwards": [1],
        "cards": [1],
        "zebras": [1],
    }
    assert "has 3,000 bytes" in left_out(settings)["public.payments"]
    source.execute("insert into cards values (2)")
    source.execute("delete from payments where id = 3")
    land(settings)
    assert (ids(settings, "cards"), ids(settings), left_out(settings)) == ([1, 2], [1, 2], {})


def test_a_value_that_the_server_cannot_write_fails_its_table_alone(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path)
    source.execute("create type mood as enum ('fine', 'gone')")
    source.execute("create table moods (id int primary key, mood mood)")
    source.execute("insert into moods values (1, 'fine'), (2, 'gone')")
    source.execute("insert into payments (note) values ('a')")
    source.execute("delete from pg_enum where enumlabel = 'gone'")
    land(settings)
    assert ids(settings) == [1]
    assert "invalid internal value for enum" in left_out(settings)["public.moods"]
    source.execute("update moods set mood = 'fine' where id = 2")
    land(settings)
    assert (ids(settings, "moods"), left_out(settings)) == ([1, 2], {})


def test_changes_that_cannot_be_decoded_fail_their_table_alone(
    database: str, source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fraud_lakehouse.sources.postgres.pgoutput import decode as pgoutput

    settings = settings_of(database, tmp_path)
    source.execute("create table cards (id int primary key)")
    source.execute("insert into payments (note) values ('a')")
    land(settings)
    whole = pgoutput.union

    def broken(name: str, *arguments: object) -> object:
        if name == "payments":
            raise pl.exceptions.ComputeError("cannot be decoded")
        return whole(name, *arguments)  # type: ignore[arg-type]

    source.execute("insert into payments (note) values ('b')")
    source.execute("insert into cards values (1)")
    with monkeypatch.context() as patch:
        patch.setattr(pgoutput, "union", broken)
        with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
            ingest.step(100)
            assert ids(settings, "cards") == [1]
            assert ids(settings) == [1]
            assert "decoding changes of public.payments failed" in left_out(settings)["public.payments"]
            ingest.step(100)
    assert (ids(settings), left_out(settings)) == ([1, 2], {})


def test_a_right_that_is_taken_away_leaves_the_table_out_until_it_is_back(
    postgres: EmbeddedPostgres, database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    role = "one_table_reader"
    source.execute(f"drop role if exists {role}")
    source.execute(f"create role {role} login replication password 'x'")
    try:
        source.execute("create table cards (id int primary key, owner text)")
        source.execute(f"grant select on payments, cards to {role}")
        source.execute("create publication fraud_lakehouse for table only payments, only cards")
        settings = settings_of(make_conninfo(database, user=role, password="x"), tmp_path)
        land(settings)
        source.execute(f"revoke select on payments from {role}")
        source.execute("alter table cards enable row level security")
        source.execute("insert into payments (note) values ('a')")
        source.execute("insert into cards values (1, 'b')")
        source.execute("create table others (id int primary key)")
        source.execute(f"grant select on others to {role}")
        source.execute("alter publication fraud_lakehouse add table only others")
        source.execute("insert into others values (1)")
        land(settings)
        assert ids(settings, "others") == [1]
        problems = left_out(settings)
        assert "may not read table public.payments" in problems.pop("public.payments")
        assert "row level security hides rows of table public.cards" in problems.pop("public.cards")
        assert problems == {}
        source.execute(f"grant select on payments to {role}")
        source.execute("alter table cards disable row level security")
        land(settings)
        assert (ids(settings), ids(settings, "cards"), left_out(settings)) == ([1], [1], {})
    finally:
        source.execute(f"drop owned by {role}")
        source.execute(f"drop role {role}")


def test_a_table_under_vacuum_does_not_hold_up_the_very_first_snapshot(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    """No publication takes it meanwhile."""
    settings = settings_of(database, tmp_path)
    for name in ("cards", "zebras"):
        source.execute(sql.SQL("create table {} (id int primary key)").format(sql.Identifier(name)))
        source.execute(sql.SQL("insert into {} values (1)").format(sql.Identifier(name)))
    with closing(psycopg.connect(database)) as holder:
        holder.execute("lock table payments in share update exclusive mode")
        land(settings)
        source.execute("insert into cards values (2)")
        land(settings)
        assert (ids(settings, "cards"), ids(settings, "zebras")) == ([1, 2], [1])
        assert left_out(settings) == {"public.payments": "table public.payments is locked by another session"}
    source.execute("insert into payments (note) values ('a')")
    land(settings)
    assert (ids(settings), left_out(settings)) == ([1], {})


def test_a_locked_partition_holds_up_nothing(database: str, source: psycopg.Connection, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path)
    source.execute("create table parts (id int primary key) partition by range (id)")
    source.execute("create table parts_1 partition of parts for values from (0) to (10)")
    source.execute("insert into parts values (1)")
    land(settings)
    with closing(psycopg.connect(database)) as holder:
        holder.execute("lock table only parts_1 in access exclusive mode")
        source.execute("insert into payments (note) values ('a')")
        done = threading.Thread(target=land, args=(settings,), daemon=True)
        done.start()
        done.join(60)
        assert not done.is_alive()
    assert ids(settings) == [1]


def test_what_has_no_changes_in_the_log_is_named_with_the_reason(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    source.execute("create view seen as select * from payments")
    source.execute("create materialized view kept as select * from payments")
    source.execute("create unlogged table quick (id int primary key)")
    source.execute("create table parts (id int primary key) partition by range (id)")
    source.execute("create unlogged table parts_1 partition of parts for values from (0) to (10)")
    source.execute("create extension postgres_fdw")
    source.execute("create server far foreign data wrapper postgres_fdw")
    source.execute("create foreign table far_away (id int) server far")
    names = ("payments", "seen", "kept", "quick", "parts", "far_away")
    settings = settings_of(database, tmp_path, postgres_tables=",".join(names))
    land(settings)
    assert left_out(settings) == {
        "public.seen": "public.seen is a view, of which the server's log has no changes",
        "public.kept": "public.kept is a materialized view, of which the server's log has no changes",
        "public.far_away": "public.far_away is a foreign table, of which the server's log has no changes",
        "public.quick": "table public.quick is not written to the log (unlogged)",
        "public.parts": "partition parts_1 of table public.parts is not in the log (foreign or unlogged)",
    }


@pytest.fixture
def bytes_database(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A database that takes any bytes for text."""
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("drop database if exists any_bytes with (force)")
        connection.execute("create database any_bytes encoding 'SQL_ASCII' locale 'C' template template0")
        with psycopg.connect(make_conninfo(postgres.dsn, dbname="any_bytes"), autocommit=True) as source:
            yield source
        slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = 'any_bytes'"
        connection.execute(slots)
        connection.execute("drop database any_bytes with (force)")


def test_bytes_that_are_no_text_are_kept_exactly(
    postgres: EmbeddedPostgres, bytes_database: psycopg.Connection, tmp_path: Path
) -> None:
    source = bytes_database
    source.execute("create table notes (id int primary key, note text)")
    source.execute('create table "Überweisung" (id int primary key)'.encode())
    values = [b"caf\xe9", b"caf\\xe9", "é🙂".encode(), b"\xff\xfe\t\n\\x\xe9\\", b"tab\there", b"", b"\x80" * 3000]

    def insert(first: int) -> None:
        for number, value in enumerate(values):
            source.execute("insert into notes values (%s, convert_from(%s, 'SQL_ASCII'))", (first + number, value))

    settings = settings_of(make_conninfo(postgres.dsn, dbname="any_bytes"), tmp_path)
    insert(0)
    source.execute("insert into notes values (99, null)")
    land(settings)
    insert(100)
    source.pgconn.exec_(b'create table "caf\xe9" (id int primary key)')
    source.pgconn.exec_(b'create table odd (id int primary key, "\xe9" int)')
    source.execute("insert into odd values (1, 1)")
    source.execute('insert into "Überweisung" values (1)'.encode())
    land(settings)
    found = bronze(settings, "notes")
    rows = {row["id"]: (row["note"], row["_text"]) for row in found.iter_rows(named=True)}
    assert rows[99] == (None, None)
    for number, value in enumerate(values):
        try:
            expected = value.decode(), None
        except UnicodeDecodeError:
            expected = value.decode(errors="backslashreplace"), '{"note": "\\\\x' + value.hex() + '"}'
        assert rows[number] == expected
        assert rows[100 + number] == expected, "the log says what the snapshot says"
    assert set(left_out(settings)) == {r"public.caf\xe9", "public.odd"}
    report = resync(settings, Lake.at(settings.lake), ["notes"])
    assert report.found["notes"].rows == 15
    assert bronze(settings, "notes").height == 15, "it finds no difference"


def test_a_table_keeps_its_name_in_the_lake_when_one_spelt_alike_is_dropped(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path)
    source.execute('create table "Cards" (id int primary key)')
    source.execute("create table cards (id int primary key)")
    source.execute('insert into "Cards" values (1)')
    source.execute("insert into cards values (2)")
    land(settings)
    (other,) = [name for name in Lake.at(settings.lake).tables("bronze") if name.startswith("cards_")]
    source.execute("insert into cards values (3)")
    source.execute('insert into "Cards" values (4)')
    source.execute('drop table "Cards"')
    for _ in range(2):
        land(settings)
    assert sorted(bronze(settings, "Cards")["id"]) == [1, 4], "its last events too"
    source.execute('create table "Cards" (id int primary key)')
    source.execute('insert into "Cards" values (5)')
    source.execute("drop table cards")
    land(settings)
    assert sorted(bronze(settings, other)["id"]) == [2, 3]
    assert ids(settings, "Cards") == [5]
    assert sorted(name for name in Lake.at(settings.lake).tables("bronze") if "ards" in name) == ["Cards", other]
