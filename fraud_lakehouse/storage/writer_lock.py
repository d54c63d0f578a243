"""Courtesy locks between the processes of one machine, so that a second one waits instead of being refused.

Each part of the work has a turn of its own, so that a long batch run, a backfill or the replica lane never stands in
the way of an alert: landing of each source, the hot lane, and everything beside it. Correctness never depends on
turns (the fence is in the Delta commit). The lock of a holder that dies or hangs is free again (lease.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.lease import LEASE_SECONDS, Lease, acquire, holder, is_held, is_ours

__all__ = ["BESIDE", "HOT", "TURN_SECONDS", "TurnTakenError", "is_held", "is_ours", "process_lock", "writer_lock"]

TURN_SECONDS = 600.0  # how long a cycle or run waits for its turn: a catch-up may be under way
HOT = "hot"  # the models that alerts come from
BESIDE = "beside"  # every other model, and upkeep
_POLL_SECONDS = 0.02


class TurnTakenError(ConcurrentWriterError):
    """Another process has the turn, and did not end it in the time given."""


def _nothing() -> None:
    pass


@contextmanager
def writer_lock(
    folder: Path, timeout: float, part: str = BESIDE, meanwhile: Callable[[], None] = _nothing
) -> Iterator[Lease]:
    """Hold `<folder>/<part>.lock` for the length of the block.

    Who waits holds `<part>.queue` meanwhile: a busy cycle, which takes the lock again at once, queues behind it.

    Args:
        folder: local folder (`settings.work_dir`), created if needed.
        timeout: seconds to wait for another holder; 0 tries once.
        part: a source's name ("bank", "cards") for landing its rows, HOT or BESIDE.
        meanwhile: called again and again until the turn is free; what it raises gives the waiting up.

    Raises:
        TurnTakenError: another process still holds it; names its pid.
        LakeError: the folder cannot be written.
    """
    deadline = time.monotonic() + timeout
    with process_lock(folder / f"{part}.queue", timeout, "waits to write into this lake", meanwhile):
        lease = _acquire(folder / f"{part}.lock", deadline, "is writing into this lake already", meanwhile)
    try:
        yield lease
    finally:
        lease.release()


@contextmanager
def process_lock(
    path: Path, timeout: float, activity: str, meanwhile: Callable[[], None] = _nothing
) -> Iterator[Lease]:
    """Hold one lock file for the length of the block.

    Args:
        activity: what its holder does, for the message of who does not get it.
        meanwhile: called again and again until the lock is free.

    Raises:
        TurnTakenError: another process still holds it after `timeout` seconds; names its pid.
        LakeError: the folder cannot be written.
    """
    lease = _acquire(path, time.monotonic() + timeout, activity, meanwhile)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(path: Path, deadline: float, activity: str, meanwhile: Callable[[], None] = _nothing) -> Lease:
    while (lease := acquire(path)) is None:
        if time.monotonic() >= deadline:
            found = holder(path)
            who = f"process {found.pid or 'unknown'}" if found else "another process"
            raise TurnTakenError(
                f"{who} {activity} (it holds {path})",
                "wait for it to finish, or stop it; the lock of a process that is dead, or has not answered for"
                f" {LEASE_SECONDS:.0f} s, is taken over",
            )
        meanwhile()
        time.sleep(_POLL_SECONDS)
    return lease
