"""What can stand between capture and a server: each message names the cause and the statement or step that helps."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest import PostgresIngest
from fraud_lakehouse.ingest import postgres as ingest_postgres
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import (
    PostgresLoginError,
    PostgresPoolerError,
    PostgresReadOnlyError,
    PostgresStandbyError,
    PostgresStartingError,
    ReplicationRightError,
    ServerLimitError,
    SlotLostError,
    SourceTableError,
)
from fraud_lakehouse.storage.lake import Lake
from tests.integration.test_resync import bronze, land, settings_of, state
from tests.pgbouncer import pgbouncer

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]


@pytest.fixture
def owner(database: str, source: psycopg.Connection[Any]) -> Iterator[str]:
    """The connection string of a role that owns the table and may replicate and make a publication."""
    name = str(conninfo_to_dict(database)["dbname"])
    role = f"owner_{name}"
    source.execute(f"create role {role} login replication password 'secret'")
    source.execute(f"grant create on database {name} to {role}")
    source.execute(f"alter table payments owner to {role}")
    try:
        yield make_conninfo(database, user=role, password="secret")
    finally:
        source.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")
        source.execute(f"reassign owned by {role} to postgres")
        source.execute(f"drop owned by {role}")
        source.execute(f"drop role {role}")


def role_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["user"])


def insert(source: psycopg.Connection[Any], count: int = 1) -> None:
    source.execute("insert into payments (note) select 'x' from generate_series(1, %s)", [count])


def ids(settings: Settings) -> list[int]:
    return [row["id"] for row in state(settings, "payments", "id")]


def refused(settings: Settings, kind: type[SourceError], *words: str) -> SourceError:
    """The error with which capture ends; it shows no password."""
    with pytest.raises(kind) as found:
        land(settings)
    for part in words:
        assert part in str(found.value), found.value
    assert "secret" not in str(found.value)
    return found.value


OPTIONS_DROPPED = "ignore_startup_parameters = options, extra_float_digits"


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
@pytest.mark.parametrize("more", ["", OPTIONS_DROPPED])
def test_a_connection_pooler_is_named_whatever_it_lets_through(
    database: str, source: psycopg.Connection[Any], tmp_path: Path, mode: str, more: str
) -> None:
    """One that drops the options of a session would also have dates read in another order than they are written."""
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-pgbouncer-"))
    try:
        with pgbouncer(database, home, mode, more) as pooled:
            settings = settings_of(pooled, tmp_path)
            refused(settings, PostgresPoolerError, "a connection pooler answers", "at the PostgreSQL server itself")
            (reported,) = collect(settings).sources
            assert "connection pooler" in str(reported.error)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_a_pooler_that_passes_sessions_and_no_replication_is_named(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg, "connect", refusing_replication(psycopg.connect))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key)")
    refused(settings_of(database, tmp_path), PostgresPoolerError, "unsupported startup parameter: replication")


def refusing_replication(connect: Callable[..., Any]) -> Callable[..., Any]:
    """As PgBouncer 1.20 to 1.22 answers: options pass, replication does not."""

    def pooled(*values: Any, **parameters: Any) -> Any:
        if "replication" in parameters:
            raise psycopg.OperationalError("FATAL:  unsupported startup parameter: replication")
        return connect(*values, **parameters)

    return pooled


@pytest.mark.parametrize("level", ["role", "database", "role in database"])
def test_read_only_sessions_are_named_with_the_statement_that_ends_them(
    database: str, source: psycopg.Connection[Any], owner: str, tmp_path: Path, level: str
) -> None:
    role, name = role_of(owner), str(conninfo_to_dict(database)["dbname"])
    altered, quoted = {
        "role": (f"role {role}", f'ROLE "{role}"'),
        "database": (f"database {name}", f'DATABASE "{name}"'),
        "role in database": (f"role {role} in database {name}", f'ROLE "{role}" IN DATABASE "{name}"'),
    }[level]
    source.execute(f"alter {altered} set default_transaction_read_only = on")
    settings = settings_of(owner, tmp_path)
    statement = f"ALTER {quoted} RESET default_transaction_read_only"
    reported = refused(settings, PostgresReadOnlyError, "default_transaction_read_only is on", statement)
    by_hand = reported.fix.partition("let an owner of the tables run: ")[2]
    if level == "role":  # a publication that is there already is all that is written
        source.execute(by_hand)
    else:
        source.execute("set default_transaction_read_only = off")
        source.execute(statement)
    insert(source)
    land(settings)
    insert(source)
    land(settings)
    assert ids(settings) == [1, 2]


def test_time_limits_of_a_role_do_not_cut_capture_off(
    source: psycopg.Connection[Any], owner: str, tmp_path: Path
) -> None:
    limits = ["statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"]
    limits += ["transaction_timeout"] if source.info.server_version >= 170000 else []
    for limit in limits:
        source.execute(f"alter role {role_of(owner)} set {limit} = '400ms'")
    insert(source)
    settings = settings_of(owner, tmp_path)
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        ingest.step(100)

        def backend() -> int:
            return ingest.capture._link.run(lambda connection: connection.info.backend_pid)

        before = backend()
        with ingest.capture.snapshot(ingest.capture.tables()) as snapshot:
            time.sleep(0.6)
            assert sum(frame.height for frame in snapshot.chunks(snapshot.tables[0])) == 1
        insert(source)
        assert sum(item.rows for item in ingest.step(100)) == 1
        assert backend() == before


def test_connections_that_are_used_up_are_named_and_tried_again(
    database: str, source: psycopg.Connection[Any], owner: str, tmp_path: Path
) -> None:
    role, name = role_of(owner), str(conninfo_to_dict(database)["dbname"])
    settings = settings_of(owner, tmp_path)
    source.execute(f"alter role {role} connection limit 0")
    refused(settings, ServerLimitError, "no connection left for this user", f'ALTER ROLE "{role}" CONNECTION LIMIT')
    source.execute(f"alter role {role} connection limit -1")
    source.execute(f"alter database {name} connection limit 0")
    refused(settings, ServerLimitError, f'ALTER DATABASE "{name}" CONNECTION LIMIT')
    source.execute(f"alter database {name} connection limit -1")
    insert(source)
    land(settings)
    assert ids(settings) == [1]


def test_replication_connections_that_are_used_up_are_named(
    postgres: EmbeddedPostgres, database: str, source: psycopg.Connection[Any], owner: str, tmp_path: Path
) -> None:
    settings = settings_of(owner, tmp_path)
    with ExitStack() as others:
        for _ in range(32):
            others.enter_context(psycopg.connect(database, replication="database", autocommit=True))
        refused(settings, ServerLimitError, "no replication connection left", "raise max_wal_senders")
    insert(source)
    land(settings)
    assert ids(settings) == [1]


@contextmanager
def slots_used_up(source: psycopg.Connection[Any], prefix: str) -> Iterator[None]:
    """Inside, the server has no replication slot left."""
    name, left = sql.Literal(f"{prefix}_"), "current_setting('max_replication_slots')::int - count(*)"
    row = source.execute(f"select {left} from pg_replication_slots").fetchone()  # type: ignore[call-overload]
    make = "select pg_create_physical_replication_slot({} || i) from generate_series(1, %s) i"
    source.execute(sql.SQL(make).format(name), [int(row[0])])
    try:
        yield
    finally:
        drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where starts_with(slot_name, {})"
        source.execute(sql.SQL(drop).format(name))


def test_slots_that_are_used_up_are_named_and_hold_up_only_what_needs_one(
    database: str, source: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_postgres, "NEW_TABLES_SECONDS", 0.0)
    monkeypatch.setattr(ingest_postgres, "BUSY_SECONDS", 0.0)
    settings = settings_of(database, tmp_path)
    with slots_used_up(source, "other"):
        error = refused(settings, ServerLimitError, "all 32 replication slots", "pg_drop_replication")
        named = str(error).splitlines()[0].split("nobody reads ")[1].split(", ")
        unread = source.execute("select slot_name from pg_replication_slots where not active").fetchall()
        assert set(named) == {name for (name,) in unread}
    insert(source)
    with PostgresIngest(settings, Lake.at(settings.lake)) as live:
        live.step(100)
        with slots_used_up(source, "other"):
            source.execute("create table later (id int primary key)")
            source.execute("insert into later values (1)")
            insert(source)
            assert [(item.table, item.rows) for item in live.step(100)] == [("payments", 1)], "the log goes on"
        assert [item.table for item in live.step(100)] == ["later"]
    assert ids(settings) == [1, 2]


@contextmanager
def admitted_by(server: EmbeddedPostgres, source: psycopg.Connection[Any], lines: Sequence[str]) -> Iterator[None]:
    """Inside, these lines are the server's pg_hba.conf."""
    path = server.data / "pg_hba.conf"
    before = path.read_text()
    path.write_text("\n".join([*lines, "host all postgres all scram-sha-256", ""]))
    reload(source)
    try:
        yield
    finally:
        path.write_text(before)
        reload(source)


def reload(source: psycopg.Connection[Any]) -> None:
    """Have the server read its configuration, and wait until it has."""
    (before,) = source.execute("select pg_conf_load_time()").fetchone() or (None,)
    source.execute("select pg_reload_conf()")
    while source.execute("select pg_conf_load_time()").fetchone() == (before,):
        time.sleep(0.01)


@pytest.mark.parametrize(
    "line, words",
    [
        ("hostssl all {role} all scram-sha-256", "add sslmode=require"),
        ("host all {role} all reject", "pg_hba.conf"),
        ("host elsewhere {role} all scram-sha-256", "add a line for this user"),
        ("host all {role} all ident", "refuses the login"),
    ],
)
def test_who_is_not_admitted_is_told_by_which_file(
    postgres: EmbeddedPostgres, source: psycopg.Connection[Any], owner: str, tmp_path: Path, line: str, words: str
) -> None:
    with admitted_by(postgres, source, [line.format(role=role_of(owner))]):
        refused(settings_of(owner, tmp_path), PostgresLoginError, words)


@pytest.mark.parametrize(
    "taken, given, kind",
    [
        ("alter role {role} nologin", 'ALTER ROLE "{role}" LOGIN', PostgresLoginError),
        (
            "revoke connect on database {database} from public, {role}",
            'GRANT CONNECT ON DATABASE "{database}" TO "{role}"',
            PostgresLoginError,
        ),
        ("alter role {role} noreplication", 'ALTER ROLE "{role}" REPLICATION', ReplicationRightError),
        ("revoke create on database {database} from {role}", "create publication", ReplicationRightError),
    ],
)
def test_the_statement_that_gives_a_missing_right_gives_it(
    database: str,
    source: psycopg.Connection[Any],
    owner: str,
    tmp_path: Path,
    taken: str,
    given: str,
    kind: type[SourceError],
) -> None:
    names = {"role": role_of(owner), "database": str(conninfo_to_dict(database)["dbname"])}
    source.execute(taken.format(**names))
    settings = settings_of(owner, tmp_path)
    reported = refused(settings, kind, given.format(**names))
    source.execute(reported.fix.partition(" (or ")[0].removeprefix("let an owner of the tables run: "))
    insert(source)
    land(settings)
    assert ids(settings) == [1]


def test_a_server_that_shuts_down_is_waited_for(
    postgres: EmbeddedPostgres, database: str, source: psycopg.Connection[Any], tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path)
    insert(source)
    land(settings)
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGTERM)  # waits for the session of `source`, and admits nobody
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(database).close()
        except psycopg.OperationalError:
            break
        assert time.monotonic() < deadline
    refused(settings, PostgresStartingError, "is shutting down", "capture continues")
    source.close()
    postgres.stop()
    postgres.start()
    with psycopg.connect(database, autocommit=True) as again:
        insert(again)
    land(settings)
    assert ids(settings) == [1, 2]


def test_a_standby_is_named_and_captured_once_it_is_promoted(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with EmbeddedPostgres(postgres.home / "standby", fsync=False, binaries=postgres.binaries) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("create table payments (id serial primary key, note text)")
            insert(connection)
        server.stop()
        mark, data = server.data / "standby.signal", server.data.stat()
        mark.touch()
        shutil.chown(mark, data.st_uid, data.st_gid)
        server.start()
        settings = settings_of(server.dsn, tmp_path)
        refused(settings, PostgresStandbyError, "is a standby", "at the primary")
        assert "is a standby" in str(collect(settings).sources[0].error)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("select pg_promote()")
        land(settings)
        assert ids(settings) == [1]


def test_a_slot_that_was_idle_for_too_long_is_named_with_its_setting(
    database: str, source: psycopg.Connection[Any], tmp_path: Path
) -> None:
    settings = settings_of(database, tmp_path)
    insert(source)
    land(settings)
    insert(source)
    if source.info.server_version < 180000:  # slots have no such limit there
        with PostgresCapture(settings, postgres_source(settings)) as capture:
            assert capture.retention().idle_limit_seconds is None
        return
    source.execute("alter system set idle_replication_slot_timeout = '1s'")
    reload(source)
    try:
        deadline = time.monotonic() + 60
        query = "select wal_status from pg_replication_slots where slot_name = %s"
        while source.execute(query, [settings.postgres_slot]).fetchone() != ("lost",):
            assert time.monotonic() < deadline
            time.sleep(0.2)
            source.execute("checkpoint")
        with pytest.raises(SlotLostError, match=r"idle_timeout.*nobody read it for as long as") as lost:
            land(settings)
    finally:
        source.execute("alter system reset idle_replication_slot_timeout")
        reload(source)
    assert lost.value.fix.startswith("raise idle_replication_slot_timeout")
    assert "max_slot_wal_keep_size" not in str(lost.value)


@pytest.mark.parametrize("running", [True, False])
def test_a_publication_that_left_operations_out_for_a_while_loses_nothing(
    database: str,
    source: psycopg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    running: bool,
) -> None:
    monkeypatch.setattr(ingest_postgres, "NEW_TABLES_SECONDS", 0.0)
    settings = settings_of(database, tmp_path)
    insert(source, 3)
    with PostgresIngest(settings, Lake.at(settings.lake)) as live:
        live.step(100)
        source.execute("alter publication fraud_lakehouse set (publish = 'insert, update')")
        source.execute("delete from payments where id = 1")
        if running:
            live.step(100)
            (ineligibility,) = live.capture.refused
            assert isinstance(ineligibility.error, SourceTableError)
            assert "does not publish every operation" in ineligibility.error.problem
            source.execute(ineligibility.error.fix)
        else:  # and put right before anybody saw it
            source.execute("alter publication fraud_lakehouse set (publish = 'insert, update, delete, truncate')")
        source.execute("delete from payments where id = 2")
        while live.step(100):
            pass
    assert ids(settings) == [3]
    assert sorted(bronze(settings, "payments")["_op"].to_list()) == ["d", "d", "r", "r", "r"]


def test_children_of_a_captured_table_that_are_not_captured_are_named(
    database: str, source: psycopg.Connection[Any], tmp_path: Path
) -> None:
    source.execute("create table refunds (primary key (id)) inherits (payments)")
    source.execute('create table "re Refunds" (primary key (id)) inherits (refunds)')
    insert(source)
    source.execute("insert into refunds (id, note) values (7, 'back')")
    settings = settings_of(database, tmp_path, postgres_tables="payments")
    land(settings)
    assert ids(settings) == [1], "the rows of a table are its own"
    report = collect(settings)
    left_out = {one["table"]: one for one in report.sources[0].left_out}
    assert set(left_out) == {"public.refunds", "public.re Refunds"}
    assert "inherits from public.payments" in left_out["public.refunds"]["problem"]
    assert "left out public.refunds" in render(report)
    whole = settings.model_copy(update={"postgres_tables": ("payments", "refunds", "re Refunds")})
    land(whole)
    assert [row["id"] for row in state(whole, "refunds", "id")] == [7]
    assert collect(whole).sources[0].left_out == []
