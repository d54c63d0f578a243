"""The demo's user interfaces: Dagster's UI and the dbt docs. The cycle does not wait for them.

The cycle runs in the demo. Dagster's sensors run with an update delay of five minutes, so its runs build the same lake
through the same writer lock, and fill its assets and checks.
"""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import typer

from fraud_lakehouse.demo.services import HOST, Service, Watchdog, free_port
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.shipped import shipped_path
from fraud_lakehouse.transform.documentation import QuietHandler

DAGSTER_PORT = 3000
DOCS_PORT = 8580
_LONGEST_WAIT_SECONDS = 15.0
UPDATE_DELAY = 300  # seconds between the runs that Dagster's sensors request


class Interface:
    """Dagster and the dbt docs, started in the background while the cycle runs.

    Args:
        home: the demo's folder.
        env: environment of the processes; must contain the settings.
        guard: ends the processes if we are killed.
        stop: ends both.
        after: set when the start may begin; it begins after 15 seconds at the latest.
    """

    def __init__(
        self, home: Path, env: dict[str, str], guard: Watchdog, stop: threading.Event, after: threading.Event
    ) -> None:
        self._home = home
        self._guard = guard
        self._stop = stop
        self._after = after
        self._dagster = DagsterServices(home, {**env, "FRAUD_UPDATE_DELAY": str(UPDATE_DELAY)})
        self._site = DocsServer(home / "docs", DOCS_PORT)
        command = [sys.executable, "-m", "fraud_lakehouse.cli", "docs", f"--folder={home / 'docs'}"]
        self._writer = Service("dbt's documentation", command, home / "logs" / "docs.log", env=env, nice=True)
        typer.echo(f"Dagster UI  {self._dagster.url}  (starting)")
        typer.echo(f"dbt docs    {self._site.url}  (starting)")
        self._thread = threading.Thread(target=self._follow, name="interface")
        self._thread.start()

    def stop(self) -> None:
        """Stop both and wait until they have ended."""
        self._stop.set()
        self._thread.join()
        self._site.close()

    def _follow(self) -> None:
        """The thread's work, from start to stop."""
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        while not (self._after.wait(0.1) or self._stop.is_set() or time.monotonic() > deadline):
            pass
        try:
            self._start()
        except LakehouseError as error:
            typer.echo(f"the demo continues without it: {error}")
        self._stop.wait()
        self._dagster.stop()
        self._writer.stop()

    def _start(self) -> None:
        if self._stop.is_set() or not self._dagster.start(self._guard, self._stop):
            return
        typer.echo(f"Dagster UI is ready: {self._dagster.url}")
        self._writer.start(self._guard)
        while self._writer.running and not self._stop.wait(0.2):
            pass
        if self._writer.exit_code == 0:
            typer.echo(f"dbt docs are ready: {self._site.url}")
        elif not self._stop.is_set():
            typer.echo(f"the dbt docs could not be generated: {self._writer.log_tail()}")


class DocsServer:
    """Serves a folder on the loopback address from a thread of this process, so it cannot outlive the demo.

    Args:
        folder: has `index.html`; otherwise a page that asks to wait is written.
        port: preferred port; if it is in use, another free one.
    """

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "index.html").exists():
            wait = "<meta http-equiv=refresh content=3><p>dbt is generating its documentation, please wait."
            (folder / "index.html").write_text(wait)
        self._server = ThreadingHTTPServer((HOST, free_port(port)), partial(QuietHandler, directory=str(folder)))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dbt docs", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the site."""
        return f"http://{HOST}:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class DagsterServices:
    """Dagster's code server, webserver and daemon, which share it; DAGSTER_HOME is `<home>/dagster`.

    Args:
        home: the demo's folder.
        env: environment of the processes; must contain the settings.
        nice: whether they and their runs have lower priority than the demo's cycle.
    """

    def __init__(self, home: Path, env: Mapping[str, str], *, nice: bool = True) -> None:
        folder = home / "dagster"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped_path("dagster.yaml"), folder / "dagster.yaml")
        code, web = free_port(0), free_port(DAGSTER_PORT)
        workspace = folder / "workspace.yaml"
        workspace.write_text(
            f"load_from:\n  - grpc_server: {{host: {HOST}, port: {code}, location_name: fraud_lakehouse}}\n"
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
            ready=lambda: _listens(code),
            env=env,
            nice=nice,
        )
        self._web = Service(
            "Dagster's webserver",
            [_script("dagster-webserver"), where, f"--host={HOST}", f"--port={web}"],
            logs / "dagster-webserver.log",
            ready=lambda: _answers(f"{self.url}/server_info"),
            env=env,
            nice=nice,
        )
        self._daemon = Service(
            "Dagster's daemon",
            [_script("dagster-daemon"), "run", where],
            daemon_log,
            ready=lambda: daemon_log.exists() and b"SensorDaemon" in daemon_log.read_bytes(),
            env=env,
            nice=nice,
        )

    def start(self, guard: Watchdog, stop: threading.Event, timeout: float = 180.0) -> bool:
        """Start all three in sequence; False if `stop` was set meanwhile.

        The webserver creates Dagster's databases; if the daemon started at the same time, one of them could fail.

        Raises:
            ServiceError: one of them does not start.
        """
        for service in (self._code, self._web, self._daemon):
            service.start(guard)
            if not service.wait_ready(timeout, stop):
                return False
        return True

    def stop(self) -> None:
        """Stop all three, the code server last because the others use it. Its runs end with it."""
        self._web.request_stop()
        for service in (self._daemon, self._web, self._code):
            service.stop()


def _script(name: str) -> str:
    """A console script of the current environment."""
    worker = Path(sys.executable).parent / name
    return str(worker) if worker.exists() else name


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
