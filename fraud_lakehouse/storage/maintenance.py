"""Daily maintenance of Delta tables: merge files, checkpoint, clean the log, vacuum. Requires the writer lock.

No row changes. A data file removed from a table is kept for 168 hours, for readers of older versions.
`housekeeping.py` has what a writer does by itself every hundred commits.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable

from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.storage import durable, housekeeping
from fraud_lakehouse.storage.compaction import Tier
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import LAYERS, Lake
from fraud_lakehouse.storage.lease import progress

LEAST_RETENTION_HOURS = 168
MARKER = "_upkeep"
FEW_FILES = 8
SMALL_BYTES = 32 * housekeeping.MEBIBYTE
_MOST_MERGES = 32  # of 64 MB each; a very large table continues the next day, so that other writers do not wait long
_PAST = "_past"  # a folder in which version 0.1 kept the entries it had removed from the log


@dataclass(frozen=True)
class Upkeep:
    """Result of the maintenance of one table.

    Files and bytes are those of the newest version; entries are files in the log.
    """

    layer: str
    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    entries_before: int
    entries_after: int
    files_vacuumed: int
    bytes_vacuumed: int
    version: int


def maintain(
    lake: Lake, layers: tuple[str, ...] = LAYERS, retention_hours: int = LEAST_RETENTION_HOURS
) -> list[Upkeep]:
    """Maintain every table of these layers, one after the other.

    Args:
        lake: the lake.
        layers: folders of the lake.
        retention_hours: age from which unreferenced files are deleted; at least 168.

    Raises:
        ValueError: retention under 168 hours.
        LakeError: a table could not be read or written; the tables before it are maintained.
    """
    return [maintain_table(lake, layer, name, retention_hours) for layer in layers for name in lake.tables(layer)]


def maintain_table(lake: Lake, layer: str, name: str, retention_hours: int = LEAST_RETENTION_HOURS) -> Upkeep:
    """Merge (if it has more than 8 files under 32 MB), checkpoint, clean the log, vacuum one table.

    Raises:
        ValueError: retention under 168 hours.
        LakeError: the table could not be read or written.
    """
    if retention_hours < LEAST_RETENTION_HOURS:
        raise ValueError(f"vacuum keeps at least {LEAST_RETENTION_HOURS} hours, not {retention_hours}")
    with lake_errors(lake, layer, name):
        handle = lake.open(layer, name)
        root = Path(lake.uri(layer, name)) if lake.is_local else None
        before, entries_before = _size(handle), _entries(root)
        if root is None:
            _merge(handle, root)
            handle.create_checkpoint()
            handle.cleanup_metadata()
            removed = [0] * len(handle.vacuum(retention_hours, dry_run=False, full=True))
            handle.update_incremental()
        else:
            _clean(handle, root)
            shutil.rmtree(root / _PAST, ignore_errors=True)
            failpoint("upkeep.before_vacuum")
            removed = _vacuum(handle, root, time.time() - retention_hours * 3600.0)
            failpoint("upkeep.after_vacuum")
            (root / MARKER).touch()
        after = _size(handle)
    return Upkeep(
        layer,
        name,
        files_before=before[0],
        files_after=after[0],
        bytes_before=before[1],
        bytes_after=after[1],
        entries_before=entries_before,
        entries_after=_entries(root),
        files_vacuumed=len(removed),
        bytes_vacuumed=sum(removed),
        version=handle.version(),
    )


class DailyUpkeep:
    """Maintenance for a process without a scheduler: one table per call, each table once a day.

    The time of the last maintenance, by this process or a schedule, is stored with the table (`<table>/_upkeep`), so
    nothing is done twice. The first day of a new table begins when it is created. For a remote lake only this process's
    own maintenance is known: a table's first day begins when the process starts.
    """

    def __init__(self, lake: Lake, every_hours: float = 25.0, poll_every: float = 60.0) -> None:
        self._lake = lake
        self._every = every_hours * 3600.0
        self._poll_every = poll_every
        self._next_poll = time.monotonic() + poll_every
        self._began = time.time()
        self._done: dict[tuple[str, str], float] = {}

    def step(self, *, idle: bool) -> Upkeep | None:
        """Maintain the table that has waited longest, if one is due. The caller holds the writer lock.

        Args:
            idle: whether the process has no other work; a busy process defers a table by one more day at most.

        Returns:
            the result, or None if no table was due or the poll interval has not passed.

        Raises:
            LakeError: the table could not be read or written.
        """
        if time.monotonic() < self._next_poll:
            return None
        due = time.time() - (self._every if idle else 2 * self._every)
        tables = [(layer, name) for layer in LAYERS for name in self._lake.tables(layer)]
        waiting = sorted((at, *table) for table in tables if (at := self._done_at(*table)) < due)
        if len(waiting) < 2:
            self._next_poll = time.monotonic() + self._poll_every
        if not waiting:
            return None
        _, layer, name = waiting[0]
        self._done[layer, name] = time.time()
        return maintain_table(self._lake, layer, name)

    def _done_at(self, layer: str, name: str) -> float:
        """When a table was last maintained, or else created, in seconds since 1970; 0 if neither is known."""
        if not self._lake.is_local:
            return self._done.get((layer, name), self._began)
        root = Path(self._lake.uri(layer, name))
        for left in (root / MARKER, durable.log_entry(root, 0)):
            if left.exists():
                return left.stat().st_mtime
        return 0.0


def _clean(handle: DeltaTable, root: Path) -> None:
    """Set properties, merge, checkpoint and clean the log of a local table; the handle's version advances."""
    housekeeping.update_properties(handle, root)
    _merge(handle, root)
    housekeeping.checkpoint(handle, root)
    housekeeping.clean_log(handle)


def _merge(handle: DeltaTable, root: Path | None) -> None:
    """Merge small files until few are left; the handle's version advances."""
    merges, many = 0, FEW_FILES + 1
    while merges < _MOST_MERGES and housekeeping.merge_durably(handle, root, Tier(0, SMALL_BYTES, many)):
        merges, many = merges + 1, 2
        progress()


def _vacuum(handle: DeltaTable, root: Path, since: float) -> list[int]:
    """Delete data files that are not in the table and were written to, or removed from, it before `since`.

    The modification time of a file is the later of the two (`durable.mark_removed`). Returns their sizes in bytes.
    """
    handle.update_incremental()
    needed = _names(handle)
    sizes: list[int] = []
    for entry in os.scandir(root):
        if entry.name.endswith(".parquet") and entry.name[0] not in "_." and entry.name not in needed:
            with suppress(FileNotFoundError):  # another process vacuums as well
                found = entry.stat()
                if found.st_mtime < since:
                    os.unlink(entry.path)
                    sizes.append(found.st_size)
    return sizes


def _names(handle: DeltaTable) -> set[str]:
    return {unquote(str(path)) for path in handle.get_add_actions(flatten=True).column("path").to_pylist()}


def _entries(root: Path | None) -> int:
    return 0 if root is None else len(os.listdir(root / durable.LOG))


def _size(handle: DeltaTable) -> tuple[int, int]:
    """Number of files and bytes of the handle's version."""
    sizes = handle.get_add_actions(flatten=True).column("size_bytes").to_pylist()
    return len(sizes), sum(sizes)
