"""Holding tables still while their snapshot is read: a lock as of a SELECT, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from psycopg import errors, sql

from fraud_lakehouse.capture.postgres_catalog import TableInfo
from fraud_lakehouse.capture.postgres_connection import PostgresConnector
from fraud_lakehouse.capture.postgres_errors import SourceBusyError

LOCK_SECONDS = 30


@contextmanager
def held(connector: PostgresConnector, tables: Sequence[TableInfo]) -> Iterator[None]:
    """No ALTER, TRUNCATE or DROP of the tables inside; reading and writing rows go on.

    A table that is rewritten or truncated after a snapshot was taken shows that snapshot no row at all.

    Raises:
        SourceBusyError: another session has held one of the tables for LOCK_SECONDS; names it.
        SourceError: it is gone.
    """
    with closing(connector.connect()) as connection, connector.typed_errors():
        connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'")
        connection.execute("begin read only")
        for table in tables:
            try:
                connection.execute(sql.SQL("lock table {} in access share mode").format(table.relation()))
            except errors.LockNotAvailable:
                raise SourceBusyError(
                    f"table {table.source_name} was locked by another session for {LOCK_SECONDS} s",
                    "end the ALTER, TRUNCATE or LOCK under way there; capture tries again",
                ) from None
        yield
