"""Lock files with a heartbeat, between the processes of one machine.

The kernel releases the lock of a process that ends. A process that is stopped, swapped out or stuck keeps its lock, but
its heartbeat grows old: after `LEASE_SECONDS` a waiting process replaces the lock file with its own. When the replaced
process resumes, its lease is no longer `is_ours`.

A thread writes the heartbeat. It uses the monotonic clock, which all processes of a machine share: neither steps of the
wall clock nor the machine's sleep count. If the loop of a `watched` process makes no `progress` for `STUCK_SECONDS`,
the process is stuck and its heartbeat stops. Correctness does not depend on leases: if a process is replaced by
mistake, the fence in the Delta commit rejects its commits.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError

LEASE_SECONDS = 10.0  # heartbeat age from which a process is replaced; a starved process still beats within it
STUCK_SECONDS = 600.0  # without progress of a watched loop; a large model's first build may take minutes
BEAT_SECONDS = 1.0
_CONFIRM_SECONDS = 1.5  # an old heartbeat is read twice: its process may have been stopped together with the reader
_BEAT_BYTES = 64

clock: Callable[[], float] = time.monotonic


class LeaseLostError(ConcurrentWriterError):
    """Another process has replaced this one, which had not responded for a while.

    Args:
        what: names this process.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} did not respond for {LEASE_SECONDS:.0f} s and was replaced by another process",
            "nothing is lost; unless somebody stopped it, check the memory and the load of this machine",
        )


@dataclass(frozen=True)
class Holder:
    """The holder of a lock file: its pid, and the age of its newest heartbeat in seconds."""

    pid: int
    age: float

    @property
    def is_hung(self) -> bool:
        """Whether its heartbeat is so old that it may be replaced."""
        return self.age > LEASE_SECONDS


class Lease:
    """A lock file that this process has locked; its heartbeat is renewed until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def is_ours(self) -> bool:
        """Whether nobody has replaced or removed the lock file."""
        return _is_file(self._descriptor, self.path)

    def renew(self) -> None:
        """Write a current heartbeat."""
        _write_beat(self._descriptor)

    def release(self) -> None:
        """Release the lock and remove the pid from the file."""
        _heart.forget(self)
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def acquire(path: Path) -> Lease | None:
    """Lock a file; None if a process that responds holds it.

    Raises:
        LakeError: the folder cannot be written.
    """
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
        if descriptor is None:
            descriptor = _replace_hung(path)
        return None if descriptor is None else _begin(path, descriptor)


def create(path: Path) -> Lease:
    """Put a locked file in the place of any file of this name: nobody ever sees it unlocked.

    Raises:
        LakeError: the folder cannot be written, or another process is creating the same file.
    """
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(_next(path))
        if descriptor is None:
            raise LakeError(f"the lock file {path} is being created by another process", "try again")
        _write_beat(descriptor)
        os.rename(_next(path), path)
        return _begin(path, descriptor)


def holder(path: Path) -> Holder | None:
    """The holder of a lock file; None if it is free."""
    with suppress(FileNotFoundError), _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parsed(os.pread(descriptor, _BEAT_BYTES, 0))
    return None


def is_held(path: Path) -> bool:
    """Whether a process that responds holds a lock file."""
    found = holder(path)
    return found is not None and not found.is_hung


def is_ours(path: Path) -> bool:
    """Whether this process holds a lock file."""
    return _heart.has(path)


def progress() -> None:
    """Record that the watched loop, if any, makes progress; called by its steps and after each model build."""
    _heart.progress_at = clock()


@contextmanager
def watched() -> Iterator[None]:
    """Within the block, this process counts as stuck and its heartbeat stops while there is no `progress`."""
    progress()
    _heart.watches += 1
    try:
        yield
    finally:
        _heart.watches -= 1


def is_stuck() -> bool:
    """Whether the watched loop of this process has made no progress for too long."""
    return _heart.watches > 0 and clock() - _heart.progress_at > STUCK_SECONDS


class _Heart:
    """The thread that renews the leases of this process."""

    def __init__(self) -> None:
        self.progress_at = 0.0
        self.watches = 0
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def remember(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._thread.start()

    def forget(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def has(self, path: Path) -> bool:
        with self._lock:
            return any(lease.path == path and lease.is_ours for lease in self._leases)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            if is_stuck():
                continue
            with self._lock:
                for lease in self._leases:
                    with suppress(OSError):  # a full disk: the lease may be taken over, which does no harm
                        lease.renew()


_heart = _Heart()


def _begin(path: Path, descriptor: int) -> Lease:
    lease = Lease(path, descriptor)
    try:
        lease.renew()
    except BaseException:
        os.close(descriptor)
        raise
    _heart.remember(lease)
    return lease


def _lock(path: Path) -> int | None:
    """The file's descriptor, created if needed and locked; None if another process has locked or just replaced it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _is_file(descriptor, path):
        os.close(descriptor)
        return None
    return descriptor


def _replace_hung(path: Path) -> int | None:
    """Replace the lock file of a hung holder with one that we have locked; None if it is not hung, or was replaced.

    If several processes wait, the one that has locked `<path>.next` may replace the file.
    """
    with suppress(FileNotFoundError), _opened(path) as seen:
        beat = os.pread(seen, _BEAT_BYTES, 0)
        if not beat.strip():  # stopped before its first heartbeat: write one for it, which grows old
            _write_beat(seen, pid=0)
            return None
        if not _parsed(beat).is_hung:
            return None
        time.sleep(_CONFIRM_SECONDS)
        if os.pread(seen, _BEAT_BYTES, 0) != beat:
            return None
        descriptor = _lock(_next(path))
        if descriptor is None:
            return None
        if not _is_file(seen, path):
            os.close(descriptor)
            return None
        _write_beat(descriptor)
        os.rename(_next(path), path)
        return descriptor
    return None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _next(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _write_beat(descriptor: int, pid: int | None = None) -> None:
    pid = os.getpid() if pid is None else pid
    os.pwrite(descriptor, f"{pid:<10} {clock():<20.3f}\n".encode(), 0)


def _parsed(beat: bytes) -> Holder:
    """The holder from a heartbeat; the age is 0 if there is none yet, or if it uses another machine's clock."""
    try:
        pid, at = beat.split()
        return Holder(int(pid), max(0.0, round(clock() - float(at), 1)))
    except ValueError:
        return Holder(0, 0.0)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "point FRAUD_WORK at a folder this user may write"
        raise LakeError(f"the lock file {path} cannot be opened: {error.strerror or error}", fix) from None
