"""PgBouncer in front of a test's PostgreSQL, as Debian packages it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraud_lakehouse.demo.postgres_system import run_as, system_user
from tests.optional import not_tested
from tests.patience import PATIENCE

_INI = """[databases]
* = host=127.0.0.1 port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = {mode}
{more}
"""


def program() -> str:
    """The path of pgbouncer; skips the test, or fails it, where there is none."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        not_tested("PgBouncer is not installed (apt-get install pgbouncer)", "PGBOUNCER")
    return found


@contextmanager
def pgbouncer(dsn: str, home: Path, mode: str, more: str = "") -> Iterator[str]:
    """A running PgBouncer; gives the connection string that leads through it.

    Args:
        dsn: of the server behind it.
        home: an empty folder.
        mode: session, transaction or statement.
        more: further lines of its configuration.
    """
    path, server = program(), conninfo_to_dict(dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = int(probe.getsockname()[1])
    ini, users = home / "pgbouncer.ini", home / "users"
    ini.write_text(_INI.format(port=server["port"], own=own, users=users, mode=mode, more=more))
    users.write_text(f'"{server["user"]}" "{server["password"]}"\n')
    user = system_user(home / "none")  # it does not run as root either
    if user is not None:
        for file in (home, ini, users):
            os.chown(file, user.pw_uid, user.pw_gid)
    process = subprocess.Popen([path, "-q", str(ini)], stderr=subprocess.DEVNULL, **run_as(user))
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "PgBouncer did not start"
            try:
                socket.create_connection(("127.0.0.1", own), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield make_conninfo(dsn, port=own)
    finally:
        process.terminate()
        process.wait(30)
