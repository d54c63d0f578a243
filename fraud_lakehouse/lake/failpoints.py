"""Named places where a test stops the process dead, to prove that nothing is lost there.

Off (the default) a failpoint is one comparison. The command line arms one from `FRAUD_FAILPOINT=name[:n]`; nothing
else in the package changes its behaviour under test.

Names, in the order a batch passes them: `bronze.after_parquet` (rows on disk, not committed), `bronze.after_commit`
(committed, not yet fsynced), `postgres.before_position` (all tables landed, slot position not),
`control.after_parquet`, `control.after_commit`, `postgres.before_acknowledge`, `postgres.after_acknowledge`,
`kafka.before_group_commit`; in a snapshot `postgres.in_snapshot` (after each chunk) and
`postgres.before_snapshot_position`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass


def _kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class _Armed:
    name: str | None = None
    remaining: int = 0
    action: Callable[[], None] = _kill_process


_armed = _Armed()


def arm(name: str, hits: int = 1, action: Callable[[], None] = _kill_process) -> None:
    """Run `action` (default: SIGKILL to this process) at the `hits`-th pass of the failpoint `name`, once."""
    _armed.name, _armed.remaining, _armed.action = name, hits, action


def arm_from(text: str) -> None:
    """Arm from `name` or `name:hits`, the form of the setting."""
    name, _, hits = text.partition(":")
    arm(name, int(hits or "1"))


def disarm() -> None:
    """Switch every failpoint off."""
    _armed.name = None


def failpoint(name: str) -> None:
    """A place where an armed process ends; otherwise nothing."""
    if _armed.name != name:
        return
    _armed.remaining -= 1
    if _armed.remaining == 0:
        disarm()
        _armed.action()
