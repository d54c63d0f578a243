"""Incremental reads of a Delta table: each call returns the rows added since the previous call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, rows_since
from fraud_lakehouse.storage.lake import Lake, scan


@dataclass(frozen=True)
class Rows:
    """Result of a read. If `only_new` is false, rows read before are void and the next read returns the whole table."""

    rows: pl.LazyFrame | None
    only_new: bool


class NewRows:
    """Reads one table. The cost depends on new rows; if there are none, on two file lookups (local lakes)."""

    def __init__(self, lake: Lake, table: tuple[str, str]) -> None:
        self._lake = lake
        self._table = table
        self.forget()

    def forget(self) -> None:
        """Make the next read begin at the start."""
        self._id: str | None = None
        self._version = -1
        self._number = NOTHING

    @property
    def is_at_start(self) -> bool:
        """Whether the next read returns every row."""
        return self._id is None

    def skip(self) -> None:
        """Treat all existing rows as read."""
        self.read()

    def read(self) -> Rows:
        """The rows added since the last call."""
        if self._is_unchanged():
            return Rows(None, only_new=True)
        if not self._lake.exists(*self._table):
            void = self._id is not None
            self.forget()
            return Rows(None, only_new=not void)
        handle = self._lake.open(*self._table)
        known, after, commits = self._id, self._number, commits_of(handle)
        self._id, self._version, self._number = str(handle.metadata().id), handle.version(), commits.newest
        if known is None:
            return Rows(scan(handle), only_new=True)
        if known != self._id or commits.newest < after or commits.rewritten > after:
            return Rows(None, only_new=False)
        if commits.newest == after:
            return Rows(None, only_new=True)
        return Rows(rows_since(handle, after).scan(handle), only_new=True)

    def _is_unchanged(self) -> bool:
        """Whether a local table is known to have no newer version; costs two file lookups instead of an open."""
        if self._id is None or not self._lake.is_local:
            return False
        log = Path(self._lake.uri(*self._table)) / "_delta_log"
        return (log / f"{self._version:020}.json").exists() and not (log / f"{self._version + 1:020}.json").exists()
