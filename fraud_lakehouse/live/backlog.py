"""How far the cycle is behind each source: rows ingested and not yet scored, and rows still in the source.

Shared by the threads that ingest and the loop that scores. `checks/lag.py` decides what is too far behind.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from fraud_lakehouse.ingest.base import Waiting
from fraud_lakehouse.ingest.ingested import Ingested

ASKS = 720  # answers kept per source: one hour


@dataclass(frozen=True)
class Behind:
    """How far a source is behind.

    Args:
        seconds: age of the oldest row known to be unscored: since its commit or, while it is still in the source,
            since it was first seen there; 0: no such row is known.
        rows: ingested into bronze, not scored.
        source_rows, source_bytes, retained_bytes: not ingested, and what the server retains, as of the source's last
            answer; None if the source does not count it.
        away_since: time of the source's last answer (UTC) if it is overdue: the source is unreachable, waits for a
            person, or is busy with one batch, and its backlog is unknown. Else None.
        delay: configured seconds between reads (`update_delay`).
    """

    seconds: float
    rows: int
    source_rows: int | None = None
    source_bytes: int | None = None
    retained_bytes: int | None = None
    away_since: datetime | None = None
    delay: float = 0.0

    def exceeds(self, limit: float) -> bool:
        """Whether a row older than `limit` seconds plus the delay may be unscored."""
        return self.seconds > limit + self.delay or self.away_since is not None

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values; times as ISO 8601."""
        return asdict(self) | {"away_since": self.away_since and self.away_since.isoformat()}

    def __str__(self) -> str:
        parts = [f"{self.seconds:.1f} s", f"{self.rows:,} rows"]
        parts += [f"{self.source_rows:,} more in the source"] if self.source_rows else []
        parts += [f"{self.source_bytes:,} bytes of log"] if self.source_bytes else []
        parts += [f"no answer from it since {self.away_since:%F %T} UTC"] if self.away_since else []
        return ", ".join(parts)


class Backlog:
    """Records what was ingested and scored; computes how far behind each source is.

    Args:
        sources: names of the sources that will be polled -> seconds between reads.
        unreachable_after: seconds without an answer, in addition to those, after which a source counts as unreachable.
        at: now (UTC, default: the clock), as in every call that takes it.
    """

    def __init__(
        self,
        sources: Mapping[str, float] | None = None,
        unreachable_after: float = math.inf,
        at: datetime | None = None,
    ) -> None:
        self._unreachable_after = unreachable_after
        self._lock = threading.Lock()
        self._sources = {name: _Source(at or datetime.now(UTC), delay) for name, delay in (sources or {}).items()}
        self._failing: Collection[str] = ()

    def ingested(self, batches: Sequence[Ingested], at: datetime | None = None) -> None:
        """Record batches ingested into bronze."""
        at = at or datetime.now(UTC)
        with self._lock:
            for batch in batches:
                self._source(batch.source, at).land(batch, at)

    def scored(self, batches: Sequence[Ingested], failing: Collection[str] = ()) -> None:
        """Record that the fast path has read these batches, all of them ingested before.

        Args:
            failing: sources with other batches that wait for a failed model.
        """
        with self._lock:
            self._failing = failing
            for batch in batches:
                self._sources[batch.source].score(batch)

    def is_full(self, source: str, rows: int) -> bool:
        """Whether `rows` rows of a source wait to be scored; further rows then stay in the source, where they are safe.

        Never true while a model that reads them fails: the source must not retain its log until somebody repairs it.
        """
        with self._lock:
            is_known = source in self._sources and source not in self._failing
            return is_known and self._sources[source].rows >= rows

    def at_source(self, source: str, waiting: Waiting, position: Mapping[str, int], at: datetime | None = None) -> None:
        """Record a source's answer: what it still has, and up to where each part of it has been read."""
        at = at or datetime.now(UTC)
        with self._lock:
            self._source(source, at).answer(waiting, position, at)

    def read(self, source: str, position: Mapping[str, int]) -> None:
        """Record up to where each part of a source has been read and ingested."""
        with self._lock:
            self._source(source, datetime.now(UTC)).read(position)

    def now(self, at: datetime | None = None) -> Mapping[str, Behind]:
        """How far behind each source is, by name."""
        at = at or datetime.now(UTC)
        with self._lock:
            return {name: source.behind(at, self._unreachable_after) for name, source in sorted(self._sources.items())}

    def _source(self, name: str, at: datetime) -> _Source:
        if name not in self._sources:
            self._sources[name] = _Source(at)
        return self._sources[name]


class _Source:
    """State of one source."""

    def __init__(self, at: datetime, delay: float = 0.0) -> None:
        self.rows = 0
        self._delay = delay
        self._unscored: deque[tuple[Ingested, datetime]] = deque()  # with the commit time of its oldest row
        self._answered_at = at
        self._waiting = Waiting()
        self._unread: deque[tuple[datetime, Mapping[str, int]]] = deque(maxlen=ASKS)
        """Answers by time, until everything the source had then is read: the end positions of the unread parts."""
        self._newest: tuple[datetime, datetime] | None = None  # when a batch was ingested last, and its newest commit

    def land(self, batch: Ingested, at: datetime) -> None:
        self.rows += batch.rows
        self._unscored.append((batch, batch.oldest_committed_at or at))
        if batch.newest_committed_at is not None:
            self._newest = max((at, batch.newest_committed_at), self._newest or (at, batch.newest_committed_at))

    def score(self, batch: Ingested) -> None:
        del self._unscored[next(place for place, (one, _) in enumerate(self._unscored) if one == batch)]
        self.rows -= batch.rows

    def answer(self, waiting: Waiting, position: Mapping[str, int], at: datetime) -> None:
        self._answered_at, self._waiting = at, waiting
        self.read(position)
        if left := {part: end for part, end in waiting.ends.items() if end > position.get(part, 0)}:
            self._unread.append((at, left))

    def read(self, position: Mapping[str, int]) -> None:
        while self._unread and all(position.get(part, end) >= end for part, end in self._unread[0][1].items()):
            self._unread.popleft()

    def behind(self, at: datetime, unreachable_after: float) -> Behind:
        waiting, oldest = self._waiting, self._oldest()
        is_unreachable = (at - self._answered_at).total_seconds() > unreachable_after + self._delay
        return Behind(
            max(0.0, round((at - oldest).total_seconds(), 1)) if oldest else 0.0,
            self.rows,
            waiting.rows,
            waiting.size,
            waiting.retained,
            self._answered_at if is_unreachable else None,
            self._delay,
        )

    def _oldest(self) -> datetime | None:
        """Since when the oldest row waits; None if no waiting row is known."""
        known = [since for _, since in self._unscored]
        if self._unread:
            since = self._unread[0][0]
            known.append(since)
            # A batch ingested since then held rows that waited then; whatever still waits was committed after it.
            if self._newest is not None and self._newest[0] >= since:
                known.append(self._newest[1])
        return min(known, default=None)
