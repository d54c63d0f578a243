"""The PostgreSQL servers of the tests: one of a version a session, databases of their own for each test.

Tests marked `postgres_versions` run twice: on the embedded server and on `OLDER`, a version that banks still run. They
are skipped, loudly, where that one is not installed, unless FRAUD_TEST_REQUIRE_POSTGRES_15=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.postgres_system import postgres_binaries
from tests.optional import not_tested

EMBEDDED = "embedded"
OLDER = "15"
OLDER_BINARIES = Path(os.environ.get("FRAUD_TEST_POSTGRES_15") or "/usr/lib/postgresql/15/bin")
"""Where Debian and Ubuntu install it; another installation's `bin` is named by FRAUD_TEST_POSTGRES_15."""


def binaries(version: str) -> Path:
    """The folder of a version's programs; skips the test, or fails it, where they are not installed."""
    if version == EMBEDDED:
        return postgres_binaries()
    if not (OLDER_BINARIES / "postgres").exists():
        not_tested(
            f"PostgreSQL {version} is not installed in {OLDER_BINARIES} (apt-get install postgresql-{version})",
            f"POSTGRES_{version}",
        )
    return OLDER_BINARIES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" in metafunc.fixturenames and metafunc.definition.get_closest_marker("postgres_versions"):
        versions = [EMBEDDED, OLDER]
        metafunc.parametrize("postgres", versions, ids=[f"pg-{one}" for one in versions], indirect=True)


def pytest_report_header() -> str:
    found = {EMBEDDED: postgres_binaries(), OLDER: OLDER_BINARIES}
    return "PostgreSQL: " + "; ".join(f"{name}: {_version(folder)}" for name, folder in found.items())


def _version(folder: Path) -> str:
    program = folder / "postgres"
    if not program.exists():
        return f"none in {folder}, its tests are skipped"
    output = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    return output.removeprefix("postgres (PostgreSQL)").strip()


@pytest.fixture(scope="session")
def postgres_of() -> Iterator[Callable[[str], EmbeddedPostgres]]:
    """Starts the server of a version when it is first asked for, without fsync; all end with the session."""
    running: dict[str, EmbeddedPostgres] = {}

    def server_of(version: str) -> EmbeddedPostgres:
        if version not in running:
            chosen = binaries(version)
            home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-postgres-"))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            home.chmod(0o711)  # as root the server runs as another user
            settings = {"max_prepared_transactions": "8"}
            server = EmbeddedPostgres(home, fsync=False, settings=settings, binaries=chosen)
            stack.callback(server.stop, "immediate")
            server.start()
            running[version] = server
        return running[version]

    with ExitStack() as stack:
        yield server_of


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, postgres_of: Callable[[str], EmbeddedPostgres]) -> EmbeddedPostgres:
    """A running server (`.dsn`, `.create_database(name)`, `.stop()`, `.start()`), without fsync."""
    return postgres_of(getattr(request, "param", EMBEDDED))


@contextmanager
def own_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of an empty database; it and its replication slots go at the end of the block."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgres.create_database(name)
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        # A slot is free a moment after its reader was ended: drop_database waits for the same.
        connection.execute(
            "do $$ declare s record; begin"
            "  for i in 1..200 loop"
            "    exit when not exists (select from pg_replication_slots where active);"
            "    perform pg_sleep(0.01);"
            "  end loop;"
            "end $$"
        )
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", (name,)
        )
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of an empty database; it and its replication slots go after the test."""
    with own_database(postgres) as dsn:
        yield dsn


@pytest.fixture
def second_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Another one, on the same server."""
    with own_database(postgres) as dsn:
        yield dsn
