"""Connections to the source: session settings, clear errors, results in binary. Knows no slot and no table."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import conninfo, errors, pq

from fraud_lakehouse.capture.postgres_errors import (
    DatabaseMissingError,
    PostgresLoginError,
    PostgresUnreachableError,
    ReplicationRightError,
)
from fraud_lakehouse.capture.postgres_types import SESSION_OPTIONS
from fraud_lakehouse.errors import SettingsError, SourceError

_CHUNK_ROWS = 256  # a row may be large: 64 MB a value are 16 GB of these
_CHUNKED_SINCE = 170000  # libpq; before, a row is a result of its own


class PostgresConnector:
    """Opens connections to one database; the password shows neither in `repr` nor in an error.

    Args:
        dsn: libpq connection string or URI.
        application: how the server names our sessions (`application_name`), unless the string says it.

    Raises:
        SettingsError: the string cannot be parsed.
    """

    def __init__(self, dsn: str, application: str = "fraud_lakehouse") -> None:
        self._application = application
        try:
            self._parameters = conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            raise SettingsError(
                "FRAUD_POSTGRES_DSN is no PostgreSQL connection string",
                "write postgresql://user:password@host:5432/database, or host=... user=... dbname=...",
            ) from None

    def __repr__(self) -> str:
        return f"PostgresConnector({self.place})"

    @property
    def place(self) -> str:
        """`host:port/database as user`, for people."""
        known = self._parameters
        host = known.get("host") or known.get("hostaddr") or "local socket"
        database, user = known.get("dbname") or "(default)", known.get("user") or "(default)"
        return f"{host}:{known.get('port') or 5432}/{database} as {user}"

    def connect(self, *, replication: bool = False) -> psycopg.Connection[Any]:
        """A connection in autocommit mode, UTC, UTF-8.

        Args:
            replication: speak the replication protocol (logical, `replication=database`).

        Raises:
            SourceError: the subclass that names what is wrong.
        """
        known = self._parameters
        parameters: dict[str, Any] = {
            "connect_timeout": 10,
            "application_name": self._application,
            "keepalives_idle": 30,
            **known,
            "client_encoding": "UTF8",
            "options": f"{known.get('options') or ''} {SESSION_OPTIONS}".strip(),
        }
        if replication:
            parameters["replication"] = "database"
        try:
            return psycopg.connect(**parameters, autocommit=True)
        except psycopg.Error as error:
            raise self._explain(error) from None

    def scrub(self, text: str) -> str:
        """The text without our password."""
        password = str(self._parameters.get("password") or "")
        return text.replace(password, "***") if password else text

    @contextmanager
    def typed_errors(self) -> Iterator[None]:
        """Turn what the server or the connection refuses inside into a `SourceError` with its words."""
        try:
            yield
        except psycopg.Error as error:
            words = self.scrub(error.diag.message_primary or str(error)).strip()
            if is_lost(error):
                raise PostgresUnreachableError(
                    f"the connection to PostgreSQL at {self.place} was lost: {words}",
                    "check that the server runs; capture continues where it stopped",
                ) from None
            if isinstance(error, errors.InsufficientPrivilege):
                raise ReplicationRightError(
                    f"PostgreSQL at {self.place} refuses: {words}", "grant the user that right"
                ) from None
            raise SourceError(
                f"PostgreSQL at {self.place} failed with SQLSTATE {error.sqlstate}: {words}",
                "see the server's log for the cause; capture continues where it stopped",
            ) from None

    def _explain(self, error: psycopg.Error) -> SourceError:
        """The server gives no SQLSTATE while connecting: its words decide, else it is unreachable."""
        words = self.scrub(str(error)).strip()
        if "password authentication failed" in words or "no password supplied" in words or "role " in words:
            return PostgresLoginError(
                f"PostgreSQL at {self.place} refuses the login: {words}",
                "correct the user or the password in FRAUD_POSTGRES_DSN",
            )
        if "database " in words and "does not exist" in words:
            return DatabaseMissingError(
                f"PostgreSQL at {self.place} has no such database: {words}",
                "correct the database's name in FRAUD_POSTGRES_DSN, or create it",
            )
        if "must be superuser or replication role" in words or "permission denied to start WAL sender" in words:
            return replication_right_error(str(self._parameters.get("user") or "the user"))
        if "no pg_hba.conf entry" in words:
            return PostgresLoginError(
                f"PostgreSQL at {self.place} does not admit us: {words}",
                "add a line for this user, database and address to its pg_hba.conf",
            )
        return PostgresUnreachableError(
            f"PostgreSQL at {self.place} cannot be reached: {words}",
            "check host and port in FRAUD_POSTGRES_DSN and that the server runs",
        )


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone (a restart, a cut line), so that a new one may succeed."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state.startswith(("57P", "08")))


def replication_right_error(user: str) -> ReplicationRightError:
    """The error for a role without the REPLICATION attribute."""
    return ReplicationRightError(
        f"user {user} has no REPLICATION right",
        f'ALTER ROLE "{user}" REPLICATION (or grant the provider\'s replication role)',
    )


def stream_binary(
    connection: psycopg.Connection[Any], query: str, parameters: Sequence[bytes | None]
) -> Iterator[list[bytes]]:
    """Run one query of one column that is never null; its values in binary format, in chunks as they arrive.

    As `stream_results`.
    """
    for result in stream_results(connection, query.encode(), parameters, _CHUNK_ROWS):
        values = cast("list[bytes]", [result.get_value(row, 0) for row in range(result.ntuples)])
        result.clear()
        if values:
            yield values


def stream_results(
    connection: psycopg.Connection[Any], query: bytes, parameters: Sequence[bytes | None], rows: int
) -> Iterator[pq.abc.PGresult]:
    """Run one query; its rows in binary format, in results of at most `rows` as they arrive (the last one has none).

    No more than a result is held here, and the server waits while the caller is busy. Waits in slices, so that Ctrl-C
    works while the server decodes. A caller that stops early must close the connection.

    Raises:
        psycopg.Error: the subclass of the server's SQLSTATE.
    """
    raw = connection.pgconn
    raw.send_query_params(query, parameters, result_format=pq.Format.BINARY)
    if rows > 1 and pq.version() >= _CHUNKED_SINCE:
        raw.set_chunked_rows_mode(rows)
    else:
        raw.set_single_row_mode()
    answered = False
    while (result := _next_result(connection, None)) is not None:
        answered = True
        if result.status == pq.ExecStatus.FATAL_ERROR:
            while _next_result(connection, None) is not None:
                pass  # else the connection takes no further query
            raise errors.error_from_result(result, encoding="utf-8")
        yield result
    if not answered:
        raise psycopg.OperationalError("the connection to the server was lost")


def wait_results(connection: psycopg.Connection[Any], timeout: float | None = None) -> list[pq.abc.PGresult]:
    """All results of a query already sent.

    Raises:
        TimeoutError: `timeout` seconds passed (the query goes on).
        psycopg.OperationalError: the connection broke.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    results: list[pq.abc.PGresult] = []
    while (result := _next_result(connection, deadline)) is not None:
        results.append(result)
        if result.status in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH):
            break
    if not results:
        raise psycopg.OperationalError("the connection to the server was lost")
    return results


def end_copy(connection: psycopg.Connection[Any]) -> None:
    """Read what the server says after a COPY's last row; get_result() alone waits with the interpreter's lock held.

    Raises:
        psycopg.Error: the COPY failed, by its SQLSTATE; psycopg.OperationalError: the connection broke.
    """
    while (ended := _next_result(connection, None)) is not None:
        if ended.status == pq.ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(ended, encoding="utf-8")


def _next_result(connection: psycopg.Connection[Any], deadline: float | None) -> pq.abc.PGresult | None:
    raw = connection.pgconn
    while raw.flush():
        select.select([], [raw.socket], [], 0.2)
    while raw.is_busy():
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        select.select([raw.socket], [], [], 0.2)
        raw.consume_input()
    return raw.get_result()
