"""When the lanes beside the cycle may be built again: they rest five times as long as they worked."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

SHARE = 5.0  # the lanes may take a fifth of the time, and of a processor
LONGEST_SECONDS = 3600.0  # that a process takes over from the one before; a clock may have been set back since


class Rest:
    """Known across processes: with a large lake a live run's handing over would else begin with a build of minutes.

    Args:
        work: folder for the moment at which the rest is over (`settings.work_dir`).
    """

    def __init__(self, work: Path) -> None:
        self._path = work / "beside.rest"
        left = 0.0
        with suppress(FileNotFoundError, ValueError):  # written by no process yet, or cut off by a kill
            left = float(self._path.read_text()) - time.time()
        self._over = time.monotonic() + (left if left <= LONGEST_SECONDS else 0.0)

    @property
    def is_over(self) -> bool:
        """Whether the lanes may be built."""
        return time.monotonic() >= self._over

    def begin(self, worked: float, at_least: float) -> None:
        """Rest after `worked` seconds of building, `at_least` so long; the latter holds for this process alone."""
        now = time.monotonic()
        self._over = now + max(SHARE * worked, at_least)
        with suppress(OSError):  # a full disk costs the next process a build
            self._path.write_text(f"{time.time() + SHARE * worked}")

    def end(self) -> None:
        """The lanes may be built at once, by this process or the next: what builds them has changed."""
        self._over = time.monotonic()
        with suppress(OSError):  # there is none, or a full disk: the next process rests
            self._path.unlink()
