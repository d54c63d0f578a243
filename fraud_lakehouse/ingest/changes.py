"""From the replication slot's log to bronze, exactly once. Snapshots and checks of the source are not here.

Order of one batch: peek after our positions -> stage the rows in pieces -> commit each table's rows with its position
-> commit the slot's position with the batch's rows in control/batches -> (all of it fsynced) -> acknowledge the slot.
An interruption anywhere loses and duplicates nothing: the slot moves last, so at worst it sends changes again, and each
table skips those up to its own position.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import polars as pl

from fraud_lakehouse.errors import ConcurrentWriterError, SourceError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.ingest.batches import Batch, Batches
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import OWNER_PROPERTY, Ineligible, evolve, first_properties
from fraud_lakehouse.ingest.ineligible_tables import IneligibleTables
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.changes import Changes
from fraud_lakehouse.sources.postgres.errors import TableFailedError, one_table
from fraud_lakehouse.storage.lake import Lake

log = logging.getLogger(__name__)

IDLE_BYTES = 16 * 1024 * 1024
IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class _Staged:
    """Staged rows of one table: its latest description, oldest and newest commit time."""

    info: TableInfo
    rows: int
    oldest: datetime | None
    newest: datetime | None


class ChangeIngest:
    """Ingests the log of one slot and keeps its bronze tables open. One instance per thread.

    Args:
        lake: the target.
        capture: the source; its slot must exist.
        batches: `control/batches`, which has the slot's position.
    """

    def __init__(self, lake: Lake, capture: PostgresCapture, batches: Batches) -> None:
        self.lake = lake
        self.capture = capture
        self.batches = batches
        self.dropped: dict[str, int] = {}
        """Positions of bronze tables that the source has dropped: the log may still have their last events."""
        self.waiting: set[int] = set()
        """Oids of tables whose snapshot or resync is due, which will include their changes in the log."""
        self._ineligible_tables = IneligibleTables(lake, capture, self._opened)
        self._tables: dict[str, BronzeTable] = {}
        self._idle_since = time.monotonic()

    def table(self, info: TableInfo, member: str | None = None) -> BronzeTable:
        """The bronze table of a source table, created if it does not exist.

        Args:
            member: the table's publication epoch, if known.
        """
        if info.name not in self._tables:
            owner = self.capture.config.name
            properties = first_properties(info, member, owner) if info.shape else {}  # the log has no fingerprint
            table = BronzeTable.open_or_create(self.lake, info.name, info.frame_schema, info.key, properties)
            if table.properties.get(OWNER_PROPERTY, owner) != owner:
                raise ConcurrentWriterError(
                    f"bronze/{info.name} was created by another source meanwhile", "the next step skips the table"
                )
            self._tables[info.name] = table
        return self._tables[info.name]

    def _opened(self, name: str) -> BronzeTable:
        """A bronze table that exists."""
        if name not in self._tables:
            self._tables[name] = BronzeTable.open_or_create(self.lake, name, {}, ())
        return self._tables[name]

    def position(self, info: TableInfo) -> int | None:
        """The commit end LSN up to which the bronze table has everything; None before its snapshot is complete."""
        return self.table(info).position(self.capture.app_id_of(info.name))

    def leave_out(self, failed: TableFailedError) -> None:
        """Skip a table's changes until it is resynced; recorded durably if the lake has the table.

        Raises:
            ConcurrentWriterError, LakeError: it could not be recorded.
        """
        info = next((info for info in self.capture.seen_tables if info.name == failed.name), None)
        before = None
        if info is not None:
            table = self.table(info)
            table.discard()
            before = Ineligible.of(table.properties)
            Ineligible(failed.problem, failed.fix).record(table)
        self.waiting.add(failed.oid)
        if before is None or before.problem != failed.problem:
            cause = None if isinstance(failed.__cause__, SourceError) else failed.__cause__
            log.warning("not captured until it is fixed: %s", failed, exc_info=cause)

    def refresh(self) -> None:
        """Load the commits of other writers."""
        for table in self._tables.values():
            table.refresh()

    def land(self, max_rows: int, until: int | None = None) -> list[Ingested]:
        """Ingest the next whole transactions of every table with a position, and acknowledge them.

        Args:
            max_rows: approximate number of messages.
            until: stop before transactions that end after this LSN; once nothing before it remains, the slot's
                position is set to it.

        Returns:
            what was ingested, one item per table with rows; [] if the log has nothing new.

        Raises:
            SourceError: the source cannot be read.
            GapError: changes are lost.
            ConcurrentWriterError: another writer committed first; nothing was written twice.
            LakeError: the lake could not be written; nothing was acknowledged.
        """
        self._ineligible_tables.enforce()
        while True:
            self._discard()  # staged by an interrupted call
            try:
                return self._ingest_rows(max_rows, until)
            except TableFailedError as failed:
                self._discard()
                self.leave_out(failed)
            except Exception:
                self._discard()
                raise

    def _ingest_rows(self, max_rows: int, until: int | None) -> list[Ingested]:
        began = time.monotonic()
        app_id = self.capture.app_id
        position = self.batches.position(app_id)
        assert position is not None, "the snapshot is complete"
        if until is not None and position >= until:
            return []
        known = {name: table.position(self.capture.app_id_of(name)) for name, table in self._tables.items()}
        after = self.dropped | {name: at for name, at in known.items() if at is not None}
        changes = self.capture.changes(after, position, max_rows, until, self.waiting)
        staged = self._stage(changes)
        if changes.end_lsn == position and self._acknowledge_again(position):
            changes = self.capture.changes(after, position, max_rows, until, self.waiting)
            staged = self._stage(changes)
        end = changes.end_lsn
        if end == position:
            return []
        if not staged:
            redelivered = any(at > position for at in after.values())
            self._advance(position, end, worth_a_commit=redelivered or until is not None)
            return self._ingest_rows(max_rows, until) if redelivered else []
        ingested = [self._commit(rows, after.get(name, position), end, began) for name, rows in staged.items()]
        failpoint("postgres.before_position")
        self.batches.commit([batch_row(item, self.capture) for item in ingested], {app_id: end})
        self._acknowledge(end)
        return ingested

    def _stage(self, changes: Changes) -> dict[str, _Staged]:
        """Write all rows, invisible to readers; returns what was staged, by table."""
        staged: dict[str, _Staged] = {}
        for piece in changes:
            for name, frame in piece.frames.items():
                info = piece.tables[name]
                table = self.table(info)
                before = staged.get(name)
                with one_table(name, info.oid, f"writing changes of {info.source_name}"):
                    if before is None or (before.info.columns, before.info.key) != (info.columns, info.key):
                        evolve(table, info)
                    table.stage(frame)
                rows = frame.height + (before.rows if before else 0)
                oldest = before.oldest if before else oldest_of(frame)
                staged[name] = _Staged(info, rows, oldest, newest_of(frame))
        return staged

    def _commit(self, staged: _Staged, start: int, end: int, began: float) -> Ingested:
        name = staged.info.name
        table = self.table(staged.info)
        version = table.commit({self.capture.app_id_of(name): end})
        seconds = time.monotonic() - began
        return Ingested(
            name, staged.rows, start, end, version, staged.newest, seconds, self.capture.config.name, staged.oldest
        )

    def _discard(self) -> None:
        for table in self._tables.values():
            table.discard()

    def _acknowledge_again(self, position: int) -> bool:
        """Move the slot up to our durable position if it is behind; returns whether it was.

        It is behind after our crash before the acknowledgement, or the server's crash (which may lose recent ones).
        Every peek of `max_rows` could then return only transactions we have, and capture would not advance.
        """
        confirmed = self.capture.lag().confirmed_lsn
        if confirmed is None or confirmed >= position:
            return False
        self._acknowledge(position)
        return True

    def _advance(self, position: int, end: int, worth_a_commit: bool) -> None:
        """Let the server recycle WAL that has nothing new for us, without a commit at every step.

        `worth_a_commit`: a crash before the slot's position was committed; the WAL has rows that we already have.
        """
        idle = time.monotonic() - self._idle_since
        if worth_a_commit or end - position >= IDLE_BYTES or idle >= IDLE_SECONDS:
            self.batches.commit([], {self.capture.app_id: end})
            self._acknowledge(end)

    def _acknowledge(self, lsn: int) -> None:
        failpoint("postgres.before_acknowledge")
        self.capture.acknowledge(lsn)
        self._idle_since = time.monotonic()
        failpoint("postgres.after_acknowledge")


def batch_row(item: Ingested, capture: PostgresCapture) -> Batch:
    """The `control/batches` row for what was ingested into one table."""
    return Batch(
        source=item.source,
        app_id=capture.app_id_of(item.table),
        table=item.table,
        from_position=item.from_position,
        to_position=item.to_position,
        rows=item.rows,
        newest_committed_at=item.newest_committed_at,
        seconds=item.seconds,
    )


def newest_of(frame: pl.DataFrame) -> datetime | None:
    """The newest commit time of a frame of events, UTC."""
    return cast("datetime | None", frame["_committed_at"].max())


def oldest_of(frame: pl.DataFrame) -> datetime | None:
    """The oldest commit time of a frame of events, UTC."""
    return cast("datetime | None", frame["_committed_at"].min())
