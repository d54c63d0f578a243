"""The cycle with an update delay: the sources are drained once an interval, in cycles of a micro-batch each.

In between alerts are delivered again where that failed, failed models are built again, and a source that was away is
drained as soon as it may be asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from fraud_lakehouse.ingest.landed import Landed
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.cycle import Cycle, CycleResult
from fraud_lakehouse.live.ingesting import AWAY_SECONDS
from fraud_lakehouse.live.scoring import Scoring


class Intervals:
    """Knows when the sources are to be drained, and does it.

    Args:
        cycle: with `update_delay` seconds in its settings.
    """

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        away = AWAY_SECONDS + cycle.settings.update_delay
        self._backlog = Backlog((source.name for source in cycle.sources), away)
        self._scoring = Scoring(cycle, self._backlog)
        self._due = 0.0

    @property
    def is_time(self) -> bool:
        """Whether the sources are to be drained now."""
        away = (source for source in self._cycle.sources if source.problem)
        return time.monotonic() >= self._due or any(source.is_ready for source in away)

    def cycles(self, stop: Callable[[], bool]) -> Iterator[CycleResult]:
        """The cycles that are to be run now: those of a drain if it is time for one, else one without a capture."""
        if not self.is_time:
            yield self._scoring.run([], is_shared=False, is_busy=lambda: False)
            return
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._cycle.settings.update_delay
        began, is_first = datetime.now(UTC), True
        while is_first or not stop():
            landed = self._cycle.capture()
            self._backlog.landed(landed)
            for source in self._cycle.sources:
                if not source.problem:
                    self._backlog.read(source.name, source.position())
                    source.tell(self._backlog)
            is_busy = partial(self._has_more, landed, began)
            # The first of a drain builds in any case: another process may have landed rows.
            yield self._scoring.run(landed, is_shared=is_first, is_busy=is_busy)
            if not is_busy():
                return
            is_first = False

    def _has_more(self, landed: Sequence[Landed], began: datetime) -> bool:
        """Whether a source may have more of what it had when the drain began; what comes later is the next one's."""
        is_full = sum(batch.rows for batch in landed) >= self._cycle.settings.batch_rows
        return is_full or any(
            batch.newest_committed_at is None or batch.newest_committed_at < began for batch in landed
        )
