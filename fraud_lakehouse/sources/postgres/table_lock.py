"""Locks tables (ACCESS SHARE, as SELECT does) while their snapshot is read."""

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
    """Blocks ALTER, TRUNCATE and DROP of the tables inside the block; reads and writes of rows go on.

    A table that is rewritten or truncated after a snapshot was taken looks empty in that snapshot.

    Raises:
        TableFailedError: names a table that does not exist, or that another session kept locked for LOCK_SECONDS.
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
