"""When the deferred models may be built again: the pause is five times as long as the build."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

SHARE = 5.0  # pause per second of building: deferred models take at most a sixth of the time and of a processor
LONGEST_SECONDS = 3600.0  # of an inherited pause; longer means that the clock was set back


class Rest:
    """The pause between builds of deferred models, shared across processes.

    Otherwise, with a large lake, every new live process would begin with a build of minutes.

    Args:
        work: folder of the file that stores when the pause ends (`settings.work_dir`).
    """

    def __init__(self, work: Path) -> None:
        self._path = work / "beside.rest"
        left = 0.0
        with suppress(FileNotFoundError, ValueError):  # not written yet, or truncated by a kill
            left = float(self._path.read_text()) - time.time()
        self._over = time.monotonic() + (left if left <= LONGEST_SECONDS else 0.0)

    @property
    def is_over(self) -> bool:
        """Whether the deferred models may be built."""
        return time.monotonic() >= self._over

    def begin(self, worked: float, at_least: float) -> None:
        """Pause after `worked` seconds of building, for `at_least` seconds; this minimum is not shared."""
        now = time.monotonic()
        self._over = now + max(SHARE * worked, at_least)
        with suppress(OSError):  # a full disk: the next process builds once more than necessary
            self._path.write_text(f"{time.time() + SHARE * worked}")

    def end(self) -> None:
        """End the pause, for this process and the next: the project has changed."""
        self._over = time.monotonic()
        with suppress(OSError):  # no file, or a full disk: the next process pauses
            self._path.unlink()
