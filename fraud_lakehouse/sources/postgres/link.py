"""A persistent connection that survives a restart of the server. Knows no slots and no tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import pq

from fraud_lakehouse.sources.postgres.connection import PostgresConnector
from fraud_lakehouse.sources.postgres.errors import (
    PostgresStandbyError,
    PostgresUnreachableError,
    TimelineChangedError,
)
from fraud_lakehouse.sources.postgres.preflight import check_identity, system_id_of
from fraud_lakehouse.sources.postgres.timeline import timeline_number

_RECONNECT = 30.0  # seconds to wait for a restart of the server
_T = TypeVar("_T")


class PostgresLink:
    """Runs actions on one connection, opened when first needed. Not thread-safe.

    Args:
        connector: opens the connection.
        patient: whether a call blocks, up to 30 s, while the server is unreachable; otherwise it fails fast.
    """

    def __init__(self, connector: PostgresConnector, *, blocking: bool = True) -> None:
        self.blocking = blocking
        self._connector = connector
        self._connection: psycopg.Connection[Any] | None = None
        self._system_id: str | None = None
        self._timeline: int | None = None

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def forget(self) -> None:
        """Close, and accept whichever server answers next."""
        self.close()
        self._system_id = self._timeline = None

    @property
    def system_id(self) -> str:
        """The server's system identifier; every later connection is checked against it."""
        self.run(lambda connection: None)
        assert self._system_id is not None
        return self._system_id

    def run(self, action: Callable[[psycopg.Connection[Any]], _T]) -> _T:
        """Run on the open connection; if it was lost, reconnect and run once more.

        Raises:
            PostgresUnreachableError: the server cannot be reached. SourceIdentityError: it is another one.
            PostgresStandbyError: it is a standby. TimelineChangedError: it is on another timeline.
            SourceError: the action failed on the server.
        """
        first = self._system_id is None  # never connected yet: report the cause at once
        deadline: float | None = None
        while True:
            was_connected = self._connection is not None
            try:
                with self._connector.typed_errors():
                    return action(self._connected())
            except PostgresUnreachableError:
                self.close()
                deadline = deadline or time.monotonic() + (_RECONNECT if self.blocking else 0.0)
                if first or (not was_connected and time.monotonic() >= deadline):
                    raise
                time.sleep(0.1)

    def _connected(self) -> psycopg.Connection[Any]:
        kept = self._connection
        if kept is not None and kept.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.close()  # a stream on it was not read to the end
        if self._connection is None or self._connection.closed:
            connection = self._connector.connect()
            try:
                self._recognise(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _recognise(self, connection: psycopg.Connection[Any]) -> None:
        """Check that the server is the same as before."""
        system_id, timeline = system_id_of(connection), timeline_number(connection)
        if not timeline:
            raise PostgresStandbyError(
                f"PostgreSQL at {self._connector.place} is a standby, which does not have our slot",
                "point FRAUD_POSTGRES_DSN at the primary; once this one is promoted, capture goes on with it",
            )
        if self._system_id is not None:
            check_identity(self._system_id, system_id)
        self._check_timeline(timeline)
        self._system_id, self._timeline = system_id, timeline

    def _check_timeline(self, timeline: int) -> None:
        if self._timeline not in (None, timeline):
            raise TimelineChangedError(
                f"PostgreSQL at {self._connector.place} is on timeline {timeline}, before it was on"
                f" {self._timeline}: a standby was promoted, or the server was restored",
                "nothing to do: the next attempt repeats all checks",
            )
