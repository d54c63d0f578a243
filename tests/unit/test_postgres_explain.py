"""What PostgreSQL's and a pooler's words and SQLSTATEs mean, where no server of the tests can be made to say them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.connection import PostgresConnector
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
    SlotForeignError,
    SlotLostError,
)
from fraud_lakehouse.sources.postgres.explain import Login, connect_error, query_error
from fraud_lakehouse.sources.postgres.slot import ReplicationSlot
from fraud_lakehouse.sources.postgres.slot_state import SlotState

LOGIN = Login("db:5432/Bank as cap", 'ca"p', "Bank")


@pytest.mark.parametrize(
    "words, kind, output",
    [
        ("FATAL:  the database system is starting up", PostgresStartingError, "it is tried again"),
        ("FATAL:  the database system is not yet accepting connections", PostgresStartingError, "see the server's log"),
        ("FATAL:  the database system is in recovery mode", PostgresStartingError, "it is tried again"),
        ("FATAL:  the database system is not accepting connections", PostgresStandbyError, "primary"),
        ("FATAL:  sorry, too many clients already", ServerLimitError, "max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            ServerLimitError,
            "max_connections",
        ),
        ("session is read-only", PostgresReadOnlyError, "target_session_attrs"),
        ("server does not support SSL, but SSL was required", PostgresTlsError, "ssl = on"),
        ("SSL error: certificate verify failed", PostgresTlsError, "sslrootcert"),
        ('server certificate for "a" does not match host name "b"', PostgresTlsError, "certificate must name the host"),
        ("FATAL:  connection requires a valid client certificate", PostgresTlsError, "sslcert"),
        ('FATAL:  password authentication failed for user "pgbouncer"', PostgresLoginError, "VALID UNTIL"),
        ("fe_sendauth: no password supplied", PostgresLoginError, "the password"),
        ('FATAL:  LDAP authentication failed for user "cap"', PostgresLoginError, "the password"),
        ('FATAL:  role "cap" is not permitted to log in', PostgresLoginError, 'ALTER ROLE "ca""p" LOGIN'),
        (
            'FATAL:  database "bank" is not currently accepting connections',
            DatabaseMissingError,
            'DATABASE "Bank" WITH ALLOW_CONNECTIONS',
        ),
        ("FATAL:  no such database: bank", DatabaseMissingError, "the database's name"),
        ("received invalid response to SSL negotiation: H", PostgresUnreachableError, "the port"),
        ('could not translate host name "x" to address', PostgresUnreachableError, "the host"),
        ("timeout expired", PostgresUnreachableError, "firewall"),
        ("FATAL:  pgbouncer cannot connect to server", PostgresPoolerError, "server itself"),
        ("FATAL:  query_wait_timeout", PostgresPoolerError, "server itself"),
        ("FATAL:  no more connections allowed (max_client_conn)", PostgresPoolerError, "server itself"),
        ("RDS Proxy currently doesn't support command-line options.", PostgresPoolerError, "server itself"),
        ("FATAL:  Die Vorgabe ist in einer anderen Sprache", SourceError, "the server's log"),
    ],
)
def test_words_while_connecting(words: str, kind: type[SourceError], output: str) -> None:
    error = connect_error(words, LOGIN)
    assert type(error) is kind
    assert output in str(error) and words in error.problem and "db:5432/Bank as cap" in error.problem
    assert error.fix and "{" not in error.fix


@pytest.mark.parametrize(
    "raised, kind, output",
    [
        (errors.DiskFull("could not extend file"), ServerLimitError, "pg_replication_slots"),
        (errors.OutOfMemory("out of memory"), ServerLimitError, "53200"),
        (errors.ConfigurationLimitExceeded("temporary file size exceeds"), ServerLimitError, "53400"),
        (errors.QueryCanceled("canceling statement due to user request"), SourceError, "pg_cancel_backend"),
        (errors.DataCorrupted("invalid page in block 7"), SourceError, "pg_amcheck"),
        (errors.ReadOnlySqlTransaction("cannot execute X"), PostgresReadOnlyError, "default_transaction_read_only"),
        (errors.InvalidSqlStatementName('prepared statement "_pg3_0" does not exist'), PostgresPoolerError, "itself"),
        (errors.DuplicatePreparedStatement("already exists"), PostgresPoolerError, "itself"),
        (errors.ProtocolViolation("transaction blocks not allowed in statement pooling mode"), PostgresPoolerError, ""),
        (errors.AdminShutdown("terminating connection"), PostgresUnreachableError, "continues where it stopped"),
        (errors.IdleSessionTimeout("idle-session timeout"), PostgresUnreachableError, "idle-session timeout"),
        (psycopg.OperationalError("server closed the connection"), PostgresUnreachableError, "was lost"),
        (
            errors.InsufficientPrivilege("permission denied for schema fin"),
            ReplicationRightError,
            'USAGE ON SCHEMA "fin"',
        ),
        (
            errors.InsufficientPrivilege("permission denied for table t"),
            ReplicationRightError,
            'SELECT ON "t" TO "ca""p"',
        ),
        (
            errors.InsufficientPrivilege("permission denied for function pg_control_system"),
            ReplicationRightError,
            "GRANT EXECUTE ON FUNCTION pg_control_system",
        ),
        (errors.InsufficientPrivilege("must be owner of publication p"), ReplicationRightError, "add-a-source.md"),
        (errors.UndefinedTable("relation is gone"), SourceError, "42P01"),
    ],
)
def test_states_of_statements(raised: psycopg.Error, kind: type[SourceError], output: str) -> None:
    error = query_error(raised, LOGIN, str(raised))
    assert type(error) is kind
    assert output in str(error) and error.fix


def slot_state(**values: object) -> SlotState:
    known = {"current": 9, "exists": True, "active_pid": None, "confirmed": 5, "restart": 3, "plugin": "pgoutput"}
    return SlotState(**{**known, "same_database": True, "database": "bank", "wal_status": "reserved", **values})  # type: ignore[arg-type]


@pytest.fixture
def slot() -> ReplicationSlot:
    return ReplicationSlot(PostgresConnector("host=nowhere"), "ours", "ours")


@pytest.mark.parametrize(
    "reason, happened, prevents",
    [
        (None, "max_slot_wal_keep_size", "raise max_slot_wal_keep_size"),
        ("wal_removed", "max_slot_wal_keep_size", "raise max_slot_wal_keep_size"),
        ("idle_timeout", "nobody read it", "raise idle_replication_slot_timeout"),
        ("wal_level_insufficient", "wal_level other than logical", "ALTER SYSTEM SET wal_level = logical"),
        ("rows_removed", "catalog rows", "run `fraud-lakehouse resync`"),
        ("of_a_later_version", "unknown reason", "run `fraud-lakehouse resync`"),
    ],
)
def test_each_way_of_losing_a_slot(slot: ReplicationSlot, reason: str | None, happened: str, prevents: str) -> None:
    with pytest.raises(SlotLostError) as lost:
        slot.check_usable(slot_state(wal_status="lost", invalidation_reason=reason), 5)
    assert happened in lost.value.problem and "the lake has 0/5" in lost.value.problem
    assert lost.value.fix.startswith(prevents) and "fraud-lakehouse resync" in lost.value.fix


@pytest.mark.parametrize("other", [{"plugin": "wal2json"}, {"plugin": None}, {"same_database": False}])
def test_a_slot_of_somebody_else(slot: ReplicationSlot, other: dict[str, object]) -> None:
    with pytest.raises(SlotForeignError, match="FRAUD_POSTGRES_SLOT"):
        slot.check_usable(slot_state(**other))
