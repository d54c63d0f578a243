"""A table that cannot be captured holds up no other, and a restart does not change that; each is told with its cure."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.defs.positions import new_data
from fraud_lakehouse.ingest import PostgresIngest, forget_postgres_slot, resync
from fraud_lakehouse.ingest import postgres as ingest_postgres
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres import table_lock as postgres_hold
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.storage.lake import Lake
from tests.integration.test_resync import audited, bronze, land, settings_of, state

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]


@pytest.fixture
def settings(database: str, source: psycopg.Connection, tmp_path: Path) -> Settings:
    """A lake that has payments with one row."""
    source.execute("insert into payments (note) values ('a')")
    settings = settings_of(database, tmp_path)
    land(settings)
    return settings


def notes(settings: Settings) -> list[str]:
    return [row["note"] for row in state(settings, "payments", "id")]


def left_out(settings: Settings) -> dict[str, str]:
    """What `status` says of the tables that are left out: what mends each."""
    (postgres,) = collect(settings).sources
    assert postgres.error is None
    return {one["table"]: one["fix"] for one in postgres.left_out}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "not captured" in one.getMessage()]


def test_a_new_process_goes_on_beside_a_table_without_a_key(
    settings: Settings, source: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    source.execute("create table tmp as select 1 as id")
    for number in (1, 2):
        source.execute("insert into payments (note) values ('b')")
        with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
            for _ in range(3):
                ingest.step(1000)
            assert len(told(caplog)) == number, "once in each process's log"
    assert 'ALTER TABLE "public"."tmp" ADD PRIMARY KEY' in told(caplog)[0]
    assert notes(settings) == ["a", "b", "b"]
    assert 'ALTER TABLE "public"."tmp" ADD PRIMARY KEY' in left_out(settings)["public.tmp"]
    assert "left out public.tmp: table public.tmp has no primary key" in render(collect(settings))
    assert new_data(postgres_source(settings), settings) is None, "and it keeps requesting no run"
    forget_postgres_slot(settings, Lake.at(settings.lake))
    source.execute("insert into payments (note) values ('c')")
    land(settings)
    resync(settings, Lake.at(settings.lake), [])
    with pytest.raises(SourceTableError, match=r"table public\.tmp has no primary key"):
        resync(settings, Lake.at(settings.lake), ["tmp"])
    assert notes(settings) == ["a", "b", "b", "c"]
    source.execute("alter table tmp add primary key (id)")
    land(settings)
    assert state(settings, "tmp", "id") == [{"id": 1}]
    assert left_out(settings) == {}


def test_the_very_first_start_goes_on_without_a_table_that_has_no_key(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path)
    source.execute("create table tmp (id int)")
    source.execute("insert into payments (note) values ('a')")
    land(settings)
    assert notes(settings) == ["a"]
    assert list(left_out(settings)) == ["public.tmp"]


def test_a_start_without_any_table_to_capture_says_why(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    source.execute("alter table payments drop constraint payments_pkey")
    with pytest.raises(SourceTableError, match=r"table public\.payments has no primary key"):
        land(settings_of(database, tmp_path))


def test_a_captured_table_that_loses_its_key_is_resynced_once_it_has_one(
    settings: Settings, source: psycopg.Connection
) -> None:
    source.execute("create table cards (id int primary key)")
    land(settings)
    source.execute("alter table payments drop constraint payments_pkey")
    source.execute("insert into payments (note) values ('b')")
    source.execute("insert into cards values (1)")
    for _ in range(2):  # each a new process
        land(settings)
    assert new_data(postgres_source(settings), settings) is None
    assert [row["id"] for row in state(settings, "cards", "id")] == [1], "other tables go on"
    assert bronze(settings, "payments")["note"].to_list() == ["a"]
    assert "ADD PRIMARY KEY" in left_out(settings)["public.payments"]
    source.execute("alter table payments add primary key (id)")
    land(settings)
    assert notes(settings) == ["a", "b"]
    assert bronze(settings, "payments")["_op"].to_list() == ["r", "r"]
    assert left_out(settings) == {}
    source.execute("insert into payments (note) values ('c')")
    land(settings)
    assert bronze(settings, "payments")["_op"].to_list() == ["r", "r", "c"], "from then on the log is read again"


def test_a_table_named_in_the_settings_that_is_gone_holds_up_no_other(
    settings: Settings, source: psycopg.Connection
) -> None:
    source.execute("create table cards (id int primary key)")
    source.execute("insert into cards values (1)")
    named = settings.model_copy(update={"postgres_tables": ("payments", "cards")})
    land(named)
    source.execute("insert into cards values (2)")
    source.execute("drop table cards")
    source.execute("insert into payments (note) values ('b')")
    land(named)
    assert notes(named) == ["a", "b"]
    assert bronze(named, "cards")["id"].to_list() == [1, 2], "the log's last events of it too"
    assert "or create the table" in left_out(named)["public.cards"]
    source.execute("create table cards (id int primary key)")
    source.execute("insert into cards values (3)")
    land(named)
    assert state(named, "cards", "id") == [{"id": 3}]
    assert left_out(named) == {}


def test_a_table_made_anew_without_a_key_is_left_out_of_the_log_until_it_has_one(
    database: str, source: psycopg.Connection, tmp_path: Path
) -> None:
    """The publication has every table, so the log has changes of it."""
    settings = settings_of(database, tmp_path)
    source.execute("create publication fraud_lakehouse for all tables with (publish_via_partition_root = true)")
    source.execute("create table cards (id int primary key, kind text)")
    source.execute("insert into cards values (1, 'x')")
    land(settings)
    source.execute("insert into cards values (2, 'x')")
    source.execute("drop table cards")
    source.execute("create table cards (id int, colour int)")
    source.execute("insert into cards values (3, 7)")
    source.execute("insert into payments (note) values ('a')")
    for _ in range(2):
        land(settings)
    assert notes(settings) == ["a"]
    assert bronze(settings, "cards").select("id", "kind").rows() == [(1, "x"), (2, "x")]
    source.execute("alter table cards add primary key (id)")
    source.execute("insert into cards values (4, 8)")
    land(settings)
    assert state(settings, "cards", "id") == [{"id": 3, "colour": 7}, {"id": 4, "colour": 8}]
    assert audited(settings)[-1] == "resync"


def test_a_table_that_somebody_has_locked_holds_up_no_other(
    database: str, source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publication has every table, so the log has changes of it before its snapshot."""
    monkeypatch.setattr(postgres_hold, "LOCK_SECONDS", 1)
    for name in ("NEW_TABLES_SECONDS", "BUSY_SECONDS"):
        monkeypatch.setattr(ingest_postgres, name, 0.0)
    settings = settings_of(database, tmp_path)
    source.execute("create publication fraud_lakehouse for all tables with (publish_via_partition_root = true)")
    source.execute("insert into payments (note) values ('a')")
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest, psycopg.connect(database) as holder:
        ingest.step(100)
        source.execute("create table cards (id int primary key)")
        source.execute("insert into cards values (1)")
        holder.execute("lock table cards in access exclusive mode")
        for note in ("b", "c"):
            source.execute("insert into payments (note) values (%s)", (note,))
            assert [(item.table, item.rows) for item in ingest.step(100)] == [("payments", 1)]
        holder.rollback()
        assert [(item.table, item.rows) for item in ingest.step(100)] == [("cards", 1)]
        holder.execute("lock table payments in access exclusive mode")
        source.execute("insert into cards values (2)")
        assert [(item.table, item.rows) for item in ingest.step(100)] == [("cards", 1)]
        assert left_out(settings) == {}, "status does not wait either; the log of a locked table can be read"
        holder.rollback()
    assert bronze(settings, "cards")["_op"].to_list() == ["r", "c"]
    assert notes(settings) == ["a", "b", "c"]
