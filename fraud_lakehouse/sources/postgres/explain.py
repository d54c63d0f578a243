"""The cause and the fix of an error of PostgreSQL, or of a connection pooler in front of it.

While connecting, libpq gives no SQLSTATE, so the text of the error decides; afterwards the SQLSTATE does. Makes no
connections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import errors

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.errors import (
    DatabaseMissingError,
    PostgresLoginError,
    PostgresPoolerError,
    PostgresReadOnlyError,
    PostgresStandbyError,
    PostgresStartingError,
    PostgresTlsError,
    PostgresUnreachableError,
    ReplicationRightError,
    ServerLimitError,
)
from fraud_lakehouse.sql_text import quoted

DIRECTLY = (
    "point FRAUD_POSTGRES_DSN at the PostgreSQL server itself (its own host and port, often 5432): capture needs"
    " replication connections and sessions of its own, which a pooler (PgBouncer and the like) does not give in any"
    " pool mode"
)
_POOLER = re.compile(
    r"unsupported startup parameter|pooling mode|pgbouncer cannot connect|query_wait_timeout|server_login_retry"
    r"|client_login_timeout|no more connections allowed|bouncer config error|odyssey: |RDS Proxy"
)
_POOLED_SESSION = ("26000", "42P05")
"""A prepared statement is missing or exists already: a pooler gave us another session's server connection."""


@dataclass(frozen=True)
class Login:
    """The user and the database, for messages and the statements in them.

    Args:
        place: `host:port/database as user`.
        user, database: their names, without quotes.
    """

    place: str
    user: str
    database: str


@dataclass(frozen=True)
class _Refusal:
    """How to report an error text: the error class, the problem (after "PostgreSQL at ..."), and the fix."""

    words: str
    kind: type[SourceError]
    problem: str
    fix: str


_CORRECT_LOGIN = "correct the user or the password in FRAUD_POSTGRES_DSN"
_ENDED = "end unused connections (pg_stat_activity), or"
_REFUSALS = (
    _Refusal(
        "too many connections for role",
        ServerLimitError,
        "has no connection left for this user",
        f"{_ENDED} ALTER ROLE {{user}} CONNECTION LIMIT -1; capture needs four",
    ),
    _Refusal(
        "too many connections for database",
        ServerLimitError,
        "has no connection left for this database",
        f"{_ENDED} ALTER DATABASE {{database}} CONNECTION LIMIT -1",
    ),
    _Refusal(
        "too many clients already|remaining connection slots are reserved",
        ServerLimitError,
        "has no connection left",
        f"{_ENDED} raise max_connections and restart the server; it is tried again",
    ),
    _Refusal(
        "max_wal_senders|max_replication_slots",
        ServerLimitError,
        "has no replication connection left",
        "end unused replication connections (pg_stat_replication), or raise max_wal_senders and restart the"
        " server; it is tried again",
    ),
    _Refusal(
        "starting up|not yet accepting connections|in recovery mode",
        PostgresStartingError,
        "is starting up",
        "wait: it is tried again, and capture continues where it stopped; if it lasts, see the server's log",
    ),
    _Refusal(
        "shutting down",
        PostgresStartingError,
        "is shutting down",
        "start it again; capture continues where it stopped",
    ),
    _Refusal(
        "not accepting connections|hot standby mode",
        PostgresStandbyError,
        "is a standby",
        "point FRAUD_POSTGRES_DSN at the primary",
    ),
    _Refusal(
        "session is read-only",
        PostgresReadOnlyError,
        "has read-only sessions only, which target_session_attrs does not take",
        "name the primary, or switch default_transaction_read_only off there",
    ),
    _Refusal(
        r"not permitted to log in",
        PostgresLoginError,
        "refuses the login",
        "ALTER ROLE {user} LOGIN",
    ),
    _Refusal(
        "permission denied for database",
        PostgresLoginError,
        "refuses the login",
        "GRANT CONNECT ON DATABASE {database} TO {user}",
    ),
    _Refusal(
        "must be superuser or replication role|permission denied to start WAL sender",
        ReplicationRightError,
        "allows this user no replication: it has no REPLICATION right",
        "ALTER ROLE {user} REPLICATION (or grant the provider's replication role)",
    ),
    _Refusal(
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        PostgresLoginError,
        "does not admit us",
        "add a line for this user, database and address to its pg_hba.conf and reload it; if it has hostssl lines only,"
        " TLS is required: add sslmode=require (better verify-full) to FRAUD_POSTGRES_DSN",
    ),
    _Refusal(
        "requires a valid client certificate|certificate authentication failed",
        PostgresTlsError,
        "requires a client certificate",
        "name one with sslcert and sslkey in FRAUD_POSTGRES_DSN",
    ),
    _Refusal(
        "authentication failed|no password supplied|role .* does not exist|no PostgreSQL user name",
        PostgresLoginError,
        "refuses the login",
        f"{_CORRECT_LOGIN}; a password past its VALID UNTIL is refused with the same words",
    ),
    _Refusal(
        "database .* does not exist|no such database",
        DatabaseMissingError,
        "has no such database",
        "correct the database's name in FRAUD_POSTGRES_DSN, or create it",
    ),
    _Refusal(
        "not currently accepting connections",
        DatabaseMissingError,
        "does not admit anybody to this database",
        "ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true",
    ),
    _Refusal(
        "server does not support SSL",
        PostgresTlsError,
        "cannot be reached: it speaks no TLS, which FRAUD_POSTGRES_DSN requires",
        "switch TLS on at the server (ssl = on); without it, rows and password would go in plain text",
    ),
    _Refusal(
        "certificate|SSL error|SSL SYSCALL|sslrootcert|private key",
        PostgresTlsError,
        "cannot be reached by TLS",
        "check sslmode and sslrootcert in FRAUD_POSTGRES_DSN: the file must contain the authority that signed the"
        " server's certificate, and the certificate must name the host",
    ),
    _Refusal(
        "invalid response to SSL negotiation|expected authentication request",
        PostgresUnreachableError,
        "cannot be reached: something else answers there",
        "correct the port in FRAUD_POSTGRES_DSN",
    ),
    _Refusal(
        "could not translate host name",
        PostgresUnreachableError,
        "cannot be reached: its host name is unknown",
        "correct the host in FRAUD_POSTGRES_DSN, or fix DNS",
    ),
)
_UNKNOWN = _Refusal(
    "FATAL",
    SourceError,
    "refuses the connection",
    "see the message, and the server's log; it is tried again",
)
_SILENT = _Refusal(
    "",
    PostgresUnreachableError,
    "cannot be reached",
    "check host and port in FRAUD_POSTGRES_DSN, that the server runs, and that no firewall blocks it",
)


def connect_error(words: str, login: Login, shown: str | None = None) -> SourceError:
    """Why connecting failed.

    Args:
        words: libpq's message.
        shown: the message without our password; default: `words`.
    """
    shown = words if shown is None else shown
    if _POOLER.search(words):
        return pooler_error(login, shown)
    cause = next((one for one in _REFUSALS if re.search(one.words, words)), None)
    cause = cause or (_UNKNOWN if "FATAL" in words else _SILENT)
    names = {"{user}": quoted(login.user), "{database}": quoted(login.database)}
    fix = re.sub(r"\{user\}|\{database\}", lambda found: names[found[0]], cause.fix)
    return cause.kind(f"PostgreSQL at {login.place} {cause.problem}: {shown}", fix)


def query_error(error: psycopg.Error, login: Login, shown: str) -> SourceError:
    """Why a statement failed.

    Args:
        shown: the server's message without our password.
    """
    state = error.sqlstate or ""
    if state in _POOLED_SESSION or _POOLER.search(shown):
        return pooler_error(login, shown)
    if is_lost(error):
        return PostgresUnreachableError(
            f"the connection to PostgreSQL at {login.place} was lost: {shown}",
            "check that the server runs; capture continues where it stopped",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return ReplicationRightError(f"PostgreSQL at {login.place} refuses: {shown}", _grant(shown, login))
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return read_only_error(login.place, shown, f"ALTER ROLE {quoted(login.user)} RESET")
    if isinstance(error, errors.DiskFull):
        return ServerLimitError(
            f"the disk of PostgreSQL at {login.place} is full: {shown}",
            "free space there; a replication slot that nobody reads keeps log (select slot_name, active,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) from pg_replication_slots); it is tried again",
        )
    if state.startswith("53"):
        return ServerLimitError(
            f"PostgreSQL at {login.place} has reached a limit ({state}): {shown}",
            "raise that limit, or end what uses it up; it is tried again",
        )
    if isinstance(error, errors.QueryCanceled):
        return SourceError(
            f"a statement of capture at {login.place} was cancelled on the server: {shown}",
            "let it run (somebody called pg_cancel_backend, or a job does); it is tried again",
        )
    if state.startswith("XX") and state != "XX000":
        return SourceError(
            f"PostgreSQL at {login.place} reports damaged data ({state}): {shown}",
            "have the server's administrator check it (pg_amcheck) before anything else",
        )
    return SourceError(
        f"PostgreSQL at {login.place} failed with SQLSTATE {state or 'unknown'}: {shown}",
        "see the server's log for the cause; capture continues where it stopped",
    )


def pooler_error(login: Login, words: str) -> PostgresPoolerError:
    """The error for a pooler between us and the server."""
    return PostgresPoolerError(f"a connection pooler answers for PostgreSQL at {login.place}: {words}", DIRECTLY)


def read_only_error(place: str, words: str, reset: str) -> PostgresReadOnlyError:
    """The error for a read-only session.

    Args:
        reset: the statement that resets it, without the setting's name.
    """
    return PostgresReadOnlyError(
        f"sessions of PostgreSQL at {place} are read-only (default_transaction_read_only is on): {words}",
        f"{reset} default_transaction_read_only",
    )


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection was lost (a restart, a network failure), so that a new one may succeed."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError) and (not state or state.startswith(("57P", "08")))


def _grant(words: str, login: Login) -> str:
    """The GRANT statement for the missing right that the server's message names."""
    user = quoted(login.user)
    found = re.search(r"permission denied for (table|relation|view|schema|database|function) (\S+)", words)
    if found is None:
        return f"grant user {login.user} that right (docs/how-to/add-a-source.md has all it needs)"
    kind, name = found.groups()
    rights = {
        "schema": f"USAGE ON SCHEMA {quoted(name)}",
        "database": f"CREATE ON DATABASE {quoted(name)}",
        "function": f"EXECUTE ON FUNCTION {name}",
    }
    return f"GRANT {rights.get(kind, f'SELECT ON {quoted(name)}')} TO {user}"
