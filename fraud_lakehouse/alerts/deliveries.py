"""gold/alert_deliveries: one row per attempt to deliver an alert to a destination. Append-only.

Columns: `alert_id`, `destination` (its name without secrets), `attempt` (1 = first), `attempted_at` (UTC), `status`
('delivered' | 'failed' | 'digest': delivered as part of a digest), `error` (why it failed, else null). A failed digest
is one 'failed' row, for its alert with the highest score.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake, scan

TABLE = ("gold", "alert_deliveries")
DONE = ("delivered", "digest")
_COMMITS = "deliveries"  # app id: of two processes, one of which was stopped and replaced, Delta rejects one's commit
COLUMNS: dict[str, pl.DataType] = {
    "alert_id": pl.String(),
    "destination": pl.String(),
    "attempt": pl.Int32(),
    "attempted_at": pl.Datetime("us", "UTC"),
    "status": pl.String(),
    "error": pl.String(),
}


class Attempt(NamedTuple):
    """One row of the table."""

    alert_id: str
    destination: str
    attempt: int
    attempted_at: datetime
    status: str
    error: str | None = None


class DeliveryLog:
    """Appends attempts. Not thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._appender: Appender | None = None

    def missing(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The attempts that the table does not have yet."""
        if not attempts or not self._lake.exists(*TABLE):
            return list(attempts)
        names = ["alert_id", "destination", "attempt"]
        rows = scan(self._lake.open(*TABLE)).filter(pl.col("alert_id").is_in({one.alert_id for one in attempts}))
        known = set(rows.select(names).collect().iter_rows())
        return [one for one in attempts if (one.alert_id, one.destination, one.attempt) not in known]

    def append(self, attempts: Sequence[Attempt]) -> None:
        """Record attempts in one durable Delta commit. Creates the table if it does not exist.

        Attempts that another process has recorded since our last commit (it replaced us and read the journal) are
        omitted.

        Raises:
            LakeError: the lake cannot be written; nothing was recorded.
        """
        if self._appender is None:
            self._appender = Appender.open(self._lake, *TABLE, COLUMNS)
        while attempts:
            try:  # reading the position also raises if this process was suspended until the log was cleaned
                commits = self._appender.position(_COMMITS) or 0
                self._appender.append(
                    pl.DataFrame(list(attempts), schema=COLUMNS, orient="row"), {_COMMITS: commits + 1}
                )
            except ConcurrentWriterError:
                attempts = self.missing(attempts)
            else:
                return
