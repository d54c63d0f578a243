"""What still has to go to each destination, and when: gold/alerts without gold/alert_deliveries, kept up to date.

All of it is derived from the two tables, so a restart continues where the last process was. Reading costs by new
rows; a table that lost or rewrote rows is read again whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from fraud_lakehouse.detect import deliveries
from fraud_lakehouse.detect.new_rows import NewRows
from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.storage_errors import lake_errors

ALERTS = ("gold", "alerts")


@dataclass(frozen=True)
class Backoff:
    """Seconds until the next try after n failures in a row: `first`, doubled each time, at most `longest`."""

    first: float = 5.0
    longest: float = 900.0

    def until(self, failures: int, last: datetime) -> datetime:
        """When the next try may be made."""
        return last + timedelta(seconds=min(self.longest, self.first * 2.0 ** min(failures - 1, 30)))


@dataclass
class Queue:
    """One destination's part: `pending` rows of gold/alerts, failed attempts so far, failures since a success."""

    pending: pl.DataFrame = field(default_factory=pl.DataFrame)
    tries: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    failures: int = 0
    last_failed_at: datetime | None = None

    def due(self, now: datetime, backoff: Backoff) -> pl.DataFrame:
        """The pending alerts whose time has come; none while the destination as a whole is backing off."""
        if self.pending.is_empty():
            return self.pending
        if self.failures and self.last_failed_at and now < backoff.until(self.failures, self.last_failed_at):
            return self.pending.clear()
        waiting = [one for one, (count, last) in self.tries.items() if now < backoff.until(count, last)]
        return self.pending.filter(~pl.col("alert_id").is_in(waiting)) if waiting else self.pending

    def attempts(self, alert_id: str) -> int:
        """Failed attempts so far."""
        return self.tries.get(alert_id, (0, None))[0]

    def apply(self, rows: pl.DataFrame) -> None:
        """Take in this destination's new rows of gold/alert_deliveries."""
        done = rows.filter(pl.col("status").is_in(deliveries.DONE))
        failed = rows.filter(~pl.col("status").is_in(deliveries.DONE))
        succeeded_at = done["attempted_at"].max()
        streak = failed if succeeded_at is None else failed.filter(pl.col("attempted_at") > succeeded_at)
        self.failures = streak.height + (self.failures if succeeded_at is None else 0)
        if not failed.is_empty():
            open_tries = failed.join(done, on="alert_id", how="anti").group_by("alert_id")
            latest = open_tries.agg(pl.col("attempt").max(), pl.col("attempted_at").max())
            self.tries.update({one: (attempt, at) for one, attempt, at in latest.iter_rows()})
            self.last_failed_at = failed["attempted_at"].max()  # type: ignore[assignment]
        for alert_id in set(self.tries).intersection(done["alert_id"]) if self.tries else ():
            del self.tries[alert_id]
        if not self.pending.is_empty():
            self.pending = self.pending.join(done, on="alert_id", how="anti")


class Outbox:
    """The queues of the given destination names over a lake."""

    def __init__(self, lake: Lake, names: Sequence[str]) -> None:
        self._lake = lake
        self._alerts = NewRows(lake, ALERTS)
        self._deliveries = NewRows(lake, deliveries.TABLE)
        self.queues: dict[str, Queue] = {name: Queue() for name in names}

    def refresh(self) -> None:
        """Take in what was committed to both tables since the last call.

        Deliveries are read first, so every alert they name is among the alerts read after them or before.

        Raises:
            LakeError: a table cannot be read; the next call reads both from the start.
        """
        try:
            with lake_errors(self._lake, *ALERTS):
                self._refresh()
        except LakeError:
            self._reset()
            raise

    def _reset(self) -> None:
        self._deliveries.forget()
        self._alerts.forget()
        self.queues = {name: Queue() for name in self.queues}

    def _refresh(self) -> None:
        attempted, raised = self._deliveries.read(), self._alerts.read()
        if not (attempted.only_new and raised.only_new):
            self._reset()
            attempted, raised = self._deliveries.read(), self._alerts.read()
        attempts = attempted.rows.collect() if attempted.rows is not None else pl.DataFrame(schema=deliveries.COLUMNS)
        for name, queue in self.queues.items():
            mine = attempts.filter(pl.col("destination") == name)
            if not mine.is_empty():
                queue.apply(mine)
            if raised.rows is not None:
                done = mine.filter(pl.col("status").is_in(deliveries.DONE)).lazy()
                new = raised.rows.join(done, on="alert_id", how="anti").collect(engine="streaming")
                queue.pending = pl.concat([queue.pending, new], how="diagonal_relaxed") if queue.pending.width else new
