"""The parent's side of the background worker, which does the work that alerts never wait for (background_process.py).

The worker ends with its parent (its standard input closes), and is restarted if it dies or hangs.
Protocol: the parent writes one line per change. The worker writes one JSON object a line: `problems` by component and,
after a build, its `nodes` and `seconds`. An empty object is a heartbeat.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, TextIO

import psutil

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult

log = logging.getLogger(__name__)

_RESTART_SECONDS = (0.0, 2.0, 10.0, 60.0)
GRACE_SECONDS = 30.0  # to finish its current build when it should end; the next process repeats an interrupted build
_TERMINATE_SECONDS = 5.0
STOPPED_SECONDS = 10.0  # without a heartbeat, after which a stopped process is killed
SILENT_SECONDS = 300.0  # the same for one that is not stopped: on a busy machine it hardly runs (`nice` 19)


class BackgroundWorker:
    """Starts and supervises the worker, notifies it of changes, collects its builds. A context manager.

    The worker starts at the first call, which is after the first alerts: its imports would delay them.

    Args:
        settings: passed to the worker through its environment.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = {**os.environ, **settings.environment()}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lock = threading.Lock()
        self._built: list[BuildResult] = []
        self._problems: dict[str, str] = {}
        self._starts = 0
        self._start_at = 0.0
        self._is_stale = True
        self._silent = 0.0  # seconds since its last line
        self._checked_at = 0.0

    def __enter__(self) -> BackgroundWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        self._reap(process, GRACE_SECONDS)

    @property
    def pid(self) -> int | None:
        """Pid of the worker; None if it does not run."""
        return self._process.pid if self._process is not None else None

    @property
    def problems(self) -> dict[str, str]:
        """The worker's current problems, by component (live/problems.py)."""
        with self._lock:
            return dict(self._problems)

    def note_change(self) -> None:
        """Notify the worker that there are new rows."""
        self._is_stale = True
        self._keep_running()
        if self._process is None:
            return
        try:
            assert self._process.stdin is not None
            self._process.stdin.write("changed\n")
            self._process.stdin.flush()
            self._is_stale = False
        except BrokenPipeError:
            return  # it has died: the next process is notified

    def take(self) -> list[BuildResult]:
        """The builds since the last call. Also restarts a worker that died."""
        self._keep_running()
        with self._lock:
            built, self._built = self._built, []
            return built

    def _keep_running(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._kill_if_silent(self._process)
                return
            problem = f"the background worker ended with code {self._process.returncode}; it is started again"
            log.error("%s", problem)
            self._reap(self._process)
            with self._lock:
                self._problems = {"beside": problem}
            self._process = None
            self._start_at = time.monotonic() + _RESTART_SECONDS[min(self._starts, len(_RESTART_SECONDS) - 1)]
        if time.monotonic() < self._start_at:
            return
        self._starts += 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fraud_lakehouse.live.background_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        self._silent = 0.0
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="beside", daemon=True)
        self._reader.start()
        if self._is_stale:
            self.note_change()

    def _kill_if_silent(self, process: subprocess.Popen[str]) -> None:
        """Kill a worker that hangs, without waiting for its end; a later call finds it dead.

        Only time in which this process itself was running counts as silence.
        """
        now = time.monotonic()
        with self._lock:
            self._silent += min(now - self._checked_at, 1.0)
            silent = self._silent
        self._checked_at = now
        if silent > SILENT_SECONDS or (silent > STOPPED_SECONDS and _is_stopped(process.pid)):
            log.error("the background worker has not responded for %.0f s (stopped, or stuck): it is killed", silent)
            process.kill()

    def _reap(self, process: subprocess.Popen[str], grace: float | None = None) -> None:
        """Wait for the worker's end, terminate it after `grace` seconds, and close its pipes.

        Each of its commits is atomic, so it may be ended at any point.
        """
        for end, seconds in ((process.terminate, grace), (process.kill, _TERMINATE_SECONDS)):
            try:
                process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                log.warning("the background worker does not end by itself: it is terminated")
                end()
        process.wait()
        if self._reader is not None:
            self._reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _read(self, lines: TextIO) -> None:
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            with self._lock:
                self._silent = 0.0
                if not message:
                    continue
                self._problems = message["problems"]
                if "nodes" in message:
                    nodes = [NodeResult(**node) for node in message["nodes"]]
                    self._built.append(BuildResult(nodes, message["seconds"]))
                    self._starts = 0


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
