"""Tables of the source that cannot be captured, held against what the lake has: which may be left out for now.

What the lake has decides, never what a process happens to remember: a restart changes nothing.
"""

from __future__ import annotations

import logging

from fraud_lakehouse.capture.postgres import PostgresCapture
from fraud_lakehouse.capture.postgres_refusal import Refusal
from fraud_lakehouse.capture.postgres_traces import Shape
from fraud_lakehouse.lake.evolution import SHAPE_PROPERTY
from fraud_lakehouse.lake.lake import Lake

log = logging.getLogger(__name__)


class PostgresRefusals:
    """What the catalog's last look refused, of one source.

    Args:
        lake: has the tables captured so far, with their positions.
        capture: its `refused` is what the last look refused.
    """

    def __init__(self, lake: Lake, capture: PostgresCapture) -> None:
        self._lake = lake
        self._capture = capture
        self._heeded: list[Refusal] | None = None
        self._told: set[str] = set()

    def heed(self) -> None:
        """Go on without the refused tables, each told once in the process's log; unless that would lose changes.

        Raises:
            SourceError: as `check`.
        """
        refused = self._capture.refused
        if refused is self._heeded:
            return
        self.check()
        for refusal in refused:
            if refusal.error.problem not in self._told:
                log.warning("not captured until it is mended: %s", refusal.error)
        self._told = {refusal.error.problem for refusal in refused}
        self._heeded = refused

    def check(self) -> None:
        """See that the log has no changes of a refused table which the lake has: they would be passed over.

        A table that is not in the log (dropped, made anew, taken out of the publication) loses nothing by going on
        without it: once it is mended, it is resynced. One that the lake never had gets its snapshot then.

        Raises:
            SourceError: of the first such table; names the statement that mends it.
        """
        for refusal in self._capture.refused:
            if refusal.in_log and self._is_landed(refusal):
                raise refusal.error

    def _is_landed(self, refusal: Refusal) -> bool:
        """Whether the lake has the very table, not an earlier one of its name."""
        if not self._lake.exists("bronze", refusal.name):
            return False
        handle = self._lake.open("bronze", refusal.name)
        if handle.transaction_version(self._capture.app_id_of(refusal.name)) is None:
            return False
        shape = handle.metadata().configuration.get(SHAPE_PROPERTY)
        return shape is not None and Shape.read(shape).oid == refusal.oid
