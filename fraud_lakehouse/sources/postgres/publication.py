"""The publication: which tables the slot reads. See eligibility.py for filters on a single table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from fraud_lakehouse.sources.postgres.catalog import STORED_IN_LOG, TableInfo
from fraud_lakehouse.sources.postgres.eligibility import incomplete_error
from fraud_lakehouse.sources.postgres.errors import (
    PostgresReadOnlyError,
    ReplicationRightError,
    SourceTableError,
    one_table,
)
from fraud_lakehouse.sources.postgres.explain import is_lost
from fraud_lakehouse.sources.postgres.publication_epoch import memberships
from fraud_lakehouse.sources.postgres.slot import words_of
from fraud_lakehouse.sources.postgres.table_lock import LOCK_SECONDS, locked_error
from fraud_lakehouse.sql_text import quoted

_READ_ONLY_SOURCE = "select source from pg_settings where name = 'default_transaction_read_only'"
_COMPLETE = "select pubinsert and pubupdate and pubdelete and pubtruncate from pg_publication where pubname = %s"


def check_publication(connection: psycopg.Connection[Any], name: str) -> bool:
    """Check that the publication, if it exists, publishes all operations; returns whether it exists.

    Raises:
        SourceTableError: it does not.
    """
    known = connection.execute(_COMPLETE, (name,)).fetchone()
    if known is not None and not known[0]:
        raise incomplete_error(name)
    return known is not None


def ensure_publication(connection: psycopg.Connection[Any], name: str, tables: Sequence[TableInfo]) -> None:
    """Create the publication, or add the missing tables; other tables in it stay.

    Raises:
        ReplicationRightError, PostgresReadOnlyError: the user may not; quotes the statement for an owner to run.
        TableFailedError: one of the tables cannot be added; the others were.
        SourceError: it exists and does not publish every operation.
    """
    exists = check_publication(connection, name)
    members = memberships(connection, name, tables)
    missing = [table for table in tables if table.name not in members]
    if not missing:
        return
    try:
        _publish(connection, name, missing, exists=exists)
    except ReplicationRightError:
        if not exists:
            raise
    except psycopg.Error as error:
        if is_lost(error):
            raise
    else:
        return
    for table in missing:  # one of them fails
        with one_table(table.name, table.oid, f"publishing {table.source_name}"):
            try:
                _publish(connection, name, [table], exists=exists)
            except errors.LockNotAvailable:
                raise locked_error(table) from None
        exists = True


def _publish(connection: psycopg.Connection[Any], name: str, tables: Sequence[TableInfo], *, exists: bool) -> None:
    listed = sql.SQL(", ").join(table.relation() for table in tables)
    options = "publish_via_partition_root = true"
    if connection.info.server_version >= STORED_IN_LOG:
        options += ", publish_generated_columns = stored"
    create = f"create publication {{}} for table {{}} with ({options})"
    statement = sql.SQL("alter publication {} add table {}" if exists else create).format(sql.Identifier(name), listed)
    try:
        with connection.transaction():
            connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
            connection.execute(statement)
    except errors.InsufficientPrivilege as error:
        raise ReplicationRightError(
            f"the user may not publish the tables: {words_of(error)}",
            f"let an owner of the tables run: {statement.as_string(connection)}",
        ) from None
    except errors.ReadOnlySqlTransaction as error:
        raise PostgresReadOnlyError(
            f"the user may not publish the tables, as its sessions are read-only: {words_of(error)}"
            f" (default_transaction_read_only is on, set {_set_where(connection)[0]})",
            f"{_set_where(connection)[1]}; or let an owner of the tables run: {statement.as_string(connection)}",
        ) from None


def _set_where(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Where default_transaction_read_only is set, and the statement that resets it there."""
    (source,) = connection.execute(_READ_ONLY_SOURCE).fetchone() or ("",)
    user, database = quoted(connection.info.user), quoted(connection.info.dbname)
    reset = "RESET default_transaction_read_only"
    return {
        "user": ("for the role", f"ALTER ROLE {user} {reset}"),
        "database": ("for the database", f"ALTER DATABASE {database} {reset}"),
        "database user": ("for the role in this database", f"ALTER ROLE {user} IN DATABASE {database} {reset}"),
        "client": ("by options of the connection", "take it out of FRAUD_POSTGRES_DSN (or PGOPTIONS)"),
    }.get(source, ("for the server", f"ALTER SYSTEM {reset}, then select pg_reload_conf()"))


def unpublished_error(table: TableInfo, publication: str) -> SourceTableError:
    """The error for a captured table that is no longer in the publication."""
    return SourceTableError(
        f"table {table.source_name} is no longer in publication {publication}: it was dropped and recreated,"
        " or removed from it; its changes since then are not in the log",
        "capture publishes and resyncs it at the next check of the catalog; at once: `fraud-lakehouse resync`",
    )
