"""From the replication slot to bronze, exactly once: snapshot first, then change batches.

Order of one step, and why nothing is lost or doubled wherever it is interrupted: peek after our positions -> append
each table's rows with its position in one commit -> commit the slot's position with the batch's rows in
control/batches -> (all of it fsynced) -> acknowledge the slot. The slot moves last, so it can only give too much
again; what a table already contains is dropped by that table's own position.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Self, cast

import polars as pl

from fraud_lakehouse.capture.postgres import PostgresCapture
from fraud_lakehouse.capture.postgres_catalog import TableInfo
from fraud_lakehouse.capture.postgres_errors import SlotLostError, SourceIdentityError
from fraud_lakehouse.errors import ConcurrentWriterError, GapError, SourceError
from fraud_lakehouse.lake.audit import Audit
from fraud_lakehouse.lake.batches import Batch, Batches
from fraud_lakehouse.lake.bronze import BronzeTable
from fraud_lakehouse.lake.failpoints import failpoint
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.landed import Landed
from fraud_lakehouse.settings import Settings

SOURCE = "postgres"
IDLE_BYTES = 16 * 1024 * 1024
IDLE_SECONDS = 10.0
NEW_TABLES_SECONDS = 10.0


class PostgresIngest:
    """Lands one PostgreSQL source. Handles stay warm between steps; one instance per thread.

    Args:
        capture: the source; default: the one of the settings. Opened at the first step.
    """

    def __init__(self, settings: Settings, lake: Lake, capture: PostgresCapture | None = None) -> None:
        self.settings = settings
        self.lake = lake
        self.capture = capture or PostgresCapture(settings)
        self._ready = False
        self._tables: dict[str, BronzeTable] = {}
        self._idle_since = time.monotonic()
        self._tables_checked = 0.0
        self._dropped: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source's connections; nothing needs to be saved."""
        self._ready = False
        self.capture.close()

    def step(self, max_rows: int) -> list[Landed]:
        """Land the snapshot (if one is due) or one change batch of about `max_rows` rows.

        Returns:
            what was landed, one item per table with rows; [] when the source is drained.

        Raises:
            SourceError: the source cannot be read; the next step starts again with the checks.
            GapError: changes are gone, or the source is another one; recorded in control/audit.
            ConcurrentWriterError: another writer was first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; nothing was acknowledged.
        """
        try:
            with self._audit.gaps(SOURCE):
                return self._step(max_rows)
        except (SourceError, GapError, ConcurrentWriterError):
            self._ready = False
            raise

    @cached_property
    def _audit(self) -> Audit:
        return Audit(self.lake)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.lake)

    def _step(self, max_rows: int) -> list[Landed]:
        self._refresh()
        if not self._ready:
            landed = self._start()
            self._ready = True
            if landed:
                return landed
        if landed := self._land_new_tables():
            return landed
        return self._land_changes(max_rows)

    def _refresh(self) -> None:
        before = self._batches.version
        self._batches.refresh()
        if not self._ready or self._batches.version != before:
            for table in self._tables.values():
                table.refresh()

    def _start(self) -> list[Landed]:
        """Check the source and its identity; land the snapshot if none is finished."""
        app_id = self.capture.app_id
        position = self._batches.position(app_id)
        snapshot_due = position is None or position == self._abandoned(app_id)
        try:
            self.capture.preflight()
        except SlotLostError:
            if not snapshot_due:  # else the snapshot drops what is left of the slot
                raise
        changed = SourceIdentityError(
            f"the PostgreSQL source is now {app_id}, the lake was filled from another cluster or slot",
            "correct FRAUD_POSTGRES_DSN and FRAUD_POSTGRES_SLOT, or capture the new one from a fresh snapshot: "
            "`fraud-lakehouse accept-source postgres`",
        )
        self._audit.check(SOURCE, app_id, changed)
        landed: list[Landed] = []
        if position is None or snapshot_due:
            landed = self._land_snapshot()
        else:
            self.capture.resume(position)
        self._audit.resumed(SOURCE)
        self._dropped = self._positions_of_dropped_tables()
        return landed

    def _positions_of_dropped_tables(self) -> dict[str, int]:
        """Positions of bronze tables the source no longer has: the log may still hold their last events."""
        present = {info.name for info in self.capture.tables()}
        found = {}
        for name in self.lake.tables("bronze"):
            if name not in present:
                position = self.lake.open("bronze", name).transaction_version(self.capture.app_id_of(name))
                if position is not None:
                    found[name] = position
        return found

    def _abandoned(self, app_id: str) -> int | None:
        """The position an operator gave up when accepting the source as it is; a snapshot is due while we are there."""
        known = self._audit.known(SOURCE)
        if known is None or known.event != "accepted" or known.detail["identity"] != app_id:
            return None
        return cast("int | None", known.detail.get("position"))

    def _land_snapshot(self, tables: Sequence[TableInfo] | None = None) -> list[Landed]:
        """Land whole tables at one LSN: all (and then the slot's position), or only new ones.

        An unfinished snapshot leaves no position, so it is done again from the start, over emptied tables.
        """
        began = time.monotonic()
        landed: list[Landed] = []
        batches: list[Batch] = []
        with self.capture.snapshot(tables) as snapshot:
            lsn = snapshot.lsn
            for info in snapshot.tables:
                item = self._land_snapshot_table(info, snapshot.chunks(info), lsn)
                landed.append(item)
                batches.append(_batch(item, self.capture.app_id_of(info.name)))
            failpoint("postgres.before_snapshot_position")
            self._batches.commit(batches, {} if tables else {self.capture.app_id: lsn})
        counts = {item.table: item.rows for item in landed}
        self._audit.record(
            SOURCE, "snapshot", {"lsn": lsn, "rows": counts, "seconds": round(time.monotonic() - began, 3)}
        )
        return [item for item in landed if item.rows]

    def _land_snapshot_table(self, info: TableInfo, chunks: Iterable[pl.DataFrame], lsn: int) -> Landed:
        """Replace the table by its snapshot; its position comes last. Another process doing the same is refused."""
        began = time.monotonic()
        app_id = self.capture.app_id_of(info.name)
        fence = {f"{app_id}:snapshot": lsn}
        table = self._table(info)
        table.rebuild(info.frame_schema, info.key)
        nothing = pl.DataFrame(schema=dict(info.frame_schema))
        table.append(nothing, fence)
        rows, newest = 0, None
        for frame in chunks:
            if table.position(f"{app_id}:snapshot") != lsn:
                raise ConcurrentWriterError(f"another process is landing a snapshot of {info.name}", "let it finish")
            if frame.height:
                table.append(frame, fence)
                rows, newest = rows + frame.height, _newest(frame)
                failpoint("postgres.in_snapshot")
        version = table.append(nothing, fence | {app_id: lsn})
        return Landed(info.name, rows, 0, lsn, version, newest, time.monotonic() - began, SOURCE)

    def _land_new_tables(self) -> list[Landed]:
        """Land tables that appeared in the source, or whose first snapshot was interrupted."""
        now = time.monotonic()
        if self._tables_checked and now - self._tables_checked < NEW_TABLES_SECONDS:
            return []
        new = [info for info in self.capture.tables() if self._position(info) is None]
        landed = self._land_snapshot(new) if new else []
        self._tables_checked = now
        return landed

    def _land_changes(self, max_rows: int) -> list[Landed]:
        began = time.monotonic()
        app_id = self.capture.app_id
        position = self._batches.position(app_id)
        assert position is not None, "the snapshot is finished"
        known = {name: table.position(self.capture.app_id_of(name)) for name, table in self._tables.items()}
        after = self._dropped | {name: at for name, at in known.items() if at is not None}
        changes = self.capture.read(after, position, max_rows)
        if changes is None and self._acknowledge_again(position):
            changes = self.capture.read(after, position, max_rows)
        if changes is None:
            return []
        if unknown := [changes.tables[name] for name in changes.frames if self._position(changes.tables[name]) is None]:
            return self._land_snapshot(unknown)
        if not changes.frames:
            redelivered = any(at > position for at in after.values())
            self._advance(position, changes.end_lsn, worth_a_commit=redelivered)
            return self._land_changes(max_rows) if redelivered else []
        landed = [
            self._land_frame(changes.tables[name], frame, after.get(name, position), changes.end_lsn, began)
            for name, frame in changes.frames.items()
            if frame.height
        ]
        failpoint("postgres.before_position")
        self._batches.commit(
            [_batch(item, self.capture.app_id_of(item.table)) for item in landed], {app_id: changes.end_lsn}
        )
        self._acknowledge(changes.end_lsn)
        return landed

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

    def _land_frame(self, info: TableInfo, frame: pl.DataFrame, start: int, end: int, began: float) -> Landed:
        table = self._table(info)
        version = table.append(frame, {self.capture.app_id_of(info.name): end})
        table.set_key(info.key)
        return Landed(info.name, frame.height, start, end, version, _newest(frame), time.monotonic() - began, SOURCE)

    def _advance(self, position: int, end: int, worth_a_commit: bool) -> None:
        """Let the server recycle WAL that holds nothing new for us, without a commit at every tick.

        After a crash between the tables' commits and the slot's position, the WAL is of rows we have: `worth_a_commit`.
        """
        idle = time.monotonic() - self._idle_since
        if worth_a_commit or end - position >= IDLE_BYTES or idle >= IDLE_SECONDS:
            self._batches.commit([], {self.capture.app_id: end})
            self._acknowledge(end)

    def _acknowledge(self, lsn: int) -> None:
        failpoint("postgres.before_acknowledge")
        self.capture.acknowledge(lsn)
        self._idle_since = time.monotonic()
        failpoint("postgres.after_acknowledge")

    def _table(self, info: TableInfo) -> BronzeTable:
        if info.name not in self._tables:
            self._tables[info.name] = BronzeTable.open_or_create(self.lake, info.name, info.frame_schema, info.key)
        return self._tables[info.name]

    def _position(self, info: TableInfo) -> int | None:
        return self._table(info).position(self.capture.app_id_of(info.name))


def accept_postgres(settings: Settings, lake: Lake, capture: PostgresCapture | None = None) -> str:
    """Accept the PostgreSQL source as it is now: the next step captures it from a new snapshot.

    Bronze tables are then rebuilt (earlier versions stay readable until vacuumed).

    Returns:
        the accepted identity, `pg:<system id>:<slot>`.

    Raises:
        SourceError: the source cannot be reached.
    """
    source = capture or PostgresCapture(settings)
    try:
        app_id = source.app_id
    finally:
        source.close()
    position = Batches(lake).position(app_id)
    Audit(lake).record(SOURCE, "accepted", {"identity": app_id, "scope": "", "position": position})
    return app_id


def _batch(item: Landed, app_id: str) -> Batch:
    return Batch(
        source=item.source,
        app_id=app_id,
        table=item.table,
        from_position=item.from_position,
        to_position=item.to_position,
        rows=item.rows,
        newest_committed_at=item.newest_committed_at,
        seconds=item.seconds,
    )


def _newest(frame: pl.DataFrame) -> datetime | None:
    return cast("datetime | None", frame["_committed_at"].max())
