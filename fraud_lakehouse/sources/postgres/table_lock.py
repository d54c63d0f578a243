"""Holding tables still while their snapshot is read: a lock as of a SELECT, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from psycopg import errors, sql

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.connection import PostgresConnector
from fraud_lakehouse.sources.postgres.errors import SourceBusyError, one_table

LOCK_SECONDS = 3  # the log is not read meanwhile


@contextmanager
def held(connector: PostgresConnector, tables: Sequence[TableInfo]) -> Iterator[None]:
    """No ALTER, TRUNCATE or DROP of the tables inside; reading and writing rows go on.

    A table that is rewritten or truncated after a snapshot was taken shows that snapshot no row at all.

    Raises:
        TableFailedError: another session has had one of the tables locked for LOCK_SECONDS, or it is gone; names it.
    """
    with closing(connector.connect()) as connection, connector.typed_errors():
        connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'")
        connection.execute("begin read only")
        for table in tables:
            with one_table(table.name, table.oid, f"locking {table.source_name}"), connector.typed_errors():
                try:
                    connection.execute(sql.SQL("lock table {} in access share mode").format(table.relation()))
                except errors.LockNotAvailable:
                    raise locked_error(table) from None
        yield


def locked_error(table: TableInfo) -> SourceBusyError:
    """The error for a table that another session has locked."""
    return SourceBusyError(
        f"table {table.source_name} is locked by another session",
        "end the ALTER, TRUNCATE, VACUUM or LOCK under way there: select pg_blocking_pids(pid), * from"
        " pg_stat_activity; it is tried again",
    )
