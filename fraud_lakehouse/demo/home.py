"""The demo's folder, with at most one running demo."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from fraud_lakehouse.errors import LakehouseError


class HomeInUseError(LakehouseError):
    """Another demo uses the same folder."""


class HomeLock:
    """Locks `<home>/demo.pid` inside the block; the kernel releases the lock if we are killed.

    Args:
        home: the demo's folder, created if absent.

    Raises:
        HomeInUseError: on entry, if another process has the lock; names its pid.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "demo.pid"
        self._file: int | None = None

    def __enter__(self) -> HomeLock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                self._file = self._take()
        except OSError as error:
            raise LakehouseError(
                f"the demo's folder {self._path.parent} cannot be written: {error.strerror or error}",
                "choose another --home",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _take(self) -> int | None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise HomeInUseError(
                f"another demo (pid {holder}) is running on {self._path.parent}",
                "stop it with Ctrl-C in its terminal, or choose another --home",
            ) from None
        try:
            current = os.stat(self._path).st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            current = False
        if not current:  # the other process removed it between our open and our lock
            os.close(file)
            return None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return file
