"""The part of a cycle that every loop shares: score the ingested rows and update the backlog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.cycle import Cycle, CycleResult


class Scoring:
    """Runs cycles over ingested batches and records in the backlog what was scored.

    Args:
        backlog: knows which batches are ingested.
    """

    def __init__(self, cycle: Cycle, backlog: Backlog) -> None:
        self._cycle = cycle
        self._backlog = backlog
        self._unscored: list[Ingested] = []

    def run(
        self, ingested: Sequence[Ingested], *, is_shared: bool, pause: Callable[[], float] = lambda: 0.0
    ) -> CycleResult:
        """Score ingested rows, deliver alerts, build due follow-up models. The result has the remaining backlog.

        Args:
            landed: the new batches.
            is_shared: whether another process has ingested rows as well.
            pause: seconds from one build of the follow-up models to the next; called after the alerts.
        """
        result = self._cycle.run(ingested, is_shared=is_shared)
        self._unscored += ingested
        if result.builds:
            waiting = [batch for batch in self._unscored if batch.table in result.unscored]
            scored = [batch for batch in self._unscored if batch.table not in result.unscored]
            self._backlog.scored(scored, {batch.source for batch in waiting})
            self._unscored = waiting
        return replace(self._cycle.follow(result, pause=pause()), behind=self._backlog.now())
