"""Delta tables kept open between builds: updating one to the newest version is cheaper than opening it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from deltalake import DeltaTable

from fraud_lakehouse.storage.lake import Lake, table_root
from fraud_lakehouse.transform.project_files import SETTLED_NS

Key = tuple[str, str]  # (layer, table)
Mark = tuple[int, int]  # inode and modification time (ns)


@dataclass
class _Open:
    table: DeltaTable
    checkpoint: Mark | None  # the newest checkpoint when the table was opened
    mark: Mark | None  # the newest log entry; None: the table is not cached


class TableCache:
    """Caches the newest version of each table requested. Not thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._open: dict[Key, _Open] = {}

    def get(self, key: Key) -> DeltaTable | None:
        """The table's newest version, or None if there is no such table.

        Later calls return and update the same object: read what you need of a version before the next call.
        """
        known = self._open.pop(key, None)
        # A table deleted and created again has another log entry under the same version: drop the cached object.
        if known is None or known.mark is None or known.mark != _entry_mark(known.table):
            return self._reopen(key)
        # The checkpoint it was opened from may be deleted after the next one; opening from the newest is also quicker.
        if known.checkpoint != _checkpoint_mark(known.table):
            return self._reopen(key)
        if _has_next(known.table):
            known.table.update_incremental()
        self._keep(key, known.table, known.checkpoint)
        return known.table

    def committed(self, key: Key, table: DeltaTable) -> None:
        """Record that `table`, returned for `key`, may have committed."""
        known = self._open.get(key)
        self._keep(key, table, known.checkpoint if known else _checkpoint_mark(table))

    def _reopen(self, key: Key) -> DeltaTable | None:
        if not self._lake.exists(*key):
            return None
        table = self._lake.open(*key)
        self._keep(key, table, _checkpoint_mark(table))
        return table

    def _keep(self, key: Key, table: DeltaTable, checkpoint: Mark | None) -> None:
        self._open[key] = _Open(table, checkpoint, _entry_mark(table))


def _has_next(table: DeltaTable) -> bool:
    """Whether a commit followed the table's version: checks one file, where deltalake would list the log."""
    return os.path.exists(f"{table_root(table)}/_delta_log/{table.version() + 1:020}.json")


def _entry_mark(table: DeltaTable) -> Mark | None:
    """Identifies the log entry of the table's version among entries of the same name."""
    return _mark(table, f"{table.version():020}.json")


def _checkpoint_mark(table: DeltaTable) -> Mark | None:
    """Identifies a table's newest checkpoint."""
    return _mark(table, "_last_checkpoint")


def _mark(table: DeltaTable, name: str) -> Mark | None:
    """The mark of a file in a local table's log; None: it does not exist, or the table is not local."""
    root = table_root(table)
    if "://" in root:
        return None
    try:
        found = os.stat(f"{root}/_delta_log/{name}")
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def log_folder_mark(lake: Lake, key: Key) -> Mark | None:
    """A mark of a table's log from a single stat: an equal mark means that nothing was committed.

    None if unknown: the lake is remote, there is no table, or the log is so new that a commit within one clock tick
    would not change the folder's time.
    """
    if not lake.is_local:
        return None
    try:
        found = os.stat(f"{lake.uri(*key)}/_delta_log")
    except FileNotFoundError:
        return None
    is_synced = time.time_ns() - found.st_mtime_ns > SETTLED_NS
    return (found.st_ino, found.st_mtime_ns) if is_synced else None
