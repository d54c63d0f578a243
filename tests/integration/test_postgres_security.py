"""The path from PostgreSQL: least rights, TLS that is checked, fields of bounded size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.defs.positions import new_data
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest import PostgresIngest, forget_postgres_slot, resync
from fraud_lakehouse.ingest import postgres as ingest_postgres
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import PostgresUnreachableError, ReplicationRightError
from fraud_lakehouse.storage.lake import Lake
from tests.integration.tls_front import TlsFront, make_certificate

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-source.md"


@dataclass
class Landing:
    """Lands a database in a lake of its own, each call in a new process' place."""

    dsn: str
    slot: str
    lake: Path

    def settings(self, **values: object) -> Settings:
        """Those of this lake."""
        own = {
            "lake": str(self.lake),
            "postgres_dsn": self.dsn,
            "postgres_slot": self.slot,
            "work": self.lake / "_work",
        }
        return Settings(**own | values)

    def land(self, **values: object) -> None:
        """Everything there is, then close."""
        configured = self.settings(**values)
        ingest = PostgresIngest(configured, Lake.at(self.lake))
        try:
            while ingest.step(configured.batch_rows):
                pass
        finally:
            ingest.close()

    def statement_for(self, table: str) -> str:
        """What `status` says would let a table be captured."""
        (postgres,) = collect(self.settings()).sources
        assert postgres.error is None
        (fix,) = [one["fix"] for one in postgres.left_out if one["table"] == table]
        return fix.removeprefix("let an owner of both run: ")

    def column(self, table: str, name: str) -> list[tuple[object, ...]]:
        """(id, value) in order; the newest event of an id comes last."""
        ingested = pl.read_delta(str(self.lake / "bronze" / table)).sort("_lsn", "_seq")
        return list(ingested.select("id", name).iter_rows())

    def rows(self, table: str) -> list[tuple[object, ...]]:
        """(op, id) in order."""
        ingested = pl.read_delta(str(self.lake / "bronze" / table)).sort("_lsn", "_seq")
        return list(ingested.select("_op", "id").iter_rows())


@pytest.fixture
def landing(database: str, tmp_path: Path) -> Landing:
    return Landing(database, str(conninfo_to_dict(database)["dbname"]), tmp_path / "lake")


@pytest.fixture
def bank(database: str, source: psycopg.Connection) -> Iterator[str]:
    """The connection string of the documented role, in a database closed to the public."""
    name = str(conninfo_to_dict(database)["dbname"])
    role = f"capture_{name}"
    source.execute("create table customers (id int primary key, name text)")
    source.execute("insert into payments values (1, 'a', 1), (2, 'b', 2)")
    source.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(name)))
    source.execute("revoke all on schema public from public")
    for statement in documented_rights():
        named = statement.replace("fraud_capture", role).replace("DATABASE bank", f"DATABASE {name}")
        source.execute(named.replace("'...'", "'secret'"))
    try:
        yield make_conninfo(database, user=role, password="secret")
    finally:
        source.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")
        source.execute(f"drop owned by {role}")
        source.execute(f"drop role {role}")


def documented_rights() -> list[str]:
    """The statements of the guide, so that what it says is what is tested."""
    block = re.search(r"```sql\n(CREATE ROLE fraud_capture.*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    return [statement.strip() for statement in block[1].split(";") if statement.strip()]


def test_the_documented_role_captures_and_can_do_nothing_else(
    bank: str, source: psycopg.Connection, landing: Landing
) -> None:
    landing.dsn = bank
    landing.land()
    source.execute("insert into payments values (3, 'c', 3)")
    source.execute("update payments set note = 'd' where id = 1")
    landing.land()
    assert landing.rows("payments") == [("r", 1), ("r", 2), ("c", 3), ("u", 1)]
    source.execute("delete from payments where id = 2")
    landing.land()
    assert landing.rows("payments")[-1] == ("d", 2)
    with psycopg.connect(bank, autocommit=True) as connection:
        assert connection.execute("select count(*) from pg_control_system()").fetchone() == (1,), "needs no grant"
        for forbidden in (
            "insert into payments values (9, 'x', 9)",
            "update payments set note = 'x'",
            "delete from payments",
            "truncate payments",
            "drop table payments",
            "create table mine (id int)",
            "create schema mine",
            "drop publication fraud_lakehouse",
            "create role another",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(forbidden)


def test_a_table_the_role_may_not_add_holds_up_no_other_until_its_owner_adds_it(
    bank: str, source: psycopg.Connection, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_postgres, "NEW_TABLES_SECONDS", 0.0)
    role = conninfo_to_dict(bank)["user"]
    landing.dsn = bank
    landing.land()
    with PostgresIngest(landing.settings(), Lake.at(landing.lake)) as live:
        live.step(100)
        source.execute("create table cards (id int primary key)")
        source.execute("insert into cards values (1)")
        source.execute("insert into payments values (3, 'c', 3)")
        assert [item.table for item in live.step(100)] == ["payments"], "may not be read"
        assert landing.statement_for("public.cards").startswith('GRANT SELECT ON "public"."cards"')
        source.execute(f"grant select on cards to {role}")
        source.execute("insert into payments values (4, 'd', 4)")
        assert [item.table for item in live.step(100)] == ["payments"], "may not be added to the publication"
        mends = landing.statement_for("public.cards")
        assert mends == 'ALTER PUBLICATION "fraud_lakehouse" ADD TABLE ONLY "public"."cards"'
        source.execute("insert into payments values (5, 'e', 5)")
        landing.land()  # a new process
        assert new_data(postgres_source(landing.settings()), landing.settings()) is None
        with pytest.raises(ReplicationRightError, match=r"public\.cards is not in publication"):
            resync(landing.settings(), Lake.at(landing.lake), ["cards"])
        source.execute(mends)
        source.execute("insert into cards values (2)")
        assert [(item.table, item.rows) for item in live.step(100)] == [("cards", 2)], "picked up by itself"
    assert landing.rows("payments") == [("r", 1), ("r", 2), ("c", 3), ("c", 4), ("c", 5)]
    source.execute("insert into cards values (3)")
    landing.land()
    assert landing.rows("cards") == [("r", 1), ("r", 2), ("c", 3)]


def test_a_table_made_anew_that_the_role_may_not_add_holds_up_no_other(
    bank: str, source: psycopg.Connection, landing: Landing
) -> None:
    role = conninfo_to_dict(bank)["user"]
    landing.dsn = bank
    source.execute("insert into customers values (1, 'a'), (2, 'b')")
    landing.land()
    source.execute("update customers set name = 'c' where id = 1")
    source.execute("drop table customers")
    source.execute("create table customers (id int primary key, name text)")
    source.execute(f"grant select on customers to {role}")
    source.execute("insert into customers values (2, 'd')")
    source.execute("insert into payments values (3, 'c', 3)")
    landing.land()
    assert landing.rows("payments") == [("r", 1), ("r", 2), ("c", 3)]
    assert landing.rows("customers") == [("r", 1), ("r", 2), ("u", 1)], "what the log had of it before"
    source.execute(landing.statement_for("public.customers"))
    landing.land()
    assert sorted(landing.rows("customers")[3:]) == [("d", 1), ("r", 2)]
    source.execute("alter publication fraud_lakehouse drop table customers")
    source.execute("insert into customers values (5, 'e')")
    source.execute("insert into payments values (4, 'c', 3)")
    landing.land()
    assert landing.rows("payments")[-1] == ("c", 4)
    source.execute(landing.statement_for("public.customers"))
    landing.land()
    assert landing.rows("customers")[-1][1] == 5


def test_the_documented_role_resyncs_and_forgets_its_slot(
    bank: str, source: psycopg.Connection, landing: Landing
) -> None:
    landing.dsn = bank
    landing.land()
    source.execute("create table hidden (id int primary key)")  # not granted, not published: in nobody's way
    source.execute("alter table payments add column kind text default 'old'")
    landing.land()
    assert dict(landing.column("payments", "kind")) == {1: "old", 2: "old"}
    source.execute("insert into payments values (3, 'c', 3)")
    report = resync(landing.settings(), Lake.at(landing.lake), [])
    assert set(report.found) == {"customers", "payments"}
    assert forget_postgres_slot(landing.settings(), Lake.at(landing.lake))[1]
    source.execute("delete from payments where id = 1")
    landing.land()
    assert landing.rows("payments")[-1] == ("d", 1)
    (postgres,) = collect(landing.settings()).sources
    assert (postgres.error, postgres.wal_status) == (None, "reserved")
    assert [one["table"] for one in postgres.left_out] == ["public.hidden"]


@pytest.mark.parametrize(
    "missing, named",
    [("REPLICATION", "REPLICATION"), ("SELECT", "GRANT SELECT"), ("USAGE", "GRANT USAGE ON SCHEMA")],
)
def test_a_missing_right_is_named(
    bank: str, source: psycopg.Connection, landing: Landing, missing: str, named: str
) -> None:
    role = conninfo_to_dict(bank)["user"]
    taken = {
        "REPLICATION": f"alter role {role} noreplication",
        "SELECT": f"revoke select on payments from {role}",
        "USAGE": f"revoke usage on schema public from {role}",
    }
    source.execute(taken[missing])
    landing.dsn = bank
    if missing == "SELECT":  # the other table goes on
        landing.land()
        (postgres,) = collect(landing.settings()).sources
        assert [(one["table"], named in one["fix"]) for one in postgres.left_out] == [("public.payments", True)]
        return
    with pytest.raises(SourceError, match=named) as refused:
        landing.land()
    assert "secret" not in str(refused.value)
    assert missing != "REPLICATION" or isinstance(refused.value, ReplicationRightError)


def test_tls_is_checked_and_never_given_up(
    database: str, source: psycopg.Connection, landing: Landing, tmp_path: Path
) -> None:
    source.execute("insert into payments values (1, 'a', 1)")
    certificate, key = make_certificate(tmp_path, "db.test")
    stranger, _ = make_certificate(tmp_path, "stranger.test")
    port = int(str(conninfo_to_dict(database)["port"]))
    with TlsFront(port, certificate, key) as front:
        secure = {"hostaddr": "127.0.0.1", "port": front.port, "sslmode": "verify-full", "gssencmode": "disable"}
        for wrong in ({"host": "db.test", "sslrootcert": stranger}, {"host": "other.test", "sslrootcert": certificate}):
            landing.dsn = make_conninfo(database, **{**secure, **wrong})
            with pytest.raises(PostgresUnreachableError, match="certificate"):
                landing.land()
        assert landing.lake.exists() is False or not list(landing.lake.glob("bronze/*"))
        landing.dsn = make_conninfo(database, host="db.test", sslrootcert=certificate, **secure)
        landing.land()
        source.execute("insert into payments values (2, 'b', 2)")
        landing.land()
        assert front.encrypted >= 4, "queries and replication both"
    assert landing.rows("payments") == [("r", 1), ("c", 2)]
    landing.dsn = make_conninfo(database, sslmode="require")
    with pytest.raises(PostgresUnreachableError, match="SSL"):
        landing.land()


def test_a_wrong_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_field_bytes"):
        Settings(max_field_bytes=0)


Open = Callable[..., PostgresCapture]


def test_nothing_but_the_place_of_a_source_shows(capture_of: Open, database: str) -> None:
    secret = "hunter2-s3cret"
    capture = capture_of(make_conninfo(database, password=secret))
    with pytest.raises(Exception, match="refuses the login") as refused:
        capture.preflight()
    assert secret not in f"{refused.value!r} {refused.value} {capture!r} {vars(capture)!r}"
    assert secret not in repr(Settings(postgres_dsn=f"postgresql://u:{secret}@h/d", alert_urls=f"json://u:{secret}@h"))
