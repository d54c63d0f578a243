"""Delta handles kept open between builds: bringing one to the newest version is cheaper than opening it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from deltalake import DeltaTable

from fraud_lakehouse.lake import housekeeping
from fraud_lakehouse.lake.lake import Lake, table_root
from fraud_lakehouse.transform.project_files import SETTLED_NS

Key = tuple[str, str]  # (layer, table)
Mark = tuple[int, int]  # inode and modification time (ns)


@dataclass
class _Open:
    table: DeltaTable
    opened_at: int
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
        if known is None or known.mark is None or known.mark != log_mark(known.table, known.table.version()):
            return self._reopen(key)
        if _has_next(known.table):
            known.table.update_incremental()
        if housekeeping.is_due(known.opened_at, known.table.version()):
            return self._reopen(key)
        self._keep(key, known.table, known.opened_at)
        return known.table

    def committed(self, key: Key, table: DeltaTable) -> None:
        """Tell that `table`, given out for `key`, may have committed."""
        known = self._open.get(key)
        self._keep(key, table, known.opened_at if known else table.version())

    def _reopen(self, key: Key) -> DeltaTable | None:
        if not self._lake.exists(*key):
            return None
        table = self._lake.open(*key)
        self._keep(key, table, table.version())
        return table

    def _keep(self, key: Key, table: DeltaTable, opened_at: int) -> None:
        self._open[key] = _Open(table, opened_at, log_mark(table, table.version()))


def _has_next(table: DeltaTable) -> bool:
    """Whether somebody committed after the handle's version; a look at one name, where the handle lists the log."""
    return os.path.exists(f"{table_root(table)}/_delta_log/{table.version() + 1:020}.json")


def log_mark(table: DeltaTable, version: int) -> Mark | None:
    """What tells a log entry of a local table from another one of the same name; None: it is gone, or not local."""
    root = table_root(table)
    if "://" in root:
        return None
    try:
        found = os.stat(f"{root}/_delta_log/{version:020}.json")
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
