"""Delta handles kept open between builds: bringing one to the newest version is cheaper than opening it."""

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
    checkpoint: Mark | None  # of the newest checkpoint when it was opened
    mark: Mark | None  # of its newest log entry; None: not to be kept


class Handles:
    """The newest version of each table asked for. One thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._open: dict[Key, _Open] = {}

    def get(self, key: Key) -> DeltaTable | None:
        """A handle on the table's newest version, or None where there is no such table.

        The same handle is given again, moved on: what is needed of a version is taken before the next call.
        """
        known = self._open.pop(key, None)
        # A table deleted and made anew has another log entry under the same version: such a handle is thrown away.
        if known is None or known.mark is None or known.mark != _entry_mark(known.table):
            return self._reopen(key)
        # The one it was opened from may be removed once there is another, which is quicker to go on from besides.
        if known.checkpoint != _checkpoint_mark(known.table):
            return self._reopen(key)
        if _has_next(known.table):
            known.table.update_incremental()
        self._keep(key, known.table, known.checkpoint)
        return known.table

    def committed(self, key: Key, table: DeltaTable) -> None:
        """Tell that `table`, given out for `key`, may have committed."""
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
    """Whether somebody committed after the handle's version; a look at one name, where the handle lists the log."""
    return os.path.exists(f"{table_root(table)}/_delta_log/{table.version() + 1:020}.json")


def _entry_mark(table: DeltaTable) -> Mark | None:
    """What tells the log entry of a handle's version from another one of the same name."""
    return _mark(table, f"{table.version():020}.json")


def _checkpoint_mark(table: DeltaTable) -> Mark | None:
    """What tells a table's newest checkpoint from those before it."""
    return _mark(table, "_last_checkpoint")


def _mark(table: DeltaTable, name: str) -> Mark | None:
    """Of a file in the log of a local table; None: it is gone, or not local."""
    root = table_root(table)
    if "://" in root:
        return None
    try:
        found = os.stat(f"{root}/_delta_log/{name}")
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def log_folder_mark(lake: Lake, key: Key) -> Mark | None:
    """What tells a table's log from its later states, by one stat: the same mark means that nobody has committed.

    None where it cannot be told: the lake is remote, there is no table, or the log is so new that a commit within the
    same tick of the clock would leave the folder's time as it is.
    """
    if not lake.is_local:
        return None
    try:
        found = os.stat(f"{lake.uri(*key)}/_delta_log")
    except FileNotFoundError:
        return None
    is_settled = time.time_ns() - found.st_mtime_ns > SETTLED_NS
    return (found.st_ino, found.st_mtime_ns) if is_settled else None
