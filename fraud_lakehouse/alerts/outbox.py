"""What must still be sent to each destination, and when: gold/alerts minus gold/alert_deliveries, kept up to date.

All state is derived from the two tables, so a restart continues where the last process stopped. The cost of a refresh
depends on new rows; a table that lost or rewrote rows is read again in full.
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
_CHUNKS = 64  # of a growing frame, before it is made contiguous


@dataclass(frozen=True)
class Backoff:
    """When a failed send is retried, in seconds.

    Args:
        first: after the first failure; doubled after each further one.
        longest: maximum for an alert.
        rest: maximum for a destination, and so the longest delay of a new alert.
    """

    first: float = 5.0
    longest: float = 900.0
    rest: float = 30.0

    def until(self, failures: int, last: datetime) -> datetime:
        """When an alert with this many failures may be retried."""
        return last + timedelta(seconds=min(self.longest, self._doubled(failures)))

    def rested(self, alerts: int, last: datetime) -> datetime:
        """When a destination may be retried that has failed for so many different alerts in a row (at least two)."""
        return last + timedelta(seconds=min(self.rest, self._doubled(alerts - 1)))

    def _doubled(self, failures: int) -> float:
        return self.first * 2.0 ** min(failures - 1, 30)


@dataclass(frozen=True)
class Tries:
    """Failed attempts of an alert at a destination.

    Args:
        attempt: number of the last attempt.
        last: time of the last attempt.
        streak: the destination's number of accepted messages at that time.
        inside: failures of the alert since the destination's last success.
        before: number of earlier intervals between two successes in which the alert had failed too.
    """

    attempt: int
    last: datetime
    streak: int
    inside: int = 1
    before: int = 0

    def again(self, attempt: int, at: datetime, streak: int) -> Tries:
        """These tries with one more failure."""
        if streak == self.streak:
            return replace(self, attempt=attempt, last=at, inside=self.inside + 1)
        return Tries(attempt, at, streak, before=self.before + 1)

    def failures(self, streak: int) -> int:
        """Failures that count against the alert: in an interval in which no message was accepted, only one counts."""
        return self.before + (self.inside if streak == self.streak else 1)


@dataclass
class Queue:
    """The alerts of one destination.

    An alert that fails while the destination accepts others is backed off alone. If two different alerts fail in a row,
    the whole destination is backed off, but only so long that a new alert is tried soon.

    Args:
        pending: columns `PENDING` of gold/alerts, for alerts not yet delivered.
        tries: failed attempts of pending alerts, by alert_id.
        streak: number of messages that the destination has accepted.
        failures, failing: failed attempts since the last success, and the number of different alerts among them.
        last_failed_at: time of the last failure.
    """

    pending: pl.DataFrame = field(default_factory=pl.DataFrame)
    tries: dict[str, Tries] = field(default_factory=dict)
    streak: int = 0
    failures: int = 0
    failing: int = 0
    last_failed_at: datetime | None = None

    def due(self, now: datetime, backoff: Backoff) -> pl.DataFrame:
        """The pending alerts that are due; none while the whole destination is backed off."""
        if self.pending.is_empty():
            return self.pending
        if (rested := self._rested(backoff)) is not None and now < rested:
            return self.pending.clear()
        waiting = [one for one in self.tries if now < self._until(one, backoff)]
        return self.pending.filter(~pl.col("alert_id").is_in(waiting)) if waiting else self.pending

    def next_try(self, alert_id: str, backoff: Backoff) -> datetime | None:
        """When a failed alert may be retried; None if it has not failed, or was delivered since."""
        if alert_id not in self.tries:
            return None
        return max(filter(None, (self._until(alert_id, backoff), self._rested(backoff))))

    def add(self, rows: pl.DataFrame) -> None:
        """Add pending alerts; columns `PENDING`."""
        frame = pl.concat([self.pending, rows], how="vertical_relaxed") if self.pending.width else rows
        self.pending = frame.rechunk() if frame.n_chunks() > _CHUNKS else frame

    def apply(self, rows: pl.DataFrame) -> None:
        """Process this destination's new rows of gold/alert_deliveries."""
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
    """The queues of a lake's destinations, by name; `rows` returns the full rows of pending alerts."""

    def __init__(self, lake: Lake, names: Sequence[str]) -> None:
        self._lake = lake
        self._alerts = NewRows(lake, ALERTS)
        self._deliveries = NewRows(lake, deliveries.TABLE)
        self.queues: dict[str, Queue] = {name: Queue() for name in names}
        self.rows = AlertRows(lake, ALERTS)

    def refresh(self) -> None:
        """Process what was committed to both tables since the last call.

        Deliveries are read first, so every alert that they name is among the alerts read by now.

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
        if alerts is not None and not is_first:  # the first read is the whole history: only ids are kept of it
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
