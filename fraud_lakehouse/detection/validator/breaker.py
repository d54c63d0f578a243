"""A circuit breaker: after several failures in a row, nothing is sent for a while; then one request tries again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

FAILURES = 5  # in a row, until it opens
LONGEST_SECONDS = 60.0


def pause_after(failures: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures: 1, 2, 4, … 60, less up to half of it by chance."""
    return float(min(2.0 ** min(failures - 1, 10), LONGEST_SECONDS)) * (0.5 + 0.5 * chance())


class Breaker:
    """Counts failures in a row, of requests from several threads.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether requests may be sent as usual."""
        return self._failures < FAILURES

    @property
    def may_try(self) -> bool:
        """Whether one request may be sent."""
        return self.is_closed or self._clock() >= self._until

    def succeeded(self) -> None:
        """Note a usable answer: it closes."""
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        """Note a failure; from the fifth in a row on, it is open for a growing time."""
        with self._lock:
            self._failures += 1
            if not self.is_closed:
                self._until = self._clock() + pause_after(self._failures - FAILURES + 1)
