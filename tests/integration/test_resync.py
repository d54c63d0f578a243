"""After a loss, or a change the log does not tell: bronze comes to the source's state, and nothing is taken back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest
from deltalake import DeltaTable

from fraud_lakehouse import failpoints
from fraud_lakehouse.ingest import PostgresIngest, resync
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.postgres.errors import SlotLostError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.integration.replayed import Replayed
from tests.integration.test_end_to_end import create_bank, lake_rows, operate, source_rows
from tests.interruption import Crash, crash

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
POINTS = ("resync.after_copy", "resync.before_commit", "resync.after_table", "resync.after_position")


def settings_of(database: str, tmp_path: Path, **values: Any) -> Settings:
    slot = f"s_{uuid4().hex[:12]}"
    return load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=slot, **values)


def land(settings: Settings) -> None:
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        while ingest.step(1000):
            pass


def bronze(settings: Settings, table: str) -> pl.DataFrame:
    return pl.read_delta(f"{settings.lake}/bronze/{table}").sort("_lsn", "_seq")


def state(settings: Settings, table: str, key: str) -> list[dict[str, Any]]:
    """The rows that the events of bronze give, replayed one by one."""
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        info = next(one for one in ingest.capture.tables() if one.name == table)
    replayed = Replayed()
    replayed.may_repeat = True
    events = bronze(settings, table).drop("_ingested_at").select(*info.frame_schema)
    for frame in events.partition_by("_lsn", maintain_order=True):
        replayed.apply(info, frame)
    return sorted(replayed.rows[table].values(), key=lambda row: row[key])


def audited(settings: Settings) -> list[str]:
    return [row.event for row in Audit(Lake.at(settings.lake)).rows("bank")]


@contextmanager
def invalidated(connection: psycopg.Connection, slot: str) -> Iterator[None]:
    """Inside, the server has given the slot up because it kept too much log."""
    connection.execute("create table if not exists elsewhere_noise (note text)")
    connection.execute("alter system set max_slot_wal_keep_size = '1MB'")
    connection.execute("select pg_reload_conf()")
    try:
        for _ in range(4):
            connection.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 1000000))")
            connection.execute("select pg_switch_wal()")
        connection.execute("checkpoint")
        status = connection.execute("select wal_status from pg_replication_slots where slot_name = %s", [slot])
        assert status.fetchone() == ("lost",)
        yield
    finally:
        connection.execute("alter system reset max_slot_wal_keep_size")
        connection.execute("select pg_reload_conf()")


def test_an_invalidated_slot_is_resynced_and_silver_history_and_alerts_hold(database: str, tmp_path: Path) -> None:
    create_bank(database, users=20, transactions=200)
    settings = settings_of(database, tmp_path, postgres_tables="users,transactions")
    with psycopg.connect(database, autocommit=True) as connection, Cycle(settings) as cycle:
        cycle.catch_up()
        operate(database, seed=1, operations=30)
        cycle.catch_up()
        before = bronze(settings, "transactions")
        versions = pl.read_delta(f"{settings.lake}/silver/transactions_history")
        alerts = pl.read_delta(f"{settings.lake}/gold/alerts").sort("alert_id")
        with invalidated(connection, settings.postgres_slot):
            operate(database, seed=2, operations=30)
            with pytest.raises(SlotLostError, match="fraud-lakehouse resync"):
                cycle.catch_up()
        report = resync(settings, Lake.at(settings.lake), [])
        assert report.found["users"].changed == 0
        assert report.found["transactions"].new > 0 and report.found["transactions"].gone > 0
        operate(database, seed=3, operations=30)
        cycle.catch_up()
    key = "transaction_id"
    assert lake_rows(settings, "transactions", key) == source_rows(database, "transactions", key)
    assert lake_rows(settings, "users", "user_id") == source_rows(database, "users", "user_id")
    after = bronze(settings, "transactions")
    assert after.head(before.height).equals(before), "no event of bronze was taken back"
    assert not after.select("_lsn", "_seq").is_duplicated().any()
    history = pl.read_delta(f"{settings.lake}/silver/transactions_history")
    place = [key, "_lsn", "_seq"]
    assert versions.join(history, on=place, how="anti").is_empty(), "every known version is still there"
    closed = versions.filter(pl.col("valid_to").is_not_null())
    assert closed.join(history, on=[*place, "valid_to"], how="anti").is_empty(), "and ended when it did"
    alerts_now = pl.read_delta(f"{settings.lake}/gold/alerts").sort("alert_id")
    assert alerts_now["alert_id"].is_unique().all()
    assert alerts_now.filter(pl.col("alert_id").is_in(alerts["alert_id"].implode())).equals(alerts)
    assert audited(settings)[-3:] == ["slot_lost", "resync_started", "resync"]


def test_a_resync_of_an_intact_table_appends_nothing_while_the_log_goes_on(database: str, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table items (id int primary key, note text, body text)")
        connection.execute("alter table items alter body set storage external")
        connection.execute("insert into items select i, 'n', repeat('b', 9000) from generate_series(1, 50) i")
        land(settings)
        connection.execute("update items set note = 'u' where id % 2 = 0")  # the body is not in the log
        connection.execute("delete from items where id % 7 = 0")
        stop = threading.Event()

        def write() -> None:
            with psycopg.connect(database, autocommit=True) as writer:
                number = 1000
                while not stop.wait(0.01):
                    number += 1
                    writer.execute("insert into items values (%s, 'w', 'b')", [number])
                    writer.execute("update items set note = note || 'w' where id = %s", [number])

        writing = threading.Thread(target=write)
        writing.start()
        try:
            reports = [resync(settings, Lake.at(settings.lake), ["items"]) for _ in range(3)]
        finally:
            stop.set()
            writing.join()
        found = [report.found["items"] for report in reports]
        assert all((one.new, one.changed, one.gone) == (0, 0, 0) for one in found)
        assert all(item.rows for report in reports for item in report.ingested)
        land(settings)
        version = DeltaTable(f"{settings.lake}/bronze/items").version()
        resync(settings, Lake.at(settings.lake), [])
        assert DeltaTable(f"{settings.lake}/bronze/items").version() == version, "not even a commit"
        rows = connection.execute("select id, note, body from items order by id").fetchall()
    assert [tuple(row.values()) for row in state(settings, "items", "id")] == rows
    assert set(bronze(settings, "items").filter(pl.col("_lsn") > reports[0].lsn)["_op"]) == {"c", "u"}


def test_changes_that_the_log_does_not_tell_are_found_at_the_next_look(database: str, tmp_path: Path) -> None:
    settings = settings_of(database, tmp_path)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table items (id int primary key, note text)")
        connection.execute("create table kept (id int primary key)")
        connection.execute("insert into items select i, 'n' from generate_series(1, 20) i")
        land(settings)
        kept = DeltaTable(f"{settings.lake}/bronze/kept").version()
        connection.execute("drop table items")
        connection.execute("create table items (id int primary key, note text)")
        connection.execute("insert into items select i, 'again' from generate_series(11, 30) i")
        land(settings)
        connection.execute("insert into items values (31, 'logged')")
        land(settings)
        connection.execute("alter table items alter note type text using note || '!'")
        land(settings)
        rows = connection.execute("select id, note from items order by id").fetchall()
        assert [tuple(row.values()) for row in state(settings, "items", "id")] == rows
        connection.execute("alter table items add column added int default 7")
        land(settings)
        rows = connection.execute("select id, note, added from items order by id").fetchall()
        assert [tuple(row.values()) for row in state(settings, "items", "id")] == rows
    resyncs = [row.detail["tables"] for row in Audit(Lake.at(settings.lake)).rows("bank") if row.event == "resync"]
    assert [list(tables) for tables in resyncs] == [["items"], ["items"], ["items"]]
    anew = resyncs[0]["items"]
    assert "dropped and recreated" in anew["because"]
    assert (anew["gone"], anew["changed"], anew["new"]) == (10, 10, 10)
    assert DeltaTable(f"{settings.lake}/bronze/kept").version() == kept


@pytest.mark.parametrize("slot_is_lost", [True, False])
def test_a_resync_killed_anywhere_is_done_again(database: str, tmp_path: Path, slot_is_lost: bool) -> None:
    settings = settings_of(database, tmp_path)
    with psycopg.connect(database, autocommit=True) as connection:
        for table in ("a", "b"):
            connection.execute(f"create table {table} (id int primary key, note text)")
            connection.execute(f"insert into {table} select i, 'n' from generate_series(1, 10) i")
        land(settings)
        for number, point in enumerate(POINTS):
            if slot_is_lost:
                connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
            else:
                connection.execute("alter publication fraud_lakehouse drop table a, b")
            connection.execute("update a set note = note || %s where id %% 2 = 0", [str(number)])
            connection.execute("delete from b where id = %s", [number + 1])
            failpoints.arm(point, 1, crash)
            with pytest.raises(Crash):
                resync(settings, Lake.at(settings.lake), [])
            failpoints.disarm()
            land(settings)  # not asked for again: what was given up, or changed unseen, is resynced by itself
            for table in ("a", "b"):
                rows = connection.execute(f"select id, note from {table} order by id").fetchall()
                assert [tuple(row.values()) for row in state(settings, table, "id")] == rows
                events = bronze(settings, table)
                assert not events.select("_lsn", "_seq").is_duplicated().any()
    assert not list(settings.work_dir.glob("resync-*"))
    deleted = bronze(settings, "b").filter(pl.col("_op") == "d")["id"]
    assert sorted(deleted) == [1, 2, 3, 4], "each once"
