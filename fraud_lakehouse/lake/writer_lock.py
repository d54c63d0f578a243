"""Courtesy locks between the processes of one machine, so that a second one waits instead of being refused.

Each part of the work has a turn of its own, so that a long batch run, a backfill or the replica lane never stands in
the way of an alert: landing of each source, the hot lane, and everything beside it. Correctness never depends on
turns (the fence is in the Delta commit); the kernel releases one when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError

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
) -> Iterator[None]:
    """Hold `<folder>/<part>.lock` for the length of the block.

    Who waits holds `<part>.queue` meanwhile: a busy cycle, which takes the lock again at once, queues behind it.

    Args:
        folder: local folder (`settings.work_dir`), created if needed.
        timeout: seconds to wait for another holder; 0 tries once.
        part: a source's name ("postgres", "kafka") for landing its rows, HOT or BESIDE.
        meanwhile: called again and again until the turn is free; what it raises gives the waiting up.

    Raises:
        TurnTakenError: another process still holds it; names its pid.
        LakeError: the folder cannot be written.
    """
    deadline = time.monotonic() + timeout
    path = folder / f"{part}.lock"
    descriptor = _open(path)
    try:
        with process_lock(folder / f"{part}.queue", timeout, "waits to write into this lake", meanwhile):
            _acquire(descriptor, path, deadline, "is writing into this lake already", meanwhile)
        with _named(descriptor):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def process_lock(path: Path, timeout: float, activity: str, meanwhile: Callable[[], None] = _nothing) -> Iterator[None]:
    """Hold one lock file for the length of the block.

    Args:
        activity: what its holder does, for the message of who does not get it.
        meanwhile: called again and again until the lock is free.

    Raises:
        TurnTakenError: another process still holds it after `timeout` seconds; names its pid.
        LakeError: the folder cannot be written.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, time.monotonic() + timeout, activity, meanwhile)
        with _named(descriptor):
            yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_ours(path: Path) -> bool:
    """Whether this process holds a lock file."""
    try:
        return path.read_text().strip() == str(os.getpid())
    except FileNotFoundError:
        return False


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        fix = "point FRAUD_WORK at a folder this user may write"
        raise LakeError(f"the lock file {path} cannot be opened: {error.strerror or error}", fix) from None


@contextmanager
def _named(descriptor: int) -> Iterator[None]:
    """Our pid in the file while the block runs; it is left there only by a process that was killed."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    yield
    os.ftruncate(descriptor, 0)


def _acquire(
    descriptor: int, path: Path, deadline: float, activity: str, meanwhile: Callable[[], None] = _nothing
) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise TurnTakenError(
                    f"process {holder} {activity} (it holds {path})",
                    "wait for it to finish, or stop it; a dead process never holds the lock",
                ) from None
            meanwhile()
            time.sleep(_POLL_SECONDS)
