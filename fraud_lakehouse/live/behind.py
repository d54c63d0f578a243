"""How far the cycle is behind each source: rows landed and not scored yet, and what the source still holds.

Threads that land and the loop that scores share it. What is too far behind is judged in `detect/behind.py`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fraud_lakehouse.lake.landed import Landed


@dataclass(frozen=True)
class Waiting:
    """What a source still has.

    Args:
        rows: records beyond our position (Kafka); None where the source counts none.
        size: bytes of log beyond our position (PostgreSQL, other tables' included); None likewise.
    """

    rows: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Behind:
    """How far a source is behind.

    Args:
        seconds: age of the oldest commit that has not been scored, as far as it is known; 0: nothing waits.
        rows: landed in bronze, not scored.
        source_rows, source_bytes: not landed, when the source was asked last.
    """

    seconds: float
    rows: int
    source_rows: int | None = None
    source_bytes: int | None = None

    def __str__(self) -> str:
        more = f", {self.source_rows:,} more in the source" if self.source_rows else ""
        return f"{self.seconds:.1f} s, {self.rows:,} rows{more}"


class Backlog:
    """Takes in what was landed and what was scored; says how far each source is behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unscored: dict[str, int] = defaultdict(int)
        self._scored_until: dict[str, datetime] = {}
        self._waiting: dict[str, Waiting] = {}
        self._is_failing = False

    def landed(self, batches: Sequence[Landed]) -> None:
        """Rows came to bronze."""
        with self._lock:
            for batch in batches:
                self._unscored[batch.source] += batch.rows

    def scored(self, batches: Sequence[Landed]) -> None:
        """The hot lane has read these batches."""
        with self._lock:
            self._is_failing = False
            for batch in batches:
                self._unscored[batch.source] -= batch.rows
                if (newest := batch.newest_committed_at) is not None:
                    self._scored_until[batch.source] = max(self._scored_until.get(batch.source, newest), newest)

    def failed(self) -> None:
        """A model of the hot lane failed: what waits in bronze waits for a person."""
        with self._lock:
            self._is_failing = True

    def is_full(self, source: str, rows: int) -> bool:
        """Whether `rows` rows of a source wait to be scored: more are better left in the source, which has them safe.

        Never while the hot lane fails: the source must not keep its log until a person has come.
        """
        with self._lock:
            return self._unscored.get(source, 0) >= rows and not self._is_failing

    def at_source(self, source: str, waiting: Waiting) -> None:
        """What a source still has."""
        with self._lock:
            self._waiting[source] = waiting

    def now(self, at: datetime | None = None) -> Mapping[str, Behind]:
        """By source, how far it is behind at a moment (UTC, default: the clock)."""
        at = at or datetime.now(UTC)
        with self._lock:
            return {source: self._of(source, at) for source in sorted({*self._unscored, *self._waiting})}

    def _of(self, source: str, at: datetime) -> Behind:
        waiting, rows = self._waiting.get(source, Waiting()), self._unscored.get(source, 0)
        until = self._scored_until.get(source)
        seconds = 0.0
        if until is not None and (rows > 0 or waiting.rows):
            seconds = max(0.0, round((at - until).total_seconds(), 1))
        return Behind(seconds, rows, waiting.rows, waiting.size)
