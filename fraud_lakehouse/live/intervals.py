"""The cycle where every source has an update delay: each is drained once in its own, in cycles of a micro-batch each.

In between alerts are delivered again where that failed, failed models are built again, and a source that was away is
drained as soon as it may be asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.cycle import BUSY_FOLLOW_SECONDS, Cycle, CycleResult
from fraud_lakehouse.live.ingesting import AWAY_SECONDS, may_have_more
from fraud_lakehouse.live.scoring import Scoring
from fraud_lakehouse.live.source import Source


class Intervals:
    """Knows when each source is to be drained, and does it.

    Args:
        cycle: each of its sources has an update delay.
    """

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        delays = {source.name: source.ingest.update_delay for source in cycle.sources}
        self._backlog = Backlog(delays, AWAY_SECONDS)
        self._scoring = Scoring(cycle, self._backlog)
        self._due = dict.fromkeys(delays, 0.0)

    @property
    def is_time(self) -> bool:
        """Whether a source is to be drained now."""
        return bool(self._now())

    def cycles(self, stop: Callable[[], bool]) -> Iterator[CycleResult]:
        """The cycles that are to be run now: those of a drain if it is time for one, else one without ingestion."""
        if not (now := self._now()):
            yield self._scoring.run([], is_shared=False)
            return
        for source in now:
            if time.monotonic() >= self._due[source.name]:
                self._due[source.name] = time.monotonic() + source.ingest.update_delay
        began, is_first = datetime.now(UTC), True
        while is_first or not stop():
            landed = self._cycle.capture(only=[source.name for source in now])
            self._backlog.landed(landed)
            for source in now:
                if not source.problem:
                    self._backlog.read(source.name, source.ingest.position())
                    source.tell(self._backlog)
            has_more = may_have_more(landed, began, self._cycle.settings.batch_rows)
            pause = (lambda: BUSY_FOLLOW_SECONDS) if has_more else (lambda: 0.0)
            # The first of a drain builds in any case: another process may have landed rows.
            yield self._scoring.run(landed, is_shared=is_first, pause=pause)
            if not has_more:
                return
            is_first = False

    def _now(self) -> list[Source]:
        """Sources whose time has come, and those that failed and may be tried again."""
        at = time.monotonic()
        sources = self._cycle.sources
        return [one for one in sources if at >= self._due[one.name] or (one.problem and one.is_ready)]
