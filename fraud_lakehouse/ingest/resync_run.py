"""Makes bronze match the source without a gap, by appending the differences: `fraud-lakehouse resync`.

A kill at any point only means repeating it. The order:
1. A slot exports its snapshot at LSN L (a temporary slot, or the recreated permanent one if it was lost). The rows go
   to files in the work folder.
2. The log is ingested up to L and not beyond, so that bronze has the state at L. After a loss there is no log: bronze
   stays at the state when the slot was lost.
3. Each table's state at L is compared with the snapshot. Only the differences are appended, with `_lsn` = L and the
   table's position L in one commit.
4. After a loss, the slot's position L is committed last.
Until 4, control/batches has the position that was given up, so the resync is still due. A table that is already done
has no differences the second time. No row of bronze is removed; the log continues after L.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psutil

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.changes import ChangeIngest, batch_row
from fraud_lakehouse.ingest.differences import Differences, write_differences
from fraud_lakehouse.ingest.evolution import evolve, settle
from fraud_lakehouse.ingest.ingested import Ingested
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import TableFailedError, one_table
from fraud_lakehouse.sources.postgres.snapshot import Snapshot
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake, data_files

_PIECE_ROWS = 100_000


@dataclass(frozen=True)
class _Copied:
    """A table's snapshot in files: at least one, possibly empty."""

    info: TableInfo
    folder: Path
    files: list[Path]
    taken_at: datetime


@dataclass(frozen=True)
class ResyncReport:
    """The result of a resync: the snapshot's LSN, each table's differences, what was ingested (log included)."""

    lsn: int
    found: dict[str, Differences]
    ingested: list[Ingested]


class Resync:
    """Resyncs tables of one source; the caller holds the writer's lock.

    Args:
        changes: ingests the log, and has the open bronze tables.
        batches: `control/batches`.
        audit: records the resync with its counts.
    """

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        capture: PostgresCapture,
        changes: ChangeIngest,
        batches: Batches,
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._lake = lake
        self._capture = capture
        self._changes = changes
        self._batches = batches
        self._audit = audit
        self.last: ResyncReport | None = None

    def run(self, tables: Sequence[TableInfo], *, new_slot: bool, because: Mapping[str, str]) -> ResyncReport:
        """Resync these tables.

        Args:
            tables: tables to compare; with `new_slot`, every captured table.
            new_slot: recreate the permanent slot (an old one is dropped), because its log is lost.
            because: by table, the reason to record.

        Raises:
            SourceError: the source cannot be read. LakeError: the lake or the work folder cannot be written.
            ConcurrentWriterError: another writer ingested rows meanwhile; the next attempt starts again.

        Returns:
            The result, without tables that could not be read; their changes are skipped from then on.
        """
        while True:
            try:
                return self._run(tables, new_slot=new_slot, because=because)
            except TableFailedError as failed:
                self._changes.leave_out(failed)
                tables = [info for info in tables if info.oid != failed.oid]

    def _run(self, tables: Sequence[TableInfo], *, new_slot: bool, because: Mapping[str, str]) -> ResyncReport:
        """Resync the tables that can be read.

        Raises:
            TableFailedError: a table could not be locked or published; none was read. Otherwise as `run`.
        """
        began = time.monotonic()
        if not tables and not new_slot:
            return ResyncReport(self._batches.position(self._capture.app_id) or 0, {}, [])
        copied: list[_Copied] = []
        with _scratch(self._settings.work_dir) as folder:
            with self._capture.held(tables):
                current = {info.name: info for info in self._capture.tables()}
                present = [current[info.name] for info in tables if info.name in current]
                members = self._capture.publish(present)
                with self._capture.snapshot(present, permanent=new_slot) as snapshot:
                    lsn = snapshot.lsn
                    for number, info in enumerate(present):
                        try:
                            copied.append(_copy(snapshot, info, folder / str(number)))
                        except TableFailedError as failed:
                            self._changes.leave_out(failed)
            if not copied and not new_slot:
                return ResyncReport(lsn, {}, [])
            failpoint("resync.after_copy")
            ingested = [] if new_slot else self._ingest_until(lsn)
            found = {}
            for table in copied:
                info = table.info
                try:
                    with one_table(info.name, info.oid, f"comparing {info.source_name} with the lake"):
                        item, found[info.name] = self._reconcile(table, lsn, members.get(info.name), began)
                except TableFailedError as failed:
                    self._changes.leave_out(failed)
                    continue
                ingested += [item] if item.rows else []
                failpoint("resync.after_table")
        batches = [batch_row(item, self._capture) for item in ingested if item.to_position == lsn and item.rows]
        self._batches.commit(batches, {self._capture.app_id: lsn} if new_slot else {})
        failpoint("resync.after_position")
        self.last = ResyncReport(lsn, found, ingested)
        slot = {"lsn": lsn, "slot": "made anew" if new_slot else "kept"}
        tables_detail = {name: _detail(one, because.get(name)) for name, one in found.items()}
        seconds = round(time.monotonic() - began, 3)
        self._audit.record(self._capture.config.name, "resync", {**slot, "tables": tables_detail, "seconds": seconds})
        return self.last

    def _ingest_until(self, lsn: int) -> list[Ingested]:
        """Ingest the log of all tables up to `lsn` and not beyond."""
        ingested: list[Ingested] = []
        app_id = self._capture.app_id
        while (position := self._batches.position(app_id) or 0) < lsn:
            ingested += self._changes.land(self._settings.batch_rows, until=lsn)
            if self._batches.position(app_id) == position:  # no changes of ours up to there
                self._batches.commit([], {app_id: lsn})
        if position != lsn:
            raise ConcurrentWriterError(
                "another process ingested changes beyond the snapshot of a resync",
                "let it finish; the resync then restarts",
            )
        return ingested

    def _reconcile(self, copied: _Copied, lsn: int, member: str | None, began: float) -> tuple[Ingested, Differences]:
        """Append the differences from the snapshot with the position, in one commit; nothing if there are none."""
        info = copied.info
        app_id = self._capture.app_id_of(info.name)
        table = self._changes.table(info)
        evolve(table, info)
        before = table.position(app_id)
        if before is not None and before > lsn:
            raise ConcurrentWriterError(f"another process ingested {info.name} beyond a resync's snapshot", "try again")
        handle = self._lake.open("bronze", info.name)
        found = write_differences(
            data_files(handle),
            table.schema,
            copied.files,
            info.frame_schema,
            info.key,
            lsn,
            copied.taken_at,
            copied.folder,
            self._settings.duckdb_memory,
        )
        version, rows = table.version, 0
        try:
            for frame in _pieces(found.path, info, lsn):
                table.stage(frame)
                rows += frame.height
            failpoint("resync.before_commit")
            if rows or before is None:
                version = table.commit({app_id: lsn})
        except BaseException:
            table.discard()
            raise
        settle(table, info, member)
        newest = copied.taken_at if rows else None
        seconds = time.monotonic() - began
        return Ingested(
            info.name, rows, before or 0, lsn, version, newest, seconds, self._capture.config.name, newest
        ), found


def _copy(snapshot: Snapshot, info: TableInfo, folder: Path) -> _Copied:
    files: list[Path] = []
    taken_at: datetime | None = None
    folder.mkdir()
    try:
        with one_table(info.name, info.oid, f"copying {info.source_name}"), closing(snapshot.chunks(info)) as frames:
            for number, frame in enumerate(frames):
                files.append(folder / f"rows-{number:06}.parquet")
                frame.write_parquet(files[-1], compression="zstd", compression_level=1)
                taken_at = taken_at or (frame["_committed_at"][0] if frame.height else None)
    except OSError as error:
        raise LakeError(
            f"the snapshot of {info.name} cannot be written to {folder}: {error.strerror or error}",
            "free space there (about the table's size in bronze), or point FRAUD_WORK elsewhere",
        ) from None
    return _Copied(info, folder, files, taken_at or datetime.now(UTC))


def _pieces(path: Path, info: TableInfo, lsn: int) -> Iterator[pl.DataFrame]:
    """The differences as events at `lsn`, `_seq` from 1, in frames of bounded size."""
    scan = pl.scan_parquet(path)
    rows = scan.select(pl.len()).collect().item()
    for start in range(0, rows, _PIECE_ROWS):
        frame = scan.slice(start, _PIECE_ROWS).collect()
        placed = frame.with_columns(_lsn=pl.lit(lsn), _seq=pl.int_range(start + 1, start + 1 + frame.height))
        yield placed.select(pl.col(name).cast(kind) for name, kind in info.frame_schema.items())


@contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """A temporary folder; removes those of killed resyncs."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        for left_over in work.glob("resync-*"):
            if not _is_alive(left_over.name.split("-")[1]):
                shutil.rmtree(left_over, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"resync-{os.getpid()}-", dir=work))
    except OSError as error:
        raise LakeError(
            f"the work folder {work} cannot be written: {error.strerror or error}",
            "point FRAUD_WORK at a folder this user may write",
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    return pid.isdigit() and psutil.pid_exists(int(pid))


def _detail(one: Differences, because: str | None) -> dict[str, object]:
    counts: dict[str, object] = {"rows": one.rows, "new": one.new, "changed": one.changed, "gone": one.gone}
    return counts if because is None else {**counts, "because": because}
