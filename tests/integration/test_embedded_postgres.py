from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from fraud_lakehouse.demo.postgres import EmbeddedPostgres

pytestmark = pytest.mark.postgres

START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), fsync=False)
print(server.start() and server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def home(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Path:
    """A folder that goes with the session's server; its path is longer than a socket's may be."""
    return postgres.home / ("deep" * 20) / request.node.name


def test_data_survive_and_a_server_of_a_killed_parent_is_taken_over(home: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", START_AND_DIE, str(home)], capture_output=True, text=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    server = EmbeddedPostgres(home, fsync=False)
    try:
        dsn = server.start()
        assert server.pid == int(child.stdout)
        with psycopg.connect(server.socket_dsn_of("postgres")) as connection:
            connection.execute("create table kept (a int)")
            assert connection.execute("show wal_level").fetchone() == ("logical",)
        taken_over = psutil.Process(server.pid)
        server.stop()
        assert not taken_over.is_running() or taken_over.status() == psutil.STATUS_ZOMBIE
        assert server.start() == dsn
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)  # leaves a stale postmaster.pid
        server.start()
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)
    finally:
        server.stop()
    assert server.pid is None
    assert not (home / "postgres" / "postmaster.pid").exists()
