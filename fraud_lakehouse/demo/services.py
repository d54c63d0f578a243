"""The demo's child processes: generators, Dagster's services, the dbt docs; started by readiness, stopped without orphans.

Each child leads a session of its own, so Ctrl-C in the terminal reaches the demo alone, which stops them in order.
Should the demo be killed, the watchdog (see `watchdog`) ends them. What the children do is not known here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fraud_lakehouse
from fraud_lakehouse.demo import watchdog
from fraud_lakehouse.errors import LakehouseError

HOST = "127.0.0.1"
_NICE = 5  # the cycle comes first


class ServiceError(LakehouseError):
    """A child process ended or did not become ready."""


class Watchdog:
    """Handle on the watchdog process; its end of the pipe closes with us, however we end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__],
            stdin=subprocess.PIPE,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )

    def guard(self, pid: int, how: signal.Signals = signal.SIGTERM) -> None:
        """End this process and its session with us; `how` is the signal that asks it to end."""
        self._order(f"+ {pid} {int(how)}")

    def release(self, pid: int) -> None:
        """Do no longer."""
        self._order(f"- {pid}")

    def close(self) -> None:
        """End the watchdog; whatever is still guarded is ended too."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _order(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())


class Service:
    """One child process.

    Args:
        name: what it is called in messages and of its log file.
        command: program and arguments.
        log: file its output is appended to.
        ready: answers whether it can be used; asked again and again after the start.
        env: its environment; default: ours.
        nice: whether it yields the processor to the demo's own work.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool] = lambda: True,
        env: Mapping[str, str] | None = None,
        nice: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._ready = ready
        self._env = dict(env) if env is not None else None
        self._nice = nice
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start and after the stop."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, guard: Watchdog) -> None:
        """Start the process; does not wait for it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        guard.guard(self._process.pid)
        self._watchdog = guard
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    def wait_ready(self, timeout: float, stop: threading.Event) -> bool:
        """Wait until it can be used; False if `stop` was set meanwhile.

        Raises:
            ServiceError: it ended, or was not ready in time; quotes the end of its log.
        """
        deadline = time.monotonic() + timeout
        while not self._ready():
            if stop.is_set():
                return False
            if not self.running or time.monotonic() > deadline:
                how = "is not ready" if self.running else "has ended"
                raise ServiceError(f"{self.name} {how}: {self.log_tail()}", f"see {self.log}")
            stop.wait(0.1)
        return True

    def ask_to_stop(self) -> None:
        """Ask it to end; returns at once."""
        if self._process is not None and self.running:
            self._process.terminate()

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end, then insist; returns when no process of its session is left."""
        if self._process is None:
            return
        self.ask_to_stop()
        pid, deadline = self._process.pid, time.monotonic() + timeout
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        while left := watchdog.session(pid):  # its own children, should it have left any
            for each in left:
                watchdog.end(each, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(0.05)
        if self._watchdog is not None:
            self._watchdog.release(pid)
        self._process = None

    def log_tail(self, characters: int = 600) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:].strip() if self.log.exists() else "(no log)"


class DocsServer:
    """Serves a folder on the loopback address from a thread of this process: it cannot outlive the demo.

    Args:
        folder: has `index.html`; a page that tells to wait is written if it has none.
        port: preferred port; another free one is taken if it is taken.
    """

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "index.html").exists():
            wait = "<meta http-equiv=refresh content=3><p>dbt is writing its documentation; a moment, please."
            (folder / "index.html").write_text(wait)
        self._server = ThreadingHTTPServer((HOST, free_port(port)), partial(_QuietHandler, directory=str(folder)))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dbt docs", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the site."""
        return f"http://{HOST}:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving and give up the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class DagsterServices:
    """One code server, which both others share, the webserver and the daemon; DAGSTER_HOME is `<home>/dagster`.

    Args:
        home: the demo's folder.
        env: environment of the processes; must hold the product's settings.
    """

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        folder = home / "dagster"
        folder.mkdir(parents=True, exist_ok=True)
        given = Path(fraud_lakehouse.__file__).parent.parent / "dagster.yaml"
        if given.exists():
            shutil.copyfile(given, folder / "dagster.yaml")
        else:
            (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        code, web = free_port(0), free_port(3000)
        workspace = folder / "workspace.yaml"
        workspace.write_text(
            f"load_from:\n  - grpc_server:\n      host: {HOST}\n      port: {code}\n      location_name: fraud_lakehouse\n"
        )
        self.url = f"http://{HOST}:{web}"
        env = {**env, "DAGSTER_HOME": str(folder)}
        python, logs, where = sys.executable, home / "logs", f"--workspace={workspace}"
        module = "--module-name=fraud_lakehouse.definitions"
        daemon_log = logs / "dagster-daemon.log"
        daemon_log.unlink(missing_ok=True)
        self._code = Service(
            "Dagster's code server",
            [python, "-m", "dagster", "api", "grpc", module, f"--host={HOST}", f"--port={code}"],
            logs / "dagster-code.log",
            lambda: _listens(code),
            env,
            nice=True,
        )
        self._web = Service(
            "Dagster's webserver",
            [_script("dagster-webserver"), where, f"--host={HOST}", f"--port={web}"],
            logs / "dagster-webserver.log",
            lambda: _answers(f"{self.url}/server_info"),
            env,
            nice=True,
        )
        self._daemon = Service(
            "Dagster's daemon",
            [_script("dagster-daemon"), "run", where],
            daemon_log,
            lambda: daemon_log.exists() and b"SensorDaemon" in daemon_log.read_bytes(),
            env,
            nice=True,
        )

    def start(self, guard: Watchdog, stop: threading.Event, timeout: float = 180.0) -> bool:
        """Start all three, the code server first; False if `stop` was set meanwhile.

        Raises:
            ServiceError: one of them does not come up.
        """
        self._code.start(guard)
        if not self._code.wait_ready(timeout, stop):
            return False
        for service in (self._web, self._daemon):
            service.start(guard)
        return all(service.wait_ready(timeout, stop) for service in (self._web, self._daemon))

    def stop(self) -> None:
        """Stop all three; the daemon before the code server, whose runs end with it."""
        for service in (self._daemon, self._web, self._code):
            service.ask_to_stop()
        for service in (self._daemon, self._web, self._code):
            service.stop()


def free_port(preferred: int) -> int:
    """The preferred port of the loopback address if it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError("no TCP port of 127.0.0.1 is free", "close programs that hold ports")


def _script(name: str) -> str:
    """A console script of the environment we run in."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A page view is no news."""
