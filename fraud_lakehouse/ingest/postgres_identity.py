"""Checks that the server is the one that the lake was filled from, on a timeline that has all ingested changes.

The identity (`pg:<system id>:<slot>`) and the timeline's history are in control/audit. After a promotion that kept
every ingested change, capture continues and records the new timeline; any other difference stops it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.errors import (
    SlotForeignError,
    SlotRenamedError,
    SourceIdentityError,
    TimelineError,
)
from fraud_lakehouse.sources.postgres.slot_state import format_lsn
from fraud_lakehouse.sources.postgres.timeline import Timeline
from fraud_lakehouse.storage.audit import Audit

_ACCEPT = "capture this one: `fraud-lakehouse accept-source postgres` (a new snapshot replaces the rows in bronze)"


class PostgresIdentity:
    """Compares the recorded identity of the server with the actual one.

    Args:
        audit: has the recorded identity.
        capture: the server.
    """

    def __init__(self, audit: Audit, capture: PostgresCapture) -> None:
        self._audit = audit
        self._capture = capture

    def check(self, position: int | None) -> None:
        """Compare; writes only a harmless change of the timeline.

        Args:
            position: the slot's position in the lake, None before a snapshot is complete.

        Raises:
            SourceIdentityError: another server. SlotRenamedError: another slot of the same server.
            TimelineError: the server's timeline branched off before `position`.
            SlotForeignError: the slot exists, but the lake never captured this source.
        """
        known = self._audit.known(self._capture.config.name)
        if known is None:
            if self._capture.slot_exists():
                raise self._foreign()
            return
        was, now = str(known.detail["identity"]), self._capture.app_id
        if was != now:
            raise _renamed(was, now) if was.split(":")[1] == now.split(":")[1] else _other_server(was, now)
        if position is not None:
            self._check_timeline(position)

    def register(self) -> None:
        """Record identity and timeline, unless the lake has them."""
        if self._audit.known(self._capture.config.name) is None:
            self._audit.record(self._capture.config.name, "registered", identity_detail(self._capture))

    def _check_timeline(self, position: int) -> None:
        now = self._capture.timeline()
        reported = [Timeline.of_detail(row.detail) for row in self._audit.rows(self._capture.config.name)]
        before = next((one for one in reversed(reported) if one is not None), None)
        if now == before:
            return
        if before is not None:
            left = now.left_at(before)
            if left is None or left < position:
                raise _other_history(before, now, left, position)
        self._audit.record(self._capture.config.name, "timeline", now.detail())

    def _foreign(self) -> SlotForeignError:
        slot = self._capture.slot
        return SlotForeignError(
            f"replication slot {slot} exists already, but this lake has never captured from it: another lake may be"
            " reading it, and would lose changes",
            "give this lake another slot (FRAUD_POSTGRES_SLOT); if that one is unused, `fraud-lakehouse"
            " forget-slot` drops it",
        )


def identity_detail(capture: PostgresCapture) -> Mapping[str, Any]:
    """The detail in control/audit of a source that is registered or accepted."""
    return {"identity": capture.app_id, "scope": "", **capture.timeline().detail()}


def _other_server(was: str, now: str) -> SourceIdentityError:
    return SourceIdentityError(
        f"the PostgreSQL source is now {now}, the lake was filled from another cluster: {was}",
        f"point FRAUD_POSTGRES_DSN back at the old server; or {_ACCEPT}",
    )


def _renamed(was: str, now: str) -> SlotRenamedError:
    before, after = was.split(":")[2], now.split(":")[2]
    return SlotRenamedError(
        f"FRAUD_POSTGRES_SLOT is {after}, the lake was filled through slot {before} of the same server",
        f"set it back; or continue with {after}: `fraud-lakehouse resync` creates it and ingests what the lake lacks"
        f" (then drop the old one, which retains log: select pg_drop_replication_slot('{before}'))",
    )


def _other_history(before: Timeline, now: Timeline, left: int | None, position: int) -> TimelineError:
    where = "does not include that one" if left is None else f"branched off at {format_lsn(left)}"
    return TimelineError(
        f"the server is on timeline {now.number}; the lake was filled from timeline {before.number} up to"
        f" {format_lsn(position)}, and the server's history {where}: it lacks changes that the lake has",
        f"point FRAUD_POSTGRES_DSN at the server that has them; or {_ACCEPT}",
    )
