"""The transfers that wait for a judgement: unidentified ones of silver/bank_transfers, in the order of their commits.

A transfer is read once, when there is room for it. Those that were in the lake before this process read it first are
compared with the judgements there are. Later ones cannot have one, unless another process has judged meanwhile; then
its commit has moved the fence that `judging.py` commits with, and everything is read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.detection.validator.breaker import pause_after
from fraud_lakehouse.detection.validator.client import PERSON
from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, rows_since
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.new_rows import NewRows
from fraud_lakehouse.storage.schemas import COMMIT

TRANSFERS = ("silver", "bank_transfers")
JUDGEMENTS = ("silver", "transfer_judgements")
UNIDENTIFIED = "unidentified"
MOST = 5_000  # transfers in memory
_SENT = [
    *("transaction_id", "sender_bank_account", "sender_bank", "amount"),
    *(f"receiver_{'own_account' if name == 'bank_account' else name}" for name in PERSON),
]


@dataclass
class Waiting:
    """A transfer that waits: its row, how often it was sent, and when it may be sent again (monotonic seconds)."""

    row: dict[str, Any]
    attempts: int = 0
    due: float = 0.0


@dataclass
class Pending:
    """The transfers that wait, as far as they are in memory.

    Args:
        clock: seconds, monotonic.
    """

    lake: Lake
    clock: Callable[[], float] = time.monotonic
    waiting: dict[str, Waiting] = field(default_factory=dict)
    table_id: str | None = None
    _read_to: int = NOTHING
    _known_to: int = NOTHING
    _changes: NewRows | None = None
    _is_behind: bool = True

    def begin(self, positions: Callable[[str], int | None]) -> None:
        """Forget everything and read again.

        Args:
            positions: by the id of the table of transfers, the commit number up to which all are judged.
        """
        self.waiting.clear()
        self.table_id, self._read_to, self._known_to, self._is_behind = None, NOTHING, NOTHING, True
        if not self.lake.exists(*TRANSFERS):
            return
        table = self.lake.open(*TRANSFERS)
        self.table_id, commits = str(table.metadata().id), commits_of(table)
        after = positions(self.table_id)
        self._read_to = NOTHING if after is None else after  # a rewrite since then has greater numbers
        self._known_to = commits.newest

    def judged_to(self, answered: Collection[str]) -> int:
        """The commit number up to which every transfer is judged, once those with these ids are."""
        left = (one.row[COMMIT] - 1 for name, one in self.waiting.items() if name not in answered)
        return max(min(left, default=self._read_to), 0)

    def read(self) -> bool:
        """Read further transfers while there is room; false: the table was rewritten, and `begin` has to follow."""
        if not self.lake.exists(*TRANSFERS):
            return True
        if self.table_id is None:
            return False
        if len(self.waiting) >= MOST or not (self._is_behind or self._has_changed()):
            return True
        table = self.lake.open(*TRANSFERS)
        commits = commits_of(table)
        if str(table.metadata().id) != self.table_id or commits.rewritten > max(self._read_to, self._known_to):
            return False
        rows = self._rows(table, MOST - len(self.waiting))
        self._is_behind = rows.height > 0
        self._read_to = rows[COMMIT].max() if rows.height else commits.newest  # type: ignore[assignment]
        for row in self._without_judgement(rows).iter_rows(named=True):
            self.waiting[row["transaction_id"]] = Waiting(row)
        return True

    def next(self, *, any_time: bool = False) -> Iterator[Waiting]:
        """Those that may be sent now, the least often sent first.

        Args:
            any_time: include those that should wait longer.
        """
        now = self.clock()
        ready = [one for one in self.waiting.values() if any_time or one.due <= now]
        yield from sorted(ready, key=lambda one: one.attempts)

    def put_off(self, transaction_id: str) -> None:
        """Note that a transfer was sent in vain."""
        one = self.waiting[transaction_id]
        one.due = self.clock() + pause_after(one.attempts)

    def judged(self, transaction_ids: Collection[str]) -> None:
        """Remove transfers whose judgements are committed."""
        for transaction_id in transaction_ids:
            self.waiting.pop(transaction_id, None)

    def _has_changed(self) -> bool:
        if self._changes is None:
            self._changes = NewRows(self.lake, TRANSFERS)
        found = self._changes.read()
        return found.rows is not None or not found.only_new

    def _rows(self, table: DeltaTable, most: int) -> pl.DataFrame:
        """The next unidentified transfers, whole commits, about `most`."""
        rows = (
            rows_since(table, self._read_to)
            .scan(table)
            .filter(pl.col("evaluation") == UNIDENTIFIED)
            .select(*_SENT, pl.col(COMMIT).fill_null(0))
        )
        found = rows.sort(COMMIT, "transaction_id").head(most + 1).collect()
        if found.height <= most:
            return found
        last = found[COMMIT][-1]
        whole = found.filter(pl.col(COMMIT) < last)
        return whole if whole.height else rows.filter(pl.col(COMMIT) == last).collect()

    def _without_judgement(self, rows: pl.DataFrame) -> pl.DataFrame:
        if rows.is_empty() or rows[COMMIT].min() > self._known_to or not self.lake.exists(*JUDGEMENTS):  # type: ignore[operator]
            return rows
        judged = scan(self.lake.open(*JUDGEMENTS)).select("transaction_id")
        return rows.lazy().join(judged, on="transaction_id", how="anti", maintain_order="left").collect()
