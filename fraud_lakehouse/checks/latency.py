"""How long alerts took from the source's commit until they were recorded, against the limit in the settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from fraud_lakehouse.alerts.outbox import ALERTS
from fraud_lakehouse.storage.lake import Lake, scan


@dataclass(frozen=True)
class Latency:
    """Seconds of the alerts recorded in (`since`, `until`] (UTC), None without any; `limit` is for the 99th percentile.

    Alerts of a backfill (rows committed before `since`) are only counted in `older`: their age does not measure the
    cycle.
    """

    since: datetime
    until: datetime
    alerts: int
    older: int
    p50: float | None
    p99: float | None
    longest: float | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether 99 % of the alerts were recorded in time."""
        return self.p99 is None or self.p99 <= self.limit


def evaluate_latency(
    lake: Lake, limit: float, window: timedelta = timedelta(minutes=10), now: datetime | None = None
) -> Latency:
    """Measure the alerts of the last `window`; a lake without alerts passes.

    Args:
        limit: seconds.
        now: end of the window; default: the clock (UTC).
    """
    until = now or datetime.now(UTC)
    since = until - window
    if not lake.exists(*ALERTS):
        return Latency(since, until, 0, 0, None, None, None, limit)
    recent = (
        scan(lake.open(*ALERTS))
        .select("source_committed_at", "fired_at")
        .filter(pl.col("fired_at") > since, pl.col("fired_at") <= until)
        .drop_nulls()
        .collect()
    )
    live = recent.filter(pl.col("source_committed_at") > since)
    seconds = (live["fired_at"] - live["source_committed_at"]).dt.total_microseconds() / 1e6
    p50, p99, longest = (_rounded(value) for value in (seconds.quantile(0.5), seconds.quantile(0.99), seconds.max()))
    return Latency(since, until, live.height, recent.height - live.height, p50, p99, longest, limit)


def _rounded(value: object) -> float | None:
    return round(value, 3) if isinstance(value, float) else None
