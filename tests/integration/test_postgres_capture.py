from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import STORED_IN_LOG
from fraud_lakehouse.sources.postgres.errors import (
    PostgresUnreachableError,
    SlotLostError,
    SourceTableError,
    TableWithoutPositionError,
)
from fraud_lakehouse.sources.postgres.slot_state import format_lsn
from tests.integration.replayed import Replayed, read_whole, source_rows
from tests.patience import PATIENCE

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]


def write_at_random(dsn: str, seed: int, stop: threading.Event, failures: list[BaseException]) -> None:
    """Inserts, updates, deletes, changed keys, toasted values and rollbacks."""
    chance = random.Random(seed)
    long = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=4000))
    statements = [
        (40, "insert into payments(note, amount) select %(note)s, %(amount)s from generate_series(1, 3)"),
        (10, "insert into payments(note, amount) values (%(long)s, 1) "),
        (20, "update payments set amount = %(amount)s where id %% 7 = %(n)s"),
        (10, "delete from payments where id %% 11 = %(n)s"),
        (8, "update payments set id = id + 1000000 where id = (select min(id) from payments)"),
        (5, "insert into other values (%(amount)s, %(note)s) on conflict (k) do update set v = excluded.v"),
    ]
    weights = [weight for weight, _ in statements]
    try:
        with psycopg.connect(dsn) as connection:
            while not stop.is_set():
                for _ in range(chance.randint(1, 4)):
                    statement = chance.choices(statements, weights)[0][1]
                    values = {"note": chance.choice([None, "", 'x\ty\\N\n"é']), "n": chance.randint(0, 6)}
                    connection.execute(statement, {**values, "amount": chance.randint(1, 10**6) / 100, "long": long})
                if chance.random() < 0.1:
                    connection.rollback()
                connection.commit()
    except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
        if not stop.is_set():
            write_at_random(dsn, seed + 1000, stop, failures)
    except BaseException as error:  # noqa: BLE001 - shown by the test
        failures.append(error)


def test_snapshot_and_log_meet_exactly_under_concurrent_writers(
    database: str, source: psycopg.Connection, capture_of: Open
) -> None:
    source.execute("create table other (k numeric(10,2) primary key, v text)")
    source.execute("alter table payments alter note set storage external")
    source.execute("insert into payments(note, amount) select 'n' || i, i from generate_series(1, 5000) i")
    stop, failures = threading.Event(), []
    writers = [threading.Thread(target=write_at_random, args=(database, seed, stop, failures)) for seed in (1, 2, 3)]
    for writer in writers:
        writer.start()
    model = Replayed()
    try:
        time.sleep(0.3)
        capture = capture_of(batch_rows=1000)
        capture.preflight()
        model.snapshot(capture)
        begin, emptied = time.monotonic(), False
        while time.monotonic() < begin + (3 if emptied else PATIENCE):  # the writers may win the first deadlocks
            if not emptied and time.monotonic() > begin + 1.5:
                with suppress(psycopg.errors.DeadlockDetected):
                    source.execute("truncate payments, other")
                    emptied = True
            capture.wait(0.5)
            batch = read_whole(capture, model.after, model.position, 500)
            if batch is None:
                continue
            model.land(batch)
            if random.Random(batch.end_lsn).random() < 0.5:
                capture.acknowledge(batch.end_lsn)
            if random.Random(batch.end_lsn).random() < 0.1:  # a new process: only the positions are left
                capture = capture_of()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    model.follow(capture)
    assert not failures
    assert {op for op, count in model.ops.items() if count} == set("rcudt")
    assert model.rows["payments"] == source_rows(database, "payments", ("id",))
    assert model.rows["other"] == source_rows(database, "other", ("k",))


def test_every_type_is_the_same_from_snapshot_and_log(
    database: str, source: psycopg.Connection, capture_of: Open
) -> None:
    source.execute("create type mood as enum ('fine', 'fraud')")
    source.execute("create domain cents as numeric(12,3) check (value > -1000)")
    source.execute("create domain account as varchar(34)")
    source.execute("drop table payments")
    source.execute(
        "create table kinds (id bigint primary key, i2 smallint, i4 int, money numeric(10,2), free numeric, f4 real,"
        " f8 double precision, flag boolean, words varchar(50), fixed char(5), day date, naive timestamp,"
        " moment timestamptz, clock time, u uuid, doc jsonb, raw bytea, state mood, many int[],"
        ' "Wei rd""" text, fee cents, iban account, row int, data int, lsn int,'
        " doubled int generated always as (i2 * 2) stored)"
    )
    insert = (
        "insert into kinds values (%s, -32768, 2147483647, 12345678.90, 0.1, 1.5, 0.1, true, 'a\tb\\n', 'ab',"
        " '2024-02-29', '2024-02-29 23:59:59.999999', '2024-02-29 23:59:59.999999+05', '12:34:56.789',"
        " '00000000-0000-0000-0000-00000000002a', '{\"k\": \"\\\\ \\u00e9\"}', '\\x00ff5c', 'fraud', '{1,NULL,3}',"
        " '', 1.125, 'DE1', 1, 2, 3)"
    )
    odd = (
        "insert into kinds (id, money, free, f8, day, naive, moment, words) values (%s, 'NaN', 1e100, 'Infinity',"
        " 'infinity', '0044-03-15 BC', '-infinity', null)"
    )
    source.execute(insert, (1,))
    source.execute(odd, (2,))
    model, capture = Replayed(), capture_of()
    frames = []
    with capture.snapshot() as snapshot:
        (table,) = snapshot.tables
        frames += list(snapshot.chunks(table))
        model.after, model.position = {"kinds": snapshot.lsn}, snapshot.lsn
    source.execute(insert, (1 + 10,))
    source.execute(odd, (2 + 10,))
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    both = pl.concat([*frames, batch.frames["kinds"]])
    snapshotted, logged = both.head(2), both.tail(2)
    assert snapshotted.drop("id", "_op", "_lsn", "_seq", "_committed_at").equals(
        logged.drop("id", "_op", "_lsn", "_seq", "_committed_at")
    )
    row = snapshotted.row(0, named=True)
    assert {name: row[name] for name in table.frame_schema if not name.startswith("_")} == {
        "id": 1,
        "i2": -32768,
        "i4": 2147483647,
        "money": Decimal("12345678.90"),
        "free": Decimal("0.100000000"),
        "f4": 1.5,
        "f8": 0.1,
        "flag": True,
        "words": "a\tb\\n",
        "fixed": "ab   ",
        "day": date(2024, 2, 29),
        "naive": datetime(2024, 2, 29, 23, 59, 59, 999999),  # noqa: DTZ001 - timestamp without zone
        "moment": datetime(2024, 2, 29, 18, 59, 59, 999999, UTC),
        "clock": "12:34:56.789",
        "u": "00000000-0000-0000-0000-00000000002a",
        "doc": '{"k": "\\\\ é"}',
        "raw": b"\x00\xff\x5c",
        "state": "fraud",
        "many": "{1,NULL,3}",
        'Wei rd"': "",
        "fee": Decimal("1.125"),
        "iban": "DE1",
        "row": 1,
        "data": 2,
        "lsn": 3,
        **({"doubled": -65536} if source.info.server_version >= STORED_IN_LOG else {}),
    }
    assert row["_text"] is None
    strange = snapshotted.row(1, named=True)
    assert strange["f8"] == float("inf")
    assert [strange[name] for name in ("money", "free", "day", "naive", "moment", "words")] == [None] * 6
    kept = json.loads(strange["_text"])
    assert kept.pop("free") == "1" + "0" * 100
    assert kept == {"money": "NaN", "day": "infinity", "naive": "0044-03-15 00:00:00 BC", "moment": "-infinity"}


def test_replica_identities(database: str, source: psycopg.Connection, capture_of: Open) -> None:
    source.execute("create table whole (id int primary key, note text)")
    source.execute("alter table whole replica identity full, alter note set storage external")
    source.execute("create table by_index (code text not null, n int)")
    source.execute("create unique index by_code on by_index (code)")
    source.execute("alter table by_index replica identity using index by_code")
    source.execute("create table parts (id int, region text, primary key (region, id)) partition by list (region)")
    source.execute("create table parts_eu partition of parts for values in ('eu')")
    source.execute("insert into parts values (1, 'eu')")
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    keys = {table.name: table.key for table in capture.tables()}
    assert keys == {"by_index": ("code",), "parts": ("region", "id"), "payments": ("id",), "whole": ("id",)}
    source.execute("insert into whole values (1, repeat('x', 9000)), (2, 'b')")
    source.execute("update whole set id = id + 10")
    source.execute("update whole set id = 20 where id = 11")
    source.execute("insert into by_index values ('a', 1), ('b', 2)")
    source.execute("update by_index set code = 'c' where code = 'a'")
    source.execute("delete from by_index where code = 'b'")
    source.execute("insert into parts values (2, 'eu')")
    source.execute("update parts set id = 3 where id = 1")
    model.follow(capture)
    for name, key in keys.items():
        assert model.rows[name] == source_rows(database, name, key)


def test_columns_come_and_go(database: str, source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    source.execute("insert into payments(note, amount) values ('old', 1)")
    source.execute("alter table payments add column kind text, drop column note")
    source.execute("insert into payments(amount, kind) values (2, 'new')")
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    assert batch.frames["payments"].select("id", "amount", "kind", "note").rows() == [
        (1, Decimal(1), None, "old"),
        (2, Decimal(2), "new", None),
    ]
    source.execute("alter table payments alter kind type int using 0")
    source.execute("insert into payments(amount, kind) values (3, 3)")
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    assert batch.frames["payments"].select("kind", "_text").rows() == [
        (None, None),
        (None, '{"kind": "new"}'),
        (3, None),
    ]


def test_a_new_table_joins_under_writes(database: str, source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    source.execute("create table late (id serial primary key, v int)")
    source.execute("insert into late(v) select i from generate_series(1, 1000) i")
    source.execute("insert into payments(note) values ('meanwhile')")
    (late,) = capture.new_tables()
    with capture.snapshot([late]):
        source.execute("update late set v = 0 where id <= 10")  # published, but its snapshot is thrown away
    with pytest.raises(TableWithoutPositionError, match=r"public\.late"):
        read_whole(capture, model.after, model.position, 1000)
    source.execute("update late set v = -1 where id = 20")
    model.snapshot(capture, [late])
    source.execute("delete from late where id > 990")
    model.follow(capture)
    assert capture.new_tables() == []
    assert model.rows["late"] == source_rows(database, "late", ("id",))
    assert model.rows["payments"] == source_rows(database, "payments", ("id",))


def test_a_table_made_anew_fails_closed(source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    source.execute("insert into payments(note) values ('old')")
    source.execute("drop table payments")
    source.execute("create table payments (id int primary key)")
    capture.tables()
    with pytest.raises(SourceTableError, match="dropped and recreated"):
        read_whole(capture, model.after, model.position, 100)


def test_a_peek_full_of_landed_transactions_goes_on(source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    for number in range(30):
        source.execute("insert into payments(note) select %s from generate_series(1, 10)", (str(number),))
    assert model.follow(capture, max_rows=10, acknowledge=False) > 3  # each peek holds all that was landed before
    assert len(model.rows["payments"]) == 300
    capture.acknowledge(model.position)
    assert capture.lag().bytes_behind == 0


def test_restarts_and_a_lost_acknowledgement(
    postgres: EmbeddedPostgres, database: str, source: psycopg.Connection, capture_of: Open
) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    for mode in ("fast", "immediate"):
        with psycopg.connect(database, autocommit=True) as writer:
            writer.execute("insert into payments(note) values (%s)", (mode,))
        model.follow(capture)
        postgres.stop(mode)
        postgres.start()
        with psycopg.connect(database, autocommit=True) as writer:
            writer.execute("insert into payments(note) values (%s)", (f"after {mode}",))
        assert capture.wait(5)
        model.follow(capture)
    assert model.rows["payments"] == source_rows(database, "payments", ("id",))
    assert len(model.rows["payments"]) == 4


def test_without_patience_a_server_that_is_away_is_an_error_at_once_and_a_restart_is_none(
    postgres: EmbeddedPostgres, source: psycopg.Connection, capture_of: Open
) -> None:
    capture = capture_of()
    Replayed().snapshot(capture)
    capture.set_blocking(False)
    postgres.stop("immediate")
    started = time.monotonic()
    with pytest.raises(PostgresUnreachableError):
        capture.wait(0.1)
    assert time.monotonic() - started < 5
    postgres.start()
    capture.wait(0.1)
    postgres.stop()
    postgres.start()
    capture.wait(0.1)  # the connection broke, the server is there


def test_wait_sees_that_the_slot_is_not_what_it_was(
    source: psycopg.Connection, capture_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.sources.postgres.capture._SLOT_SECONDS", 0.0)
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)

    def is_idle() -> bool:
        return model.follow(capture) == 0 and not capture.wait(0.2)

    source.execute("insert into payments(note) values ('n')")
    model.follow(capture)
    assert any(is_idle() for _ in range(5)), "our own acknowledgement is none"
    source.execute("insert into payments(note) values ('n')")
    model.follow(capture, acknowledge=False)
    assert any(is_idle() for _ in range(5))
    source.execute("select pg_replication_slot_advance(%s, %s)", (capture.slot, format_lsn(model.position)))
    assert capture.wait(0.2), "another reader"
    assert read_whole(capture, model.after, model.position, 1000) is None
    assert any(is_idle() for _ in range(5))
    source.execute("select pg_drop_replication_slot(%s)", (capture.slot,))
    assert capture.wait(0.2)
    with pytest.raises(SlotLostError):
        read_whole(capture, model.after, model.position, 1000)


def test_wait_sees_new_log_and_idle_log_can_be_passed(source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    # The server writes a line of its own now and then, but not all the time.
    assert any(model.follow(capture) == 0 and not capture.wait(0.3) for _ in range(3))
    source.execute("create schema elsewhere")
    source.execute("create table elsewhere.noise as select i from generate_series(1, 1000) i")
    assert capture.wait(1)
    batch = read_whole(capture, model.after, model.position, 1000)
    assert batch is not None
    assert batch.frames == {}
    assert batch.newest_committed_at is None
    capture.acknowledge(batch.end_lsn)
    assert capture.lag().confirmed_lsn == batch.end_lsn


def test_a_snapshot_that_dies_leaves_no_slot_and_is_done_again(
    database: str, source: psycopg.Connection, capture_of: Open
) -> None:
    source.execute("insert into payments(note) select 'x' from generate_series(1, 10)")
    capture = capture_of(batch_rows=3)

    def interrupted() -> None:
        with capture.snapshot() as snapshot:
            next(snapshot.chunks(snapshot.tables[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not capture.slot_exists()
    with capture.snapshot():
        pass  # as if killed: the slot stays, but the lake has no position
    assert capture.slot_exists()
    model = Replayed()
    model.snapshot(capture)
    assert model.rows["payments"] == source_rows(database, "payments", ("id",))
