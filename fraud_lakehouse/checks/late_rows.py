"""Counts recently ingested payments of an event stream that arrived after their window had closed.

A growing share means that a producer is behind, its clock is wrong, or the allowed lateness is too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from fraud_lakehouse.checks.rows_per_hour import rows_per_hour
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.storage.lake import Lake, scan


@dataclass(frozen=True)
class LateRows:
    """Payments that were ingested in (`since`, `until`] (UTC), and how many of them were late.

    `share` is late over all, None without any; `worst_seconds` is the largest lag behind the watermark; `total` counts
    all late rows ever; `limit` is the share that may be late.
    """

    since: datetime
    until: datetime
    rows: int
    late: int
    worst_seconds: float | None
    total: int
    limit: float

    @property
    def share(self) -> float | None:
        """Late payments over all payments."""
        return self.late / self.rows if self.rows else None

    @property
    def passed(self) -> bool:
        """Whether at most the limit was late."""
        return self.share is None or self.share <= self.limit


def evaluate_late_rows(
    lake: Lake,
    stream: PaymentStream,
    limit: float,
    window: timedelta = timedelta(hours=1),
    now: datetime | None = None,
) -> LateRows:
    """Count what was ingested in the last `window`; a lake without the stream's tables passes.

    Args:
        stream: a stream of events.
        limit: the share, 0 to 1.
        now: end of the window; default: the clock (UTC).
    """
    until = now or datetime.now(UTC)
    since = until - window
    rows = sum(rows_per_hour(lake, ("silver", stream.rows), "_ingested_at", since, until).values())
    if stream.late is None or not lake.exists("silver", stream.late):
        return LateRows(since, until, rows, 0, None, 0, limit)
    late = scan(lake.open("silver", stream.late))
    ingested = late.filter(pl.col("_ingested_at") > since, pl.col("_ingested_at") <= until)
    recent, total = pl.collect_all(
        [ingested.select(pl.len().alias("late"), pl.col("seconds_late").max()), late.select(pl.len())]
    )
    count, worst = recent.row(0)
    return LateRows(since, until, rows, count, worst, total.item(), limit)
