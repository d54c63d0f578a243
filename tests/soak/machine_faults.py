"""A machine that is starved: of processors, descriptors or memory, or with a background worker that hangs."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.patience import PATIENCE
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand
from tests.soak.product import Product, ProductError

_COMPETITORS = 8
_ROOM = 64 * 1024 * 1024
"""Bytes that the process may still map under a limit of memory."""


@contextlib.contextmanager
def competitors(count: int) -> Iterator[None]:
    """So many processes that only compute, for the block."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def starved_of_processors(life: LiveStand) -> None:
    """Eight processes compute for some seconds beside the product, which lives on."""
    live = life.live()
    with competitors(_COMPETITORS), life.stand.working():
        life.stand.pause(3.0, 5.0)
    assert live.running, live.output
    life.go_on()
    life.check_alerts()


def background_worker_stopped(life: LiveStand) -> None:
    """SIGSTOP of the background worker: alerts go on; then SIGCONT."""
    live = life.live()
    worker = _background_worker(life, live)
    os.kill(worker, signal.SIGSTOP)
    try:
        with life.stand.working():
            life.check_alerts()
            life.stand.pause(1.0, 2.0)
            life.check_alerts()
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was replaced
            os.kill(worker, signal.SIGCONT)
    assert live.running, live.output
    life.go_on()


def limited(limit: int, size: Callable[[Product], int]) -> Callable[[LiveStand], None]:
    """A limit of the process is reached for a second or two: it lives on, or ends and is started again."""

    def inject(life: LiveStand) -> None:
        live = life.live()
        with life.stand.working():
            life.stand.pause(0.2, 0.5)
            with live.limited(limit, size(live)):
                life.stand.pause(1.0, 2.0)
        try:
            life.go_on()
            life.check_alerts()
        except ProductError:
            if live.running:
                raise
            life.go_on()  # with a new process: the other one took a while to end
            life.check_alerts()

    return inject


def _background_worker(life: LiveStand, live: Product) -> int:
    """The pid of the background worker, once there is one: it starts behind the first alerts."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for child in live.children:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"-m\0fraud_lakehouse." in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        life.stand.work(3)
        time.sleep(0.2)
    raise AssertionError(f"no background worker was started: {live.output[-2000:]}")


FAULTS = [
    LiveFault("live: eight competing processes", "competing processes", starved_of_processors),
    LiveFault("live: background worker stopped", "background worker stopped", background_worker_stopped),
    LiveFault("live: no file descriptor", "no file descriptors", limited(resource.RLIMIT_NOFILE, lambda live: 8)),
    LiveFault("live: no memory", "no memory", limited(resource.RLIMIT_AS, lambda live: live.address_space + _ROOM)),
]
