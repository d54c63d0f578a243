"""A second live process on the same machine waits: it goes on where the first hangs or is killed."""

from __future__ import annotations

import time

from tests.patience import PATIENCE
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand
from tests.soak.product import Product


def _standby(life: LiveStand, live: Product) -> Product:
    """A second process, once it waits."""
    standby = life.stand.product("live")
    until = time.monotonic() + PATIENCE
    while not _waits(life, standby):
        assert standby.running and live.running, standby.output
        assert time.monotonic() < until, f"the second process does not wait: {standby.output[-2000:]}"
        life.stand.work(1)
        time.sleep(0.1)
    return standby


def hung(life: LiveStand) -> None:
    """SIGSTOP of the live process: the standby takes over and sends alerts; SIGCONT: the first one does no harm."""
    live = life.live()
    standby = _standby(life, live)
    with life.stand.working():
        life.stand.pause(0.2, 0.6)
    live.pause()
    life.taken_over(standby, life.takeovers)
    life.check_alerts()
    live.resume()
    with life.stand.working():
        life.stand.pause(1.0, 1.5)
        life.check_alerts()
    live.end()  # with whatever code: it may have given up before, or wait for its lock
    assert standby.running, standby.output
    life.go_on()


def killed(life: LiveStand) -> None:
    """SIGKILL of the live process: the standby takes over."""
    live = life.live()
    standby = _standby(life, live)
    with life.stand.working():
        life.stand.pause(0.2, 0.6)
        live.kill()
    life.taken_over(standby, life.recoveries)
    life.check_alerts()


def _waits(life: LiveStand, standby: Product) -> bool:
    """Whether it is next in the queue for the live lock."""
    queue = life.stand.home / "work" / "live.queue"
    return queue.exists() and queue.read_text().split()[:1] == [str(standby.process.pid)]


FAULTS = [
    LiveFault("live: hung with a standby waiting", "hung process replaced by a standby", hung),
    LiveFault("live: killed with a standby waiting", "killed process replaced by a standby", killed),
]
