from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import (
    SlotAheadError,
    SlotInUseError,
    SlotLostError,
    SourceIdentityError,
)
from tests.integration.replayed import Replayed, read_whole

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]


def test_gaps_fail_closed(database: str, source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    with pytest.raises(SlotLostError, match="does not exist"):
        capture.resume(1)
    model.snapshot(capture)
    capture.resume(model.position)
    source.execute("insert into payments(note) values ('x')")
    old = model.position
    model.follow(capture)
    with pytest.raises(SlotAheadError, match="acknowledged up to"):
        read_whole(capture, {"payments": old}, old, 100)
    with pytest.raises(SourceIdentityError, match="restored to an earlier state"):
        capture.resume(model.position + 2**30)
    with pytest.raises(SourceIdentityError, match="another one"):
        capture.check_identity("123")
    capture.check_identity(capture.system_id)
    source.execute("select pg_drop_replication_slot(%s)", (capture.slot,))
    with pytest.raises(SlotLostError, match="fraud-lakehouse resync"):
        read_whole(capture, model.after, model.position, 100)


def test_an_invalidated_slot_is_lost(database: str, capture_of: Open) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key, note text)")
        model, capture = Replayed(), capture_of()
        model.snapshot(capture)
        connection.execute("alter system set max_slot_wal_keep_size = '1MB'")
        connection.execute("select pg_reload_conf()")
        try:
            for _ in range(4):
                connection.execute("insert into payments(note) select repeat('x', 1000) from generate_series(1, 1000)")
                connection.execute("select pg_switch_wal()")
            connection.execute("checkpoint")
            with pytest.raises(SlotLostError, match="invalidated by the server"):
                read_whole(capture, model.after, model.position, 100)
            with pytest.raises(SlotLostError, match="max_slot_wal_keep_size"):
                capture.preflight()
        finally:
            connection.execute("alter system reset max_slot_wal_keep_size")
            connection.execute("select pg_reload_conf()")


def test_a_slot_in_use_is_named(source: psycopg.Connection, capture_of: Open) -> None:
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    with closing(capture._connector.connect(replication=True)) as other:
        options = "(proto_version '1', publication_names 'fraud_lakehouse')"
        other.pgconn.exec_(f'START_REPLICATION SLOT "{capture.slot}" LOGICAL 0/0 {options}'.encode())
        with pytest.raises(SlotInUseError, match=rf"pid {other.info.backend_pid}"):
            capture.preflight()
        source.execute("insert into payments(note) values ('x')")
        with pytest.raises(SlotInUseError, match=rf"pid {other.info.backend_pid}"):
            read_whole(capture, model.after, model.position, 100)
