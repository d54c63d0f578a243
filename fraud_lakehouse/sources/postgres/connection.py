"""Connections to the source: session settings, clear errors, binary results. Knows no slots and no tables."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import conninfo, errors, pq
from psycopg.adapt import Buffer, Loader

from fraud_lakehouse.errors import SettingsError, SourceError
from fraud_lakehouse.sources.postgres.explain import Login, connect_error, pooler_error, query_error
from fraud_lakehouse.sources.postgres.types import SESSION_LIMITS, SESSION_OPTIONS, SESSION_SETTINGS

_IN_FORCE = "select " + ", ".join(f"current_setting('{name}')" for name in SESSION_SETTINGS)
_CHUNK_ROWS = 16  # rows may be large; larger chunks gain nothing
_CHUNKED_SINCE = 170000  # libpq; older versions return each row as a separate result


class PostgresConnector:
    """Opens connections to one database; the password appears neither in `repr` nor in errors.

    Args:
        dsn: libpq connection string or URI.
        application: `application_name` of our sessions, unless the connection string sets it.

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
    def login(self) -> Login:
        """The user, and the database it connects to."""
        defaults = {one.keyword.decode(): one.val.decode() for one in pq.Conninfo.get_defaults() if one.val}
        known = {**defaults, **self._parameters}
        user = str(known.get("user"))
        return Login(self.place, user, str(known.get("dbname") or user))

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
            replication: use the replication protocol (logical, `replication=database`); text arrives as stored.

        Raises:
            SourceError: the subclass that names the cause.
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
            connection = psycopg.connect(**parameters, autocommit=True)
        except psycopg.Error as error:
            raise self._refused(error) from None
        try:
            with self.typed_errors():
                self._begin_session(connection)
        except BaseException:
            connection.close()
            raise
        for kind in ("text", "name", "varchar"):
            connection.adapters.register_loader(kind, _TextLoader)
        if replication:
            send_raw_text(connection)
        return connection

    def scrub(self, text: str) -> str:
        """The text without our password."""
        password = str(self._parameters.get("password") or "")
        return text.replace(password, "***") if password else text

    @contextmanager
    def typed_errors(self) -> Iterator[None]:
        """Turn errors of the server or the connection into a `SourceError` that quotes them."""
        try:
            yield
        except psycopg.Error as error:
            words = self.scrub(error.diag.message_primary or str(error)).strip()
            raise query_error(error, self.login, words) from None

    def _refused(self, error: psycopg.Error) -> SourceError:
        words = str(error).strip()
        return connect_error(words, self.login, self.scrub(words))

    def _begin_session(self, connection: psycopg.Connection[Any]) -> None:
        """Check that the session's options took effect, and switch off time limits that only newer servers have.

        Raises:
            PostgresPoolerError: a connection pooler has dropped them.
        """
        row = connection.execute(_IN_FORCE).fetchone()
        assert row is not None
        for (name, wanted), found in zip(SESSION_SETTINGS.items(), row, strict=True):
            if found.replace(" ", "") != wanted:
                raise pooler_error(self.login, f"{name} of the session is {found!r} though {wanted!r} was asked for")
        version = connection.info.server_version
        limits = [f"set {name} = 0" for name, since in SESSION_LIMITS.items() if version >= since]
        if limits:
            connection.execute("; ".join(limits))


class _TextLoader(Loader):
    """Text as UTF-8; invalid bytes (names in a SQL_ASCII database) become lone surrogates."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="surrogateescape")


def send_raw_text(connection: psycopg.Connection[Any]) -> bool:
    """Make a SQL_ASCII database send its bytes unchanged: it rejects invalid UTF-8 for a UTF-8 client.

    Returns:
        whether it is a SQL_ASCII database.
    """
    is_ascii = connection.info.parameter_status("server_encoding") == "SQL_ASCII"
    if is_ascii and connection.info.parameter_status("client_encoding") != "SQL_ASCII":
        connection.pgconn.exec_(b"set client_encoding to sql_ascii")
    return is_ascii


@contextmanager
def raw_text(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """As `send_raw_text`, inside the block; outside it, identifiers in statements are UTF-8."""
    is_ascii = send_raw_text(connection)
    try:
        yield
    finally:
        if is_ascii and connection.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            connection.pgconn.exec_(b"set client_encoding to utf8")


def stream_binary(
    connection: psycopg.Connection[Any], query: str, parameters: Sequence[bytes | None]
) -> Iterator[list[bytes]]:
    """Run a query of one column that is never null; yields its values in binary format, in chunks as they arrive.

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
    """Run a query; yields its rows in binary format, in results of at most `rows` (the last one is empty).

    Only one result is in memory; the server waits while the caller is busy. Ctrl-C works while the server decodes.
    A caller that stops early must close the connection.

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
                pass  # otherwise the connection accepts no further query
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
    """Read the server's result after a COPY's last row; get_result() alone would keep the GIL while it waits.

    Raises:
        psycopg.Error: the COPY failed, by its SQLSTATE; psycopg.OperationalError: the connection broke.
    """
    while (ended := _next_result(connection, None)) is not None:
        if ended.status == pq.ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(ended, encoding="utf-8")


def abandon(connection: psycopg.Connection[Any]) -> None:
    """Cancel the running query, if any, and read the remainder of its result.

    Raises:
        psycopg.OperationalError: the connection broke.
    """
    raw = connection.pgconn
    if raw.transaction_status != pq.TransactionStatus.ACTIVE:
        return
    raw.get_cancel().cancel()
    while (result := _next_result(connection, None)) is not None:
        while result.status == pq.ExecStatus.COPY_OUT and raw.get_copy_data(0)[0] > 0:
            pass


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
