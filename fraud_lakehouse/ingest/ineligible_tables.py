"""Tables that are not captured as they are now: those the catalog refuses, and those whose changes are left out.

What the lake has decides, never what a process happens to remember: a restart changes nothing. Before the log goes on
without a table that the lake has, this is recorded in the table; once the table is eligible again, a resync makes its
changes good (ingest_postgres.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import NEVER, SHAPE_PROPERTY, Ineligible
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.eligibility import Refusal
from fraud_lakehouse.sources.postgres.fingerprint import Shape
from fraud_lakehouse.storage.lake import Lake

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IneligibleTable:
    """A table that was asked for and is not captured as it is now: `schema.table`, why, and what helps."""

    table: str
    problem: str
    fix: str


def ineligible_tables(lake: Lake, capture: PostgresCapture) -> list[IneligibleTable]:
    """The tables that are not captured, as of the capture's last `tables`."""
    found = [IneligibleTable(one.table, one.error.problem, one.error.fix) for one in capture.refused]
    for info in capture.seen_tables:
        if (why := ineligible(lake, info.name)) is not None:
            found.append(IneligibleTable(info.source_name, why.problem, why.fix))
    return found


def ineligible(lake: Lake, name: str) -> Ineligible | None:
    """Why changes of a bronze table are left out; None where they are not."""
    if not lake.exists("bronze", name):
        return None
    return Ineligible.of(lake.open("bronze", name).metadata().configuration)


class PostgresRefusals:
    """What the catalog's last look refused, of one source.

    Args:
        lake: has the tables captured so far, with their positions.
        capture: its `refused` is what the last look refused.
        opened: gives the warm handle of a bronze table.
    """

    def __init__(self, lake: Lake, capture: PostgresCapture, opened: Callable[[str], BronzeTable]) -> None:
        self._lake = lake
        self._capture = capture
        self._opened = opened
        self._heeded: list[Refusal] | None = None
        self._told: set[str] = set()

    def heed(self) -> None:
        """Go on without the refused tables, each reported once in the process's log.

        Of one that the lake has and the log still has changes of, it is recorded first that they are left out. A table
        that is not in the log (dropped, made anew, taken out of the publication) is resynced anyway when it is back.

        Raises:
            ConcurrentWriterError, LakeError: it could not be recorded.
        """
        refused = self._capture.refused
        if refused is self._heeded:
            return
        for refusal in refused:
            if refusal.in_log and self._is_landed(refusal):
                table, error = self._opened(refusal.name), refusal.error
                before = Ineligible.of(table.properties)
                if before is None or before.problem != error.problem:
                    Ineligible(error.problem, error.fix, NEVER).record(table)
            if refusal.error.problem not in self._told:
                log.warning("not captured until it is mended: %s", refusal.error)
        self._told = {refusal.error.problem for refusal in refused}
        self._heeded = refused

    def _is_landed(self, refusal: Refusal) -> bool:
        """Whether the lake has the very table, not an earlier one of its name."""
        if not self._lake.exists("bronze", refusal.name):
            return False
        handle = self._lake.open("bronze", refusal.name)
        if handle.transaction_version(self._capture.app_id_of(refusal.name)) is None:
            return False
        shape = handle.metadata().configuration.get(SHAPE_PROPERTY)
        return shape is not None and Shape.read(shape).oid == refusal.oid
