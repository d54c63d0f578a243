"""Connections to the source: session settings, clear errors, results in binary. Knows no slot and no table."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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


class PostgresConnector:
    """Opens connections to one database; the password shows neither in `repr` nor in an error.

    Args:
        dsn: libpq connection string or URI.

    Raises:
        SettingsError: the string cannot be parsed.
    """

    def __init__(self, dsn: str) -> None:
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
            "application_name": "fraud_lakehouse",
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


def fetch_binary(
    connection: psycopg.Connection[Any], query: str, parameters: Sequence[bytes | None]
) -> pq.abc.PGresult:
    """Run one query and return its raw result in binary format: no object is made per value.

    Waits in slices, so that Ctrl-C works while the server decodes.

    Raises:
        psycopg.Error: the subclass of the server's SQLSTATE.
    """
    raw = connection.pgconn
    raw.send_query_params(query.encode(), parameters, result_format=pq.Format.BINARY)
    results = wait_results(connection)
    result = results[-1]
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(result, encoding="utf-8")
    return result


def wait_results(connection: psycopg.Connection[Any], timeout: float | None = None) -> list[pq.abc.PGresult]:
    """All results of a query already sent.

    Raises:
        TimeoutError: `timeout` seconds passed (the query goes on).
        psycopg.OperationalError: the connection broke.
    """
    raw = connection.pgconn
    deadline = None if timeout is None else time.monotonic() + timeout
    results: list[pq.abc.PGresult] = []
    while True:
        while raw.flush():
            select.select([], [raw.socket], [], 0.2)
        while raw.is_busy():
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            select.select([raw.socket], [], [], 0.2)
            raw.consume_input()
        result = raw.get_result()
        if result is None:
            break
        results.append(result)
        if result.status in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH):
            break
    if not results:
        raise psycopg.OperationalError("the connection to the server was lost")
    return results
