"""A courtesy lock: one capturing process at a time, so that a second one waits instead of being refused by the fence.

Correctness never depends on it (the fence is in the Delta commit); the kernel releases it when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError

_POLL_SECONDS = 0.05


@contextmanager
def writer_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold `<folder>/writer.lock` for the length of the block.

    Args:
        folder: local folder (`settings.work_dir`), created if needed.
        timeout: seconds to wait for another holder; 0 tries once.

    Raises:
        ConcurrentWriterError: another process still holds it; names its pid.
        LakeError: the folder cannot be written.
    """
    path = folder / "writer.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        fix = "point FRAUD_WORK at a folder this user may write"
        raise LakeError(f"the lock file {path} cannot be opened: {error.strerror or error}", fix) from None
    try:
        _acquire(descriptor, path, time.monotonic() + timeout)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while not _try_lock(descriptor):
        if time.monotonic() >= deadline:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConcurrentWriterError(
                f"process {holder} is capturing into this lake already (it holds {path})",
                "wait for it to finish, or stop it; a dead process never holds the lock",
            )
        time.sleep(_POLL_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
