"""Advisory locks between the processes of one machine, so that a second writer waits instead of failing.

Each source's ingestion has a lock, the fast path has one, and everything else has one. So a long batch run, a backfill
or a build of deferred models never delays an alert. Correctness does not depend on these locks: the fence is in the
Delta commit. The lock of a process that dies or hangs becomes free (lease.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.lease import LEASE_SECONDS, Lease, acquire, holder, is_held, is_ours

__all__ = ["BESIDE", "HOT", "TURN_SECONDS", "LockTakenError", "is_held", "is_ours", "process_lock", "writer_lock"]

TURN_SECONDS = 600.0  # how long a cycle or run waits for its lock: a catch-up may be in progress
HOT = "hot"  # the models that alerts depend on
BESIDE = "beside"  # every other model, and maintenance
_POLL_SECONDS = 0.02


class LockTakenError(ConcurrentWriterError):
    """Another process holds the lock and did not release it in time."""


def _nothing() -> None:
    pass


@contextmanager
def writer_lock(
    folder: Path, timeout: float, part: str = BESIDE, meanwhile: Callable[[], None] = _nothing
) -> Iterator[Lease]:
    """Hold `<folder>/<part>.lock` for the length of the block.

    A waiting process holds `<part>.queue`, so that a busy cycle cannot take the lock again before it.

    Args:
        folder: local folder (`settings.work_dir`), created if needed.
        timeout: seconds to wait for another holder; 0 tries once.
        part: a source's name ("bank", "cards") for its ingestion, HOT or BESIDE.
        meanwhile: called repeatedly until the lock is free; an exception from it ends the wait.

    Raises:
        LockTakenError: another process still holds the lock; names its pid.
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
        activity: what the holder does, for the error message of a process that cannot acquire the lock.
        meanwhile: called repeatedly until the lock is free.

    Raises:
        LockTakenError: another process still holds it after `timeout` seconds; names its pid.
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
            raise LockTakenError(
                f"{who} {activity} (it holds {path})",
                "wait for it to finish, or stop it; the lock of a process that is dead, or has not answered for"
                f" {LEASE_SECONDS:.0f} s, is taken over",
            )
        meanwhile()
        time.sleep(_POLL_SECONDS)
    return lease
