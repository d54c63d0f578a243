"""The demo's child processes: started with a check for readiness, stopped without orphans.

Each child leads a separate session, so Ctrl-C in the terminal reaches only the demo, which stops them in order.
If the demo is killed, the watchdog (see `watchdog`) ends them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fraud_lakehouse.demo import watchdog
from fraud_lakehouse.errors import LakehouseError

HOST = "127.0.0.1"
_NICE = 5  # lower priority than the cycle


class ServiceError(LakehouseError):
    """A child process ended or did not become ready."""


class Watchdog:
    """The watchdog process; its pipe closes when we end, even after kill -9."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__],
            stdin=subprocess.PIPE,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )

    def guard(self, pid: int, how: signal.Signals = signal.SIGTERM) -> None:
        """End this process and its session when we end, with the signal `how`."""
        self._order(f"+ {pid} {int(how)}")

    def release(self, pid: int) -> None:
        """Stop guarding this process."""
        self._order(f"- {pid}")

    def close(self) -> None:
        """End the watchdog and everything that is still guarded."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _order(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())


class Service:
    """One child process.

    Args:
        name: its name in messages.
        command: program and arguments.
        log: file to which its output is appended.
        ready: returns whether it can be used; polled after the start.
        env: its environment; default: ours.
        nice: whether it has lower priority than the demo's cycle.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
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
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs, and after `stop`."""
        return self._process.poll() if self._process else None

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
        """Wait until it is ready; False if `stop` was set meanwhile.

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

    def request_stop(self) -> None:
        """Request that it ends; returns at once."""
        if self._process is not None and self.running:
            self._process.terminate()

    def stop(self, timeout: float = 10.0) -> None:
        """Request that it ends, then kill it; returns once no process of its session is left."""
        if self._process is None:
            return
        self.request_stop()
        pid, deadline = self._process.pid, time.monotonic() + timeout
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        while left := watchdog.session(pid):  # children that it left running
            for each in left:
                watchdog.end(each, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(0.05)
        if self._watchdog is not None:
            self._watchdog.release(pid)
        self._process = None

    def log_tail(self, characters: int = 600) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:].strip() if self.log.exists() else "(no log)"


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
    raise ServiceError("no TCP port of 127.0.0.1 is free", "close programs that use ports")
