"""`control/audit`: what happened to each source, and the source identities that the lake knows.

A source is registered with its identity when it is first captured. If the same setting later leads to another identity
(a restored database, a recreated topic), that is a gap: capture stops until an operator accepts the new identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakeError
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import AUDIT, COMMIT

IDENTITY_EVENTS = ("registered", "accepted", "resync_started")
"""Events whose row contains a source's identity; the newest counts."""
ORDERS = ("accepted", "resync_started", "slot_forgotten")
"""Operator actions that abandon the source's position at that time and begin again from there."""
RENAMED = {"postgres": "bank", "kafka": "cards"}
"""Current names of the two sources of version 0.1; its rows are read under these names."""
_ATTEMPTS = 20


@dataclass(frozen=True)
class AuditRow:
    """One row of `control/audit`; `at` is UTC, `detail` the decoded JSON object."""

    at: datetime
    source: str
    event: str
    detail: Mapping[str, Any]


class Audit:
    """The table, with an open handle and its rows in memory (a handful per year).

    Args:
        renamed: former name of a source -> its name now.
    """

    def __init__(self, lake: Lake, renamed: Mapping[str, str] | None = None) -> None:
        self._renamed = {**RENAMED, **(renamed or {})}
        self._appender = Appender.open(lake, "control", "audit", AUDIT)
        self._rows: list[AuditRow] = []
        self._rows_version = -1

    def record(self, source: str, event: str, detail: Mapping[str, Any]) -> None:
        """Append one row, durably."""
        before, at = self._appender.version, datetime.now(UTC)
        text = json.dumps(dict(detail), default=str, ensure_ascii=False)
        row = {"at": at, "source": source, "event": event, "detail": text}
        version = self._append(pl.DataFrame([row], schema=AUDIT))
        if self._rows_version == before == version - 1:
            self._rows.append(AuditRow(at, self._renamed.get(source, source), event, json.loads(text)))
            self._rows_version = version

    def _append(self, row: pl.DataFrame) -> int:
        """Append a row; retry if other writers commit first."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._appender.append(row, {})
            except ConcurrentWriterError:  # the handle is at the other writer's commit now
                continue
        return self._appender.append(row, {})

    def rows(self, source: str) -> list[AuditRow]:
        """A source's rows in commit order, including those of other writers."""
        self._appender.refresh()
        if self._rows_version != self._appender.version:
            frame = self._appender.read()
            number = [pl.col(COMMIT).fill_null(0)] if COMMIT in frame.columns else []  # older rows have none
            frame = frame.sort(*number, "at", maintain_order=True)
            self._rows = [
                AuditRow(at, self._renamed.get(name, name), event, json.loads(detail or "{}"))
                for at, name, event, detail in frame.select("at", "source", "event", "detail").iter_rows()
            ]
            self._rows_version = self._appender.version
        wanted = self._renamed.get(source, source)
        return [row for row in self._rows if row.source == wanted]

    def known(self, source: str, scope: str = "") -> AuditRow | None:
        """The newest registration or acceptance of a source; `scope` distinguishes e.g. two topics."""
        events = [r for r in self.rows(source) if r.event in IDENTITY_EVENTS]
        return next((row for row in reversed(events) if row.detail.get("scope", "") == scope), None)

    def check(self, source: str, identity: str, changed: GapError, scope: str = "") -> None:
        """Register the identity the first time; afterwards raise `changed` if it differs."""
        known = self.known(source, scope)
        if known is None:
            self.record(source, "registered", {"identity": identity, "scope": scope})
        elif known.detail["identity"] != identity:
            raise changed

    def order(self, source: str, identity: str, position: int | None) -> str | None:
        """The newest operator action (`ORDERS`) if identity and position are still those it was recorded for."""
        given = next((row for row in reversed(self.rows(source)) if row.event in ORDERS), None)
        if given is None or given.detail["identity"] != identity or given.detail.get("position") != position:
            return None
        return given.event

    @contextmanager
    def gaps(self, source: str) -> Iterator[None]:
        """Record a GapError once, not at every retry, and raise it again.

        The event is the error's class in snake case: `slot_lost` for SlotLostError, `gap` for GapError.
        """
        try:
            yield
        except GapError as error:
            try:
                self._record_gap(source, error)
            except LakeError as lake_error:
                error.add_note(f"and it could not be recorded in control/audit: {lake_error}")
            raise

    def _record_gap(self, source: str, error: GapError) -> None:
        event = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()
        stopped = self.stopped(source)
        if stopped is not None and stopped.event == event:  # the message names the log's end, which moves
            return
        self.record(source, event, {"problem": error.problem, "fix": error.fix, "gap": True})

    def stopped(self, source: str) -> AuditRow | None:
        """The row of the gap at which capture of a source stopped; None if a newer row exists."""
        rows = self.rows(source)
        return rows[-1] if rows and rows[-1].detail.get("gap") else None

    def resumed(self, source: str) -> None:
        """Record that capture works again, if the newest row records a stop."""
        rows = self.rows(source)
        if rows and (rows[-1].detail.get("gap") or rows[-1].event == "accepted"):
            self.record(source, "resumed", {})
