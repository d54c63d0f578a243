"""Ineligible tables: those that the catalog rules out, and those whose changes are skipped.

The state is in the lake, not in the process, so a restart changes nothing. Before the log advances without a table that
the lake has, that is recorded in the table. Once the table is eligible again, it is resynced (postgres.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import NEVER, SHAPE_PROPERTY, Ineligible
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.fingerprint import Shape
from fraud_lakehouse.storage.lake import Lake

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IneligibleTable:
    """A configured table that is not captured: `schema.table`, the problem and the fix."""

    table: str
    problem: str
    fix: str


def ineligible_tables(lake: Lake, capture: PostgresCapture) -> list[IneligibleTable]:
    """The tables that are not captured, as of the capture's last call of `tables`."""
    found = [IneligibleTable(one.table, one.error.problem, one.error.fix) for one in capture.refused]
    for info in capture.seen_tables:
        if (why := ineligible(lake, info.name)) is not None:
            found.append(IneligibleTable(info.source_name, why.problem, why.fix))
    return found


def ineligible(lake: Lake, name: str) -> Ineligible | None:
    """Why changes of a bronze table are skipped; None if they are not."""
    if not lake.exists("bronze", name):
        return None
    return Ineligible.of(lake.open("bronze", name).metadata().configuration)


class IneligibleTables:
    """The tables of one source that were ineligible at the last check of the catalog.

    Args:
        lake: has the tables captured so far, with their positions.
        capture: its `refused` has the ineligible tables.
        opened: returns the open bronze table of that name.
    """

    def __init__(self, lake: Lake, capture: PostgresCapture, opened: Callable[[str], BronzeTable]) -> None:
        self._lake = lake
        self._capture = capture
        self._opened = opened
        self._heeded: list[Ineligibility] | None = None
        self._reported: set[str] = set()

    def enforce(self) -> None:
        """Continue without the ineligible tables; logs each once per process.

        If the lake has such a table and the log has changes of it, the table first records that they are skipped. A
        table that is not in the log (dropped, recreated, removed from the publication) is resynced anyway when it
        returns.

        Raises:
            ConcurrentWriterError, LakeError: it could not be recorded.
        """
        refused = self._capture.refused
        if refused is self._heeded:
            return
        for ineligibility in refused:
            if ineligibility.in_log and self._is_ingested(ineligibility):
                table, error = self._opened(ineligibility.name), ineligibility.error
                before = Ineligible.of(table.properties)
                if before is None or before.problem != error.problem:
                    Ineligible(error.problem, error.fix, NEVER).record(table)
            if ineligibility.error.problem not in self._reported:
                log.warning("not captured until it is fixed: %s", ineligibility.error)
        self._reported = {ineligibility.error.problem for ineligibility in refused}
        self._heeded = refused

    def _is_ingested(self, ineligibility: Ineligibility) -> bool:
        """Whether the lake has this very table, not an earlier one of the same name."""
        if not self._lake.exists("bronze", ineligibility.name):
            return False
        handle = self._lake.open("bronze", ineligibility.name)
        if handle.transaction_version(self._capture.app_id_of(ineligibility.name)) is None:
            return False
        shape = handle.metadata().configuration.get(SHAPE_PROPERTY)
        return shape is not None and Shape.read(shape).oid == ineligibility.oid
