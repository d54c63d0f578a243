"""What follows rows landed in bronze, and what of them is scored then: the part of a cycle that every loop has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fraud_lakehouse.ingest.landed import Landed
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.cycle import Cycle, CycleResult


class Scoring:
    """Runs cycles over what others land, and tells the backlog what came of it.

    Args:
        backlog: knows what has landed.
    """

    def __init__(self, cycle: Cycle, backlog: Backlog) -> None:
        self._cycle = cycle
        self._backlog = backlog
        self._unscored: list[Landed] = []

    def run(
        self, landed: Sequence[Landed], *, is_shared: bool, pause: Callable[[], float] = lambda: 0.0
    ) -> CycleResult:
        """Score what has landed, deliver, and build what is due beside the alerts; tells how far behind that leaves.

        Args:
            landed: the new batches.
            is_shared: another process has landed some as well.
            pause: seconds from one build of the models after the alerts to the next; called after the alerts.
        """
        result = self._cycle.run(landed, is_shared=is_shared)
        self._unscored += landed
        if result.builds:
            waiting = [batch for batch in self._unscored if batch.table in result.unscored]
            scored = [batch for batch in self._unscored if batch.table not in result.unscored]
            self._backlog.scored(scored, {batch.source for batch in waiting})
            self._unscored = waiting
        return replace(self._cycle.follow(result, pause=pause()), behind=self._backlog.now())
