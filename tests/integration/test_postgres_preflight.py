from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.errors import LakehouseError, SettingsError, SourceError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import (
    DatabaseMissingError,
    PostgresLoginError,
    PostgresUnreachableError,
    ReplicationRightError,
    SourceTableError,
    WalLevelError,
)
from tests.integration.replayed import Replayed

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]


def failure(capture: PostgresCapture, kind: type[LakehouseError]) -> str:
    """What is wrong: with the source, or with the one table that is left out."""
    try:
        capture.preflight()
        (error,) = [ineligibility.error for ineligibility in capture.refused]
    except LakehouseError as raised:
        error = raised  # type: ignore[assignment]
    assert isinstance(error, kind)
    assert error.fix
    return str(error)


def test_preflight_names_what_is_wrong_with_the_connection(database: str, capture_of: Open) -> None:
    good = conninfo_to_dict(database)
    words = failure(capture_of(make_conninfo(database, port=1)), PostgresUnreachableError)
    assert "127.0.0.1:1/" in words
    failure(capture_of(make_conninfo(database, host="nowhere.invalid")), PostgresUnreachableError)
    wrong = make_conninfo(database, password="hunter2-wrong")
    words = failure(capture_of(wrong), PostgresLoginError)
    assert "hunter2" not in words + repr(capture_of(wrong)._connector)
    failure(capture_of(make_conninfo(database, user="nobody_here")), PostgresLoginError)
    words = failure(capture_of(make_conninfo(database, dbname="no_such_db")), DatabaseMissingError)
    assert "no_such_db" in words
    assert str(good["password"]) not in words
    with pytest.raises(SettingsError, match="FRAUD_POSTGRES_DSN") as caught:
        capture_of("postgres//user:hunter2@host")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingsError, match="FRAUD_POSTGRES_DSN"):
        postgres_source(Settings(postgres_dsn=None))


def test_preflight_names_what_is_wrong_with_the_tables(source: psycopg.Connection, capture_of: Open) -> None:
    capture_of().preflight()
    assert "public.nope" in failure(capture_of(postgres_tables=("payments", "nope")), SourceTableError)
    source.execute('create table "no Key" (id int)')
    words = failure(capture_of(), SourceTableError)
    assert 'ALTER TABLE "public"."no Key" ADD PRIMARY KEY' in words
    capture_of(postgres_tables=("payments",)).preflight()
    source.execute('drop table "no Key"')
    source.execute("alter table payments replica identity nothing")
    assert "REPLICA IDENTITY DEFAULT" in failure(capture_of(), SourceTableError)
    source.execute("drop table payments")
    assert "no table in schema public" in failure(capture_of(), SourceTableError)


def test_preflight_names_missing_rights(database: str, source: psycopg.Connection, capture_of: Open) -> None:
    role = conninfo_to_dict(database)["dbname"]
    source.execute(f"create role {role} login password 'secret'")
    try:
        plain = make_conninfo(database, user=role, password="secret")
        assert "REPLICATION" in failure(capture_of(plain), ReplicationRightError)
        source.execute(f"alter role {role} replication")
        assert "GRANT SELECT" in failure(capture_of(plain), SourceTableError)
        source.execute(f"grant select on payments to {role}")
        capture = capture_of(plain)
        with pytest.raises(ReplicationRightError, match="create publication"), capture.snapshot():
            pytest.fail("the user may not publish")
        source.execute("create publication fraud_lakehouse for table payments")
        Replayed().snapshot(capture)
        capture.preflight()
    finally:
        source.execute(f"drop owned by {role}")
        source.execute(f"drop role {role}")


def test_preflight_names_a_wrong_wal_level(postgres: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(
        postgres.home / "replica", fsync=False, settings={"wal_level": "replica"}, binaries=postgres.binaries
    ) as server:
        settings = Settings(postgres_dsn=server.dsn)
        capture = PostgresCapture(settings, postgres_source(settings))
        assert "wal_level is replica" in failure(capture, WalLevelError)
        capture.close()


@pytest.mark.parametrize(
    "publication, words",
    [
        ("for table payments with (publish = 'insert')", "every operation"),
        ("for table payments where (id > 1) with (publish_via_partition_root = true)", "row filter"),
        ("for table payments (id) with (publish_via_partition_root = true)", "column list"),
        ("for table payments, parts", "partitions under their own names"),
    ],
)
def test_a_publication_that_leaves_something_out_is_refused(
    source: psycopg.Connection, capture_of: Open, publication: str, words: str
) -> None:
    source.execute("create table parts (id int primary key) partition by list (id)")
    source.execute(f"create publication fraud_lakehouse {publication}")
    assert words in failure(capture_of(), SourceError)
