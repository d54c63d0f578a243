"""A Delta table read bit by bit: each call gives the rows added since the one before. Knows no table by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, rows_since
from fraud_lakehouse.storage.lake import Lake, scan


@dataclass(frozen=True)
class Rows:
    """What a read found; `only_new` is false when it is the whole table again and what was read before is void."""

    rows: pl.LazyFrame | None
    only_new: bool


class NewRows:
    """Reads one table; costs by new rows, and two file lookups where there are none (local lakes)."""

    def __init__(self, lake: Lake, table: tuple[str, str]) -> None:
        self._lake = lake
        self._table = table
        self.forget()

    def forget(self) -> None:
        """Let the next read begin at the start."""
        self._id: str | None = None
        self._version = -1
        self._number = NOTHING

    @property
    def is_at_start(self) -> bool:
        """Whether the next read gives every row there is."""
        return self._id is None

    def skip(self) -> None:
        """Take the rows there are as read."""
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
