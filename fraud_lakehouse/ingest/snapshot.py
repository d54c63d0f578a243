"""Ingests whole tables: all at the first start or from another server, or a table added later.

An unfinished snapshot leaves no position, so it is repeated from the start, over emptied tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice

import polars as pl

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.ingest.batches import Batch, Batches
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.changes import ChangeIngest, batch_row, newest_of, oldest_of
from fraud_lakehouse.ingest.evolution import evolve, settle
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import TableFailedError, one_table
from fraud_lakehouse.sources.read_ahead import read_ahead
from fraud_lakehouse.storage.audit import Audit

_STAGED_CHUNKS = 16  # per commit; on an object store they are buffered in memory


class SnapshotIngest:
    """Ingests snapshots of one source.

    Args:
        changes: has the open bronze tables.
        batches: `control/batches`.
        audit: records snapshots with their counts.
    """

    def __init__(self, capture: PostgresCapture, changes: ChangeIngest, batches: Batches, audit: Audit) -> None:
        self._capture = capture
        self._changes = changes
        self._batches = batches
        self._audit = audit

    def land(self, tables: Sequence[TableInfo], *, new_slot: bool) -> list[Ingested]:
        """Ingest whole tables as of one LSN.

        Args:
            tables: the tables; with `new_slot`, every captured table.
            new_slot: create the permanent slot (an old one of ours is dropped); its position is committed last.

        Returns:
            what was ingested, one item per table with rows.

        Raises:
            SourceError: the source cannot be read. LakeError: the lake cannot be written.
            ConcurrentWriterError: another process ingests the same tables.
        """
        while tables or new_slot:
            try:
                return self._ingest_rows(tables, new_slot=new_slot)
            except TableFailedError as failed:
                self._changes.leave_out(failed)
                tables = [info for info in tables if info.oid != failed.oid]
        return []

    def _ingest_rows(self, tables: Sequence[TableInfo], *, new_slot: bool) -> list[Ingested]:
        """Ingest the tables that can be read.

        Raises:
            TableFailedError: a table could not be locked or published; none was read. Otherwise as `land`.
        """
        began = time.monotonic()
        ingested: list[Ingested] = []
        batches: list[Batch] = []
        with self._capture.held(tables):
            names = {info.name for info in tables}
            present = [info for info in self._capture.tables() if info.name in names]
            members = self._capture.publish(present)
            with self._capture.snapshot(present, permanent=new_slot) as snapshot:
                lsn = snapshot.lsn
                failpoint("postgres.before_snapshot")
                for info in present:
                    try:
                        with closing(snapshot.chunks(info)) as chunks:
                            item = self._ingest_table(info, chunks, lsn, members.get(info.name))
                    except TableFailedError as failed:
                        self._changes.leave_out(failed)
                        continue
                    ingested.append(item)
                    batches.append(batch_row(item, self._capture))
                failpoint("postgres.before_snapshot_position")
                self._batches.commit(batches, {self._capture.app_id: lsn} if new_slot else {})
                failpoint("postgres.after_snapshot_position")
        counts = {item.table: item.rows for item in ingested}
        seconds = round(time.monotonic() - began, 3)
        if ingested or new_slot:
            self._audit.record(self._capture.config.name, "snapshot", {"lsn": lsn, "rows": counts, "seconds": seconds})
        return [item for item in ingested if item.rows]

    def _ingest_table(self, info: TableInfo, chunks: Iterable[pl.DataFrame], lsn: int, member: str | None) -> Ingested:
        """Replace the table by its snapshot; its position comes last. Fails if another process does the same."""
        began = time.monotonic()
        app_id = self._capture.app_id_of(info.name)
        fence = {f"{app_id}:snapshot": lsn}
        rows, oldest, newest, staged = 0, None, None, 0
        with read_ahead(iter(chunks)) as frames:  # the first arrives while the table is prepared
            table = self._changes.table(info, member)
            table.rebuild(info.frame_schema, info.key)
            first = list(islice(frames, 2))
            if is_long := len(first) == 2:  # with a single frame, its only commit has the fence
                table.append(pl.DataFrame(schema=dict(info.frame_schema)), fence)
            evolve(table, info)
            try:
                for frame in chain(_taken(first), frames):
                    if is_long:
                        _check_alone(table, fence)
                    if frame.is_empty():
                        continue
                    with one_table(info.name, info.oid, f"writing {info.source_name}"):
                        table.stage(frame)
                    rows, newest, staged = rows + frame.height, newest_of(frame), staged + 1
                    oldest = oldest or oldest_of(frame)
                    if staged == _STAGED_CHUNKS:
                        table.commit(fence)
                        staged = 0
                    failpoint("postgres.in_snapshot")
                version = table.commit(fence | {app_id: lsn})
            except BaseException:
                table.discard()
                raise
        settle(table, info, member)
        return Ingested(
            info.name, rows, 0, lsn, version, newest, time.monotonic() - began, self._capture.config.name, oldest
        )


def _taken(frames: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yields each frame and releases it: one may be large."""
    while frames:
        yield frames.pop(0)


def _check_alone(table: BronzeTable, fence: Mapping[str, int]) -> None:
    """Check that no other process committed: our own commits load theirs."""
    if any(table.position(app_id) != at for app_id, at in fence.items()):
        raise ConcurrentWriterError(f"another process is ingesting a snapshot of {table.name}", "let it finish")
