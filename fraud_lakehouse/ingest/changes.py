"""From the replication slot's log to bronze, exactly once. Snapshots and checks of the source are not here.

Order of one batch, and why nothing is lost or doubled wherever it is interrupted: peek after our positions -> stage
the rows piece by piece -> commit each table's rows with its position -> commit the slot's position with the batch's
rows in control/batches -> (all of it fsynced) -> acknowledge the slot. The slot moves last, so it can only give too
much again; what a table already contains is dropped by that table's own position.
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
from fraud_lakehouse.ingest.evolution import OWNER_PROPERTY, Ineligible, adapt, first_properties
from fraud_lakehouse.ingest.ineligible_tables import PostgresRefusals
from fraud_lakehouse.ingest.landed import Landed
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
    """Rows of one table that wait for their commit: the table as described last, oldest and newest commit time."""

    info: TableInfo
    rows: int
    oldest: datetime | None
    newest: datetime | None


class ChangeIngest:
    """Lands the log of one slot; holds the warm handles of its bronze tables. One instance per thread.

    Args:
        lake: where to.
        capture: the source; its slot exists.
        batches: `control/batches`, which has the slot's position.
    """

    def __init__(self, lake: Lake, capture: PostgresCapture, batches: Batches) -> None:
        self.lake = lake
        self.capture = capture
        self.batches = batches
        self.dropped: dict[str, int] = {}
        """Positions of bronze tables the source no longer has: the log may still hold their last events."""
        self.waiting: set[int] = set()
        """Oids of tables whose snapshot or resync is due; it will hold what the log has of them until then."""
        self._refusals = PostgresRefusals(lake, capture, self._opened)
        self._tables: dict[str, BronzeTable] = {}
        self._idle_since = time.monotonic()

    def table(self, info: TableInfo, member: str | None = None) -> BronzeTable:
        """The bronze table of a source table, created if it is not there.

        Args:
            member: the table's membership in the publication, where it is known already.
        """
        if info.name not in self._tables:
            owner = self.capture.config.name
            properties = first_properties(info, member, owner) if info.shape else {}  # the log knows no shape
            table = BronzeTable.open_or_create(self.lake, info.name, info.frame_schema, info.key, properties)
            if table.properties.get(OWNER_PROPERTY, owner) != owner:
                raise ConcurrentWriterError(
                    f"bronze/{info.name} was created by another source meanwhile", "the next step leaves the table out"
                )
            self._tables[info.name] = table
        return self._tables[info.name]

    def _opened(self, name: str) -> BronzeTable:
        """A bronze table that is there."""
        if name not in self._tables:
            self._tables[name] = BronzeTable.open_or_create(self.lake, name, {}, ())
        return self._tables[name]

    def position(self, info: TableInfo) -> int | None:
        """The commit end LSN up to which the bronze table has everything; None before its snapshot is finished."""
        return self.table(info).position(self.capture.app_id_of(info.name))

    def leave_out(self, failed: TableFailedError) -> None:
        """Leave a table's changes out of the log until it is resynced; recorded durably where the lake has the table.

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
            log.warning("not captured until it is mended: %s", failed, exc_info=cause)

    def refresh(self) -> None:
        """See what other writers committed to the tables."""
        for table in self._tables.values():
            table.refresh()

    def land(self, max_rows: int, until: int | None = None) -> list[Landed]:
        """Land the next whole transactions of every table with a position, and acknowledge them.

        Args:
            max_rows: about how many messages.
            until: transactions that end after this LSN are left for later; when nothing before it is left, it is
                the slot's position.

        Returns:
            what was landed, one item per table with rows; [] when the log holds nothing new.

        Raises:
            SourceError: the source cannot be read.
            GapError: changes are gone.
            ConcurrentWriterError: another writer was first; nothing was written twice.
            LakeError: the lake could not be written; nothing was acknowledged.
        """
        self._refusals.heed()
        while True:
            self._discard()  # of a call that was interrupted
            try:
                return self._land(max_rows, until)
            except TableFailedError as failed:
                self._discard()
                self.leave_out(failed)
            except Exception:
                self._discard()
                raise

    def _land(self, max_rows: int, until: int | None) -> list[Landed]:
        began = time.monotonic()
        app_id = self.capture.app_id
        position = self.batches.position(app_id)
        assert position is not None, "the snapshot is finished"
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
            return self._land(max_rows, until) if redelivered else []
        landed = [self._commit(rows, after.get(name, position), end, began) for name, rows in staged.items()]
        failpoint("postgres.before_position")
        self.batches.commit([batch_row(item, self.capture) for item in landed], {app_id: end})
        self._acknowledge(end)
        return landed

    def _stage(self, changes: Changes) -> dict[str, _Staged]:
        """Write all rows to where no reader sees them; what was staged, by table."""
        staged: dict[str, _Staged] = {}
        for piece in changes:
            for name, frame in piece.frames.items():
                info = piece.tables[name]
                table = self.table(info)
                before = staged.get(name)
                with one_table(name, info.oid, f"writing changes of {info.source_name}"):
                    if before is None or (before.info.columns, before.info.key) != (info.columns, info.key):
                        adapt(table, info)
                    table.stage(frame)
                rows = frame.height + (before.rows if before else 0)
                oldest = before.oldest if before else oldest_of(frame)
                staged[name] = _Staged(info, rows, oldest, newest_of(frame))
        return staged

    def _commit(self, staged: _Staged, start: int, end: int, began: float) -> Landed:
        name = staged.info.name
        table = self.table(staged.info)
        version = table.commit({self.capture.app_id_of(name): end})
        seconds = time.monotonic() - began
        return Landed(
            name, staged.rows, start, end, version, staged.newest, seconds, self.capture.config.name, staged.oldest
        )

    def _discard(self) -> None:
        for table in self._tables.values():
            table.discard()

    def _acknowledge_again(self, position: int) -> bool:
        """Move a slot that is behind our durable position up to it; whether that was so.

        After a crash of ours before the acknowledgement, or of the server (which forgets recent ones), a peek of
        `max_rows` may hold nothing but transactions we have: without this it would hold nothing else for ever.
        """
        confirmed = self.capture.lag().confirmed_lsn
        if confirmed is None or confirmed >= position:
            return False
        self._acknowledge(position)
        return True

    def _advance(self, position: int, end: int, worth_a_commit: bool) -> None:
        """Let the server recycle WAL that holds nothing new for us, without a commit at every tick.

        After a crash between the tables' commits and the slot's position, the WAL is of rows we have: `worth_a_commit`.
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


def batch_row(item: Landed, capture: PostgresCapture) -> Batch:
    """What was landed in one table, as a row of `control/batches`."""
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
