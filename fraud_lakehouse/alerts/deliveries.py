"""gold/alert_deliveries: one row per attempt to hand an alert to a destination. Appended to, never changed.

Columns: `alert_id`, `destination` (its name without secrets), `attempt` (1 = first), `attempted_at` (UTC), `status`
('delivered' | 'failed' | 'digest': delivered as part of a digest), `error` (why it failed, else null). A digest
that fails is one 'failed' row, of the alert with the highest score in it.
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
_COMMITS = "deliveries"  # app id that fences the commits of two processes, of which one was stopped and replaced
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
    """Appends attempts; for one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._appender: Appender | None = None

    def missing(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Those of the attempts that the table has not."""
        if not attempts or not self._lake.exists(*TABLE):
            return list(attempts)
        names = ["alert_id", "destination", "attempt"]
        rows = scan(self._lake.open(*TABLE)).filter(pl.col("alert_id").is_in({one.alert_id for one in attempts}))
        known = set(rows.select(names).collect().iter_rows())
        return [one for one in attempts if (one.alert_id, one.destination, one.attempt) not in known]

    def append(self, attempts: Sequence[Attempt]) -> None:
        """Record attempts in one Delta commit, on disk when this returns. Creates the table when it is not there.

        What another process has recorded since our last commit (it replaced us, and read the journal) is left out.

        Raises:
            LakeError: the lake cannot be written; nothing was recorded.
        """
        if self._appender is None:
            self._appender = Appender.open(self._lake, *TABLE, COLUMNS)
        while attempts:
            try:  # the position too is refused, of a process that was suspended until the log was cleaned
                commits = self._appender.position(_COMMITS) or 0
                self._appender.append(
                    pl.DataFrame(list(attempts), schema=COLUMNS, orient="row"), {_COMMITS: commits + 1}
                )
            except ConcurrentWriterError:
                attempts = self.missing(attempts)
            else:
                return
