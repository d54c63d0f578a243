"""What capture requires of the PostgreSQL server, checked in the order in which an operator would fix it."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.errors import (
    ReplicationRightError,
    SourceIdentityError,
    WalLevelError,
)
from fraud_lakehouse.sources.postgres.slot import ReplicationSlot
from fraud_lakehouse.sql_text import quoted

_OLDEST = 120000  # publish_via_partition_root came with 13, and 12 is out of support

_SERVER = """
select current_setting('server_version_num')::int, current_setting('wal_level'), current_user,
       exists (select from pg_roles r where r.rolname = current_user and (r.rolsuper or r.rolreplication))
       or exists (select from pg_roles r where r.rolname = 'rds_replication' and pg_has_role(r.oid, 'member')),
       current_setting('max_wal_senders')::int
"""


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Check version, log level and the user's right to replicate.

    Raises:
        WalLevelError: wal_level is not logical, or max_wal_senders is 0.
        ReplicationRightError: the user may not replicate.
        SourceError: its version is too old.
    """
    row = connection.execute(_SERVER).fetchone()
    assert row is not None
    version, level, user, may_replicate, senders = row
    if version <= _OLDEST + 9999:
        raise SourceError(f"PostgreSQL {version // 10000} is too old", "use PostgreSQL 13 or newer")
    if level != "logical":
        raise WalLevelError(
            f"the server's wal_level is {level}, change data capture needs logical",
            "ALTER SYSTEM SET wal_level = logical, then restart the server",
        )
    if not may_replicate:
        raise ReplicationRightError(
            f"user {user} has no REPLICATION right",
            f"ALTER ROLE {quoted(user)} REPLICATION (or grant the provider's replication role)",
        )
    if senders == 0:
        raise WalLevelError("the server's max_wal_senders is 0", "set max_wal_senders to 10 and restart the server")


def check_slot(connection: psycopg.Connection[Any], slot: ReplicationSlot, position: int | None = None) -> None:
    """Check that the slot is not in use, or that it can still be created.

    Args:
        position: the slot's position in the lake, for error messages.

    Raises:
        SlotInUseError: another process reads it (names its pid).
        SlotLostError: the server invalidated it.
        SlotForeignError: it is another database's, or another plugin's. ServerLimitError: no slot is free.
    """
    state = slot.state(connection)
    slot.check_usable(state, position)
    began = time.monotonic()
    while state.active_pid is not None:
        if time.monotonic() > began + slot.patience:
            raise slot.in_use_error(state, position)
        slot.end_predecessor(connection, time.monotonic() - began)
        time.sleep(0.05)
        state = slot.state(connection)
    if not state.exists:
        slot.check_free(connection)


def system_id_of(connection: psycopg.Connection[Any]) -> str:
    """The server's system identifier, made at initdb."""
    row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    assert row is not None
    return str(row[0])


def check_identity(known: str, now: str) -> None:
    """Check that the server is still the same one.

    Raises:
        SourceIdentityError: it has another system identifier.
    """
    if known != now:
        raise SourceIdentityError(
            f"the server behind FRAUD_POSTGRES_DSN is another one: system identifier {now} instead of {known}",
            "point it back at the old server; or capture this one: `fraud-lakehouse accept-source postgres`"
            " (a new snapshot replaces the old server's rows in bronze)",
        )
