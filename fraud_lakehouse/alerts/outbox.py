"""What still has to go to each destination, and when: gold/alerts without gold/alert_deliveries, kept up to date.

All of it is derived from the two tables, so a restart continues where the last process was. Reading costs by new
rows; a table that lost or rewrote rows is read again whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import polars as pl

from fraud_lakehouse.alerts import deliveries
from fraud_lakehouse.alerts.rows import AlertRows
from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.new_rows import NewRows

ALERTS = ("gold", "alerts")
PENDING = ("alert_id", "score", "fired_at")
_CHUNKS = 64  # of a frame that grows bit by bit, before it is made one again


@dataclass(frozen=True)
class Backoff:
    """When what failed is tried again, in seconds.

    Args:
        first: after the first failure; doubled with each that follows.
        longest: at most, for an alert.
        rest: at most, for a destination: so long a new alert waits for it.
    """

    first: float = 5.0
    longest: float = 900.0
    rest: float = 30.0

    def until(self, failures: int, last: datetime) -> datetime:
        """When an alert that has failed so often may be tried again."""
        return last + timedelta(seconds=min(self.longest, self._doubled(failures)))

    def rested(self, alerts: int, last: datetime) -> datetime:
        """When a destination may be tried again that has failed for so many alerts, at least two, in a row."""
        return last + timedelta(seconds=min(self.rest, self._doubled(alerts - 1)))

    def _doubled(self, failures: int) -> float:
        return self.first * 2.0 ** min(failures - 1, 30)


@dataclass(frozen=True)
class Tries:
    """Failed attempts of an alert at a destination.

    Args:
        attempt: number of the last one.
        last: when that was.
        streak: how often the destination had accepted something before it.
        inside: failures since it did last.
        before: between how many of its successes, earlier, the alert had failed too.
    """

    attempt: int
    last: datetime
    streak: int
    inside: int = 1
    before: int = 0

    def again(self, attempt: int, at: datetime, streak: int) -> Tries:
        """With one more failure."""
        if streak == self.streak:
            return replace(self, attempt=attempt, last=at, inside=self.inside + 1)
        return Tries(attempt, at, streak, before=self.before + 1)

    def failures(self, streak: int) -> int:
        """How many count against the alert: what the destination did not accept from others either counts once."""
        return self.before + (self.inside if streak == self.streak else 1)


@dataclass
class Queue:
    """One destination's part of the alerts.

    An alert that fails while the destination accepts others is backed off alone. The destination as a whole is once
    two different alerts have failed in a row, and then only for so long that a new alert is tried soon.

    Args:
        pending: columns `PENDING` of gold/alerts, of those that have not got there.
        tries: failed attempts, by alert_id, of those among them that have any.
        streak: how often the destination has accepted something.
        failures, failing: attempts that failed since it did last, and of how many different alerts.
        last_failed_at: when the last failed.
    """

    pending: pl.DataFrame = field(default_factory=pl.DataFrame)
    tries: dict[str, Tries] = field(default_factory=dict)
    streak: int = 0
    failures: int = 0
    failing: int = 0
    last_failed_at: datetime | None = None

    def due(self, now: datetime, backoff: Backoff) -> pl.DataFrame:
        """The pending alerts whose time has come; none while the destination as a whole is backing off."""
        if self.pending.is_empty():
            return self.pending
        if (rested := self._rested(backoff)) is not None and now < rested:
            return self.pending.clear()
        waiting = [one for one in self.tries if now < self._until(one, backoff)]
        return self.pending.filter(~pl.col("alert_id").is_in(waiting)) if waiting else self.pending

    def next_try(self, alert_id: str, backoff: Backoff) -> datetime | None:
        """When an alert that has failed may be tried again; None when it has not failed, or has arrived since."""
        if alert_id not in self.tries:
            return None
        return max(filter(None, (self._until(alert_id, backoff), self._rested(backoff))))

    def add(self, rows: pl.DataFrame) -> None:
        """More alerts wait; columns `PENDING`."""
        frame = pl.concat([self.pending, rows], how="vertical_relaxed") if self.pending.width else rows
        self.pending = frame.rechunk() if frame.n_chunks() > _CHUNKS else frame

    def apply(self, rows: pl.DataFrame) -> None:
        """Take in this destination's new rows of gold/alert_deliveries."""
        is_done = pl.col("status").is_in(deliveries.DONE)
        done, failed = rows.filter(is_done), rows.filter(~is_done)
        accepted = done["attempted_at"].sort()
        failed = failed.with_columns(streak=self.streak + accepted.search_sorted(failed["attempted_at"]))
        if not accepted.is_empty():
            self.streak, self.failures, self.failing = self.streak + accepted.len(), 0, 0
        if not failed.is_empty():
            self.failures += failed.filter(streak=self.streak).height
            self.last_failed_at = failed["attempted_at"].max()  # type: ignore[assignment]
        open_tries = failed.join(done, on="alert_id", how="anti").sort("attempted_at")
        for one in open_tries.select("alert_id", "attempt", "attempted_at", "streak").iter_rows():
            self._fail(*one)
        for alert_id in set(self.tries).intersection(done["alert_id"]) if self.tries else ():
            del self.tries[alert_id]
        if not self.pending.is_empty() and not done.is_empty():
            self.pending = self.pending.join(done, on="alert_id", how="anti")

    def _fail(self, alert_id: str, attempt: int, at: datetime, streak: int) -> None:
        before = self.tries.get(alert_id)
        if streak == self.streak and (before is None or before.streak != streak):
            self.failing += 1
        self.tries[alert_id] = before.again(attempt, at, streak) if before else Tries(attempt, at, streak)

    def _until(self, alert_id: str, backoff: Backoff) -> datetime:
        tries = self.tries[alert_id]
        return backoff.until(tries.failures(self.streak), tries.last)

    def _rested(self, backoff: Backoff) -> datetime | None:
        if self.failing < 2 or self.last_failed_at is None:
            return None
        return backoff.rested(self.failing, self.last_failed_at)


class Outbox:
    """The queues of the given destination names over a lake; `rows` gives the whole alerts of what is pending."""

    def __init__(self, lake: Lake, names: Sequence[str]) -> None:
        self._lake = lake
        self._alerts = NewRows(lake, ALERTS)
        self._deliveries = NewRows(lake, deliveries.TABLE)
        self.queues: dict[str, Queue] = {name: Queue() for name in names}
        self.rows = AlertRows(lake, ALERTS)

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
        self.rows.forget()
        self.queues = {name: Queue() for name in self.queues}

    def _refresh(self) -> None:
        is_first = self._alerts.is_at_start
        attempted, raised = self._deliveries.read(), self._alerts.read()
        if not (attempted.only_new and raised.only_new):
            self._reset()
            is_first = True
            attempted, raised = self._deliveries.read(), self._alerts.read()
        if attempted.rows is None and raised.rows is None:
            return
        attempts = attempted.rows.collect() if attempted.rows is not None else pl.DataFrame(schema=deliveries.COLUMNS)
        alerts = raised.rows
        if alerts is not None and not is_first:  # the first time it is all there ever was: what waits is read when due
            new = alerts.collect()
            self.rows.keep(new)
            alerts = new.lazy()
        for name, queue in self.queues.items():
            mine = attempts.filter(pl.col("destination") == name)
            if not mine.is_empty():
                queue.apply(mine)
            if alerts is not None:
                done = mine.filter(pl.col("status").is_in(deliveries.DONE)).lazy()
                queue.add(alerts.select(PENDING).join(done, on="alert_id", how="anti").collect(engine="streaming"))
