"""The demo's folder: one running demo at a time. What lies in the folder is decided by who puts it there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from fraud_lakehouse.errors import LakehouseError


class HomeInUseError(LakehouseError):
    """Another demo runs on the same folder."""


class HomeLock:
    """Holds `<home>/demo.pid` while the block runs; the kernel gives it back should we be killed.

    Args:
        home: the demo's folder, created if absent.

    Raises:
        HomeInUseError: on entry, when another process holds it; names its pid.
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
        if not current:  # its holder removed it between our open and our lock
            os.close(file)
            return None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return file
