"""What can happen to a slot and its server behind capture's back: each is named, with positions and remedy."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from fraud_lakehouse.checks.slot_health import Level, SlotHealth, assess
from fraud_lakehouse.defs.positions import NewData, new_data
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest import PostgresIngest, accept, forget_postgres_slot, resync
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import (
    SlotAheadError,
    SlotForeignError,
    SlotInUseError,
    SlotLostError,
    SlotRenamedError,
    SourceIdentityError,
    TimelineError,
)
from fraud_lakehouse.sources.postgres.reader import PREDECESSOR_SECONDS
from fraud_lakehouse.sources.postgres.slot_state import format_lsn, parse_lsn
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import writer_lock
from tests.integration.test_resync import bronze, invalidated, land, settings_of, state
from tests.patience import PATIENCE

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]


def insert(dsn: str, count: int = 1) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(count):
            connection.execute("insert into payments (note) values ('x')")


def begin(dsn: str, tmp_path: Path, **values: Any) -> Settings:
    """A lake with a snapshot of one row and one row of the log."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key, note text)")
    insert(dsn)
    settings = settings_of(dsn, tmp_path, **values)
    land(settings)
    insert(dsn)
    land(settings)
    return settings


def opened(settings: Settings) -> PostgresCapture:
    return PostgresCapture(settings, postgres_source(settings))


def position(settings: Settings) -> str:
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        at = Batches(Lake.at(settings.lake)).position(ingest.capture.app_id)
    assert at is not None
    return format_lsn(at)


def ids(settings: Settings) -> list[int]:
    return [row["id"] for row in state(settings, "payments", "id")]


def slot_lsn(dsn: str, settings: Settings, column: str) -> str:
    with psycopg.connect(dsn) as connection:
        query = f"select {column}::text from pg_replication_slots where slot_name = %s"
        row = connection.execute(query, [settings.postgres_slot]).fetchone()
    assert row is not None
    return str(row[0])


def test_a_slot_dropped_or_created_anew_is_told_with_positions(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    at = position(settings)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
        insert(database)
        with pytest.raises(SlotLostError, match=rf"up to {at}: those from there to \S+ are not in the log") as lost:
            land(settings)
        assert "fraud-lakehouse resync" in lost.value.fix
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.postgres_slot])
        confirmed = slot_lsn(database, settings, "confirmed_flush_lsn")
        with pytest.raises(SlotAheadError, match=rf"up to {confirmed}.*lake has only {at}: it was dropped and re"):
            land(settings)
        resync(settings, Lake.at(settings.lake), [])
        insert(database)
        land(settings)
        assert ids(settings) == [1, 2, 3, 4]
        assert bronze(settings, "payments")["_op"].to_list() == ["r", "c", "r", "c"]
        connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
        connection.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", [settings.postgres_slot])
        with pytest.raises(SourceError, match="with plugin test_decoding"):
            land(settings)


def test_a_slot_in_use_is_told_with_positions_and_what_frees_it(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    at, lake = position(settings), Lake.at(settings.lake)
    insert(database)
    with PostgresIngest(settings, lake) as ingest, opened(settings) as other:
        reader = other._connector.connect(replication=True)
        options = "(proto_version '1', publication_names 'fraud_lakehouse')"
        reader.pgconn.exec_(f'START_REPLICATION SLOT "{other.slot}" LOGICAL 0/0 {options}'.encode())
        ingest.capture._slot.patience = 0.2
        kept, confirmed = (slot_lsn(database, settings, f"{name}_lsn") for name in ("restart", "confirmed_flush"))
        places = rf"acknowledged {confirmed}, keeps log from {kept}, log ends at \S+"
        held = rf"by pid {reader.info.backend_pid} \({places}, the lake has {at}\)"
        with pytest.raises(SlotInUseError, match=held) as in_use:
            ingest.step(100)
        with pytest.raises(SlotInUseError, match=held):
            ingest.capture.acknowledge(parse_lsn(at))
        assert "choose another name in FRAUD_POSTGRES_SLOT" in in_use.value.fix and "resync" in in_use.value.fix
        with psycopg.connect(database, autocommit=True) as connection:
            (freed,) = re.findall(r"select pg_terminate_backend\(\d+\)", in_use.value.fix)
            connection.execute(freed)
        ingest.capture._slot.patience = 10.0
        assert sum(item.rows for item in ingest.step(100)) == 1
        reader.close()
    assert ids(settings) == [1, 2, 3]


def test_a_slot_that_goes_away_just_before_it_is_read_is_told_with_positions(database: str, tmp_path: Path) -> None:
    """The checks before a peek name most losses; what happens between them and the peek is named as well."""
    settings = begin(database, tmp_path)
    at = position(settings)
    with (
        opened(settings) as capture,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        with invalidated(connection, settings.postgres_slot):
            confirmed = slot_lsn(database, settings, "confirmed_flush_lsn")
            reported = (
                rf"invalidated by the server .*\(acknowledged {confirmed}, keeps log from .*, the lake has {at}\)"
            )
            with pytest.raises(SlotLostError, match=reported) as lost:
                capture._slot.peek(connection, parse_lsn(at), 10)
            assert "fraud-lakehouse resync" in lost.value.fix
        connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
        with pytest.raises(SlotLostError, match=rf"up to {at}: those from there to \S+ are not in the log"):
            capture._slot.peek(connection, parse_lsn(at), 10)
        connection.execute("select pg_create_physical_replication_slot(%s)", [settings.postgres_slot])
        with pytest.raises(SourceError, match=rf"with plugin None \(acknowledged nowhere, .*, the lake has {at}\)"):
            capture._slot.peek(connection, parse_lsn(at), 10)
        connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])


def test_a_slot_of_another_name_takes_over_without_taking_anything_back(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    other = settings.model_copy(update={"postgres_slot": settings.postgres_slot + "_b"})
    insert(database)
    with pytest.raises(SlotRenamedError, match=f"through slot {settings.postgres_slot} of the same server"):
        land(other)
    resync(other, Lake.at(other.lake), [])
    insert(database)
    land(other)
    assert bronze(other, "payments")["id"].to_list() == [1, 2, 3, 4]
    with pytest.raises(SlotRenamedError):
        land(settings)


def test_a_second_lake_does_not_take_the_slot_of_the_first(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    second = settings.model_copy(update={"lake": str(tmp_path / "second")})
    with pytest.raises(SlotForeignError, match="another lake may be reading it"):
        land(second)
    insert(database)
    land(settings)
    assert ids(settings) == [1, 2, 3]
    assert forget_postgres_slot(second, Lake.at(second.lake))[1]
    land(second)
    assert ids(second) == [1, 2, 3]
    with pytest.raises(SlotAheadError, match="another lake reads it"):
        land(settings)


STOPPED_READER = """
import sys, time
from pathlib import Path
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.storage.writer_lock import writer_lock
from fraud_lakehouse.settings import load_settings

settings = load_settings()
with writer_lock(settings.work_dir, 0, "bank"), PostgresCapture(settings, postgres_source(settings)) as capture:
    reader = capture._connector.connect(replication=True)
    options = "(proto_version '1', publication_names 'fraud_lakehouse')"
    reader.pgconn.exec_(f'START_REPLICATION SLOT "{capture.slot}" LOGICAL 0/0 {options}'.encode())
    print("reading", flush=True)
    time.sleep(600)
"""


@pytest.mark.crash
def test_the_slot_of_a_process_that_was_stopped_and_replaced_is_free_for_its_successor(
    database: str, tmp_path: Path
) -> None:
    settings = begin(database, tmp_path)
    insert(database)
    environment = {**os.environ, **settings.environment()}
    with (
        subprocess.Popen(
            [sys.executable, "-c", STOPPED_READER], stdout=subprocess.PIPE, text=True, env=environment
        ) as stopped,
        PostgresIngest(settings, Lake.at(settings.lake)) as ingest,
    ):
        try:
            assert stopped.stdout is not None
            assert stopped.stdout.readline() == "reading\n"
            stopped.send_signal(signal.SIGSTOP)
            ingest.capture._slot.patience = PREDECESSOR_SECONDS + 1.0
            with pytest.raises(SlotInUseError):
                ingest.step(100)  # without the lease nobody's session is ended
            ingest.capture._slot.patience = 10.0
            with writer_lock(settings.work_dir, PATIENCE, "bank"):
                assert sum(item.rows for item in ingest.step(100)) == 1
        finally:
            stopped.kill()
    assert ids(settings) == [1, 2, 3]


def test_a_forgotten_slot_keeps_no_log_and_is_resynced_by_itself(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    lake = Lake.at(settings.lake)
    with (
        opened(settings) as capture,
        closing(capture._connector.connect(replication=True)) as reader,
    ):
        options = "(proto_version '1', publication_names 'fraud_lakehouse')"
        reader.pgconn.exec_(f'START_REPLICATION SLOT "{capture.slot}" LOGICAL 0/0 {options}'.encode())
        capture._slot.patience = 0.2
        with pytest.raises(SlotInUseError, match=rf"pid {reader.info.backend_pid}"):
            capture.drop_slot()
    assert forget_postgres_slot(settings, lake) == (settings.postgres_slot, True)
    assert forget_postgres_slot(settings, lake) == (settings.postgres_slot, False)
    insert(database)
    land(settings)
    assert ids(settings) == [1, 2, 3]
    assert [row.event for row in Audit(lake).rows("bank")][-3:] == ["slot_forgotten", "slot_forgotten", "resync"]


def test_a_live_process_goes_on_when_a_resync_moved_its_positions(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    lake = Lake.at(settings.lake)
    with PostgresIngest(settings, lake) as live:
        live.step(100)
        insert(database)
        resync(settings, lake, [])
        insert(database)
        assert sum(item.rows for item in live.step(100)) == 1
        forget_postgres_slot(settings, lake)
        insert(database)
        with pytest.raises(SlotLostError):
            live.step(100)
        live.step(100)  # the next look sees that the slot was given up on purpose
        insert(database)
        assert sum(item.rows for item in live.step(100)) == 1
    assert bronze(settings, "payments")["id"].to_list() == [1, 2, 3, 4, 5, 6]


def test_log_of_other_tables_and_databases_is_let_go(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path, postgres_tables="payments")
    for dsn in (database, postgres.dsn):
        before = slot_lsn(database, settings, "restart_lsn")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table if not exists noise (note text)")
            for _ in range(3):
                connection.execute("insert into noise select repeat('x', 1000) from generate_series(1, 7000)")
                connection.execute("checkpoint")  # its record lets restart_lsn follow
            connection.execute("drop table noise")
        land(settings)
        insert(database)
        land(settings)
        with psycopg.connect(database) as connection:
            moved = connection.execute(
                "select restart_lsn - %s::pg_lsn from pg_replication_slots where slot_name = %s",
                [before, settings.postgres_slot],
            ).fetchone()
        assert moved is not None and moved[0] > 16 * 2**20


def test_timelines(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """A promotion that keeps our positions goes on; a server restored to before them is refused."""
    home = tmp_path / "server"
    home.mkdir()
    tmp_path.chmod(0o711)
    with EmbeddedPostgres(home, fsync=False, binaries=postgres.binaries) as server:
        settings = begin(server.dsn, tmp_path)
        server.stop()
        shutil.copytree(server.data, home / "backup", symlinks=True)
        server.start()
        insert(server.dsn, 3)
        live = PostgresIngest(settings, Lake.at(settings.lake))
        live.step(100)
        promote(server)
        insert(server.dsn)
        with live:
            assert sum(item.rows for item in live.step(100)) == 1, "the same process goes on"
        rows = Audit(Lake.at(settings.lake)).rows("bank")
        assert (rows[-1].event, rows[-1].detail["timeline"]) == ("timeline", 2)
        server.stop()
        owner = server.data.stat()
        shutil.rmtree(server.data)
        (home / "backup").rename(server.data)
        for path in (server.data, *server.data.rglob("*")):  # the copy is ours, the server may run as somebody else
            shutil.chown(path, owner.st_uid, owner.st_gid)
        promote(server)
        insert(server.dsn, 50)
        with pytest.raises(TimelineError, match="is on timeline 2; the lake was filled from timeline 2 up") as other:
            land(settings)
        assert "does not include that one" in other.value.problem
        accept(settings, Lake.at(settings.lake), "bank")
        land(settings)
        assert ids(settings) == list(range(1, 53))


def promote(server: EmbeddedPostgres) -> None:
    """End the server and let it recover into a new timeline, as a standby does that becomes the primary."""
    server.stop()
    signal = server.data / "recovery.signal"
    signal.touch()
    owner = server.data.stat()
    shutil.chown(signal, owner.st_uid, owner.st_gid)
    with (server.data / "postgresql.auto.conf").open("a") as conf:
        conf.write("restore_command = 'false'\n")
    server.start()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for _ in range(600):
            if connection.execute("select pg_is_in_recovery()").fetchone() == (False,):
                return
            connection.execute("select pg_sleep(0.05)")
    raise AssertionError("never promoted")


def test_another_server_is_refused_until_accepted_by_a_running_process_too(
    postgres: EmbeddedPostgres, database: str, tmp_path: Path
) -> None:
    home = tmp_path / "other"
    home.mkdir()
    tmp_path.chmod(0o711)
    settings = begin(database, tmp_path)
    with EmbeddedPostgres(home, fsync=False, binaries=postgres.binaries) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("create table payments (id serial primary key, note text)")
            connection.execute("insert into payments (note) select 'other' from generate_series(1, 5)")
        with PostgresIngest(settings, Lake.at(settings.lake)) as live:
            live.step(100)
            moved = settings.model_copy(update={"postgres_dsn": SecretStr(server.dsn)})
            elsewhere = opened(moved)._connector._parameters
            live.capture._connector._parameters = elsewhere  # the name of the host now leads there
            live.capture.close()
            with pytest.raises(SourceIdentityError, match="system identifier"):
                live.step(100)
            with pytest.raises(SourceIdentityError, match="filled from another cluster"):
                live.step(100)
            with pytest.raises(SourceIdentityError, match="accept-source bank"):
                resync(moved, Lake.at(settings.lake), [])
            accept(moved, Lake.at(settings.lake), "bank")
            live.step(100)
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("insert into payments (note) values ('later')")
            assert sum(item.rows for item in live.step(100)) == 1
    assert bronze(settings, "payments")["note"].to_list() == ["other"] * 5 + ["later"]


def test_the_server_says_how_near_the_loss_is(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    settings = begin(database, tmp_path)

    def health(allowed: int) -> SlotHealth:
        with opened(settings) as capture:
            return assess(capture.retention(), allowed, None)

    well = health(10 * 2**30)
    assert (well.level, well.retention.limit_bytes, well.retention.safe_bytes) == (Level.OK, None, None)
    assert (well.retention.inactive_seconds is not None) == ("pg-15" not in request.node.name), "known since version 17"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 3000000))")
        connection.execute("select pg_switch_wal()")
        kept = health(1).retention
        assert kept.wal_status == "reserved"
        assert kept.retained_bytes is not None and kept.retained_bytes > 3_000_000
        shares = [(3, Level.OK), (1.6, Level.WARNING), (1.1, Level.ERROR)]
        assert all(assess(kept, int(kept.retained_bytes * times), None).level is level for times, level in shares)
        connection.execute("alter system set max_slot_wal_keep_size = '128MB'")
        connection.execute("select pg_reload_conf()")
        try:
            seen = [health(1)]
            while seen[-1].retention.wal_status != "unreserved":
                connection.execute("select pg_logical_emit_message(false, 'noise', repeat('x', 1000000))")
                connection.execute("select pg_switch_wal()")
                seen.append(health(1))
            assert (seen[0].level, seen[0].limit_bytes) == (Level.OK, 128 * 2**20), "the server's own limit counts"
            reported = next(one for one in seen if one.level is Level.ERROR)
            assert reported.retention.wal_status == "reserved" and (reported.retention.safe_bytes or 0) > 0, (
                "before the danger"
            )
            assert "next checkpoint" in " ".join(seen[-1].reasons)
            # It writes what the server itself writes every 15 s, without which no log is let go.
            connection.execute("select pg_create_logical_replication_slot('of_a_moment', 'pgoutput', true)")
            connection.execute("select pg_drop_replication_slot('of_a_moment')")
            for _ in range(2):  # not too late: what is acknowledged is let go when the log is read the next time
                land(settings)
                insert(database)
            connection.execute("checkpoint")
            land(settings)
            assert health(1).level is Level.OK
        finally:
            connection.execute("alter system reset max_slot_wal_keep_size")
            connection.execute("select pg_reload_conf()")
    assert ids(settings) == [1, 2, 3, 4]


def test_a_stopped_source_of_a_live_cycle_is_looked_at_again(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begin(database, tmp_path)
    monkeypatch.setattr("fraud_lakehouse.live.source.GAP_SECONDS", 0.0)
    with Cycle(settings) as cycle, psycopg.connect(database, autocommit=True) as connection:
        cycle.capture()
        connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
        insert(database)
        for _ in range(2):
            assert cycle.capture() == []
            assert "does not exist" in cycle.problems["bank"]
        resync(settings, Lake.at(settings.lake), [])
        insert(database)
        assert sum(item.rows for item in cycle.capture()) == 1
        assert not cycle.problems
    assert ids(settings) == [1, 2, 3, 4]


def test_what_is_due_without_rows_of_the_log_requests_a_run(database: str, tmp_path: Path) -> None:
    settings = begin(database, tmp_path)
    assert new_data(postgres_source(settings), settings) is None
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("alter publication fraud_lakehouse drop table payments")
    assert new_data(postgres_source(settings), settings) == NewData("bank", "resync-of-payments")
    land(settings)
    assert new_data(postgres_source(settings), settings) is None
    forget_postgres_slot(settings, Lake.at(settings.lake))
    assert new_data(postgres_source(settings), settings) == NewData("bank", f"slot_forgotten-at-{position(settings)}")
    land(settings)
    assert new_data(postgres_source(settings), settings) is None
