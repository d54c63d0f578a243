"""Whether the share of transactions that raise alerts has drifted: the last hour against the hours before it.

A sudden rise means an attack, or a change in the source's data; a fall to zero means that a rule or feature is broken.
The rate is per evaluated transaction, so that a busy hour does not count as a bad one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from fraud_lakehouse.alerts.outbox import ALERTS
from fraud_lakehouse.checks.rows_per_hour import hours_ago, rows_per_hour
from fraud_lakehouse.storage.lake import Lake, scan

_LEAST_HOURS = 3
_LEAST_ALERTS = 10
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class RateDrift:
    """The last hour (`recent_*`) and up to `hours` hours before it (`baseline_*`).

    Rates are alerts per evaluated transaction (null without any). `expected` is the number of alerts that the
    baseline's rate predicts for the recent transactions; `z` its distance from the actual number in standard
    deviations; `ratio` recent over baseline rate. `passed` is also true when there is too little data; `reason` says
    so.
    """

    at: datetime
    hours: int
    recent_alerts: int
    recent_transactions: int
    recent_rate: float | None
    baseline_alerts: int
    baseline_transactions: int
    baseline_rate: float | None
    expected: float | None
    ratio: float | None
    z: float | None
    limit: float
    passed: bool
    reason: str

    def evidence(self) -> dict[str, Any]:
        """The fields as plain values, times as ISO 8601."""
        return asdict(self) | {"at": self.at.isoformat()}


def evaluate_drift(
    lake: Lake, features: Sequence[str], hours: int = 24, limit: float = 4.0, now: datetime | None = None
) -> RateDrift:
    """Compare the last hour with the `hours` before it. `features` are the gold tables that rules read.

    The expected number's variance is Poisson's, times the overdispersion seen between the baseline's own hours (fraud
    comes in bursts), plus the uncertainty of the baseline itself. It fails when |z| > `limit` and the rate is more
    than twice, or less than half, the baseline's. Fewer than 3 baseline hours with transactions, or fewer than 10
    alerts expected and seen, are too little data.
    """
    now = now or datetime.now(UTC)
    since = now - (hours + 1) * _HOUR
    # an alert counts in the hour its transaction was ingested, like the transaction itself
    transactions = Counter[int]()
    for name in features:
        transactions.update(rows_per_hour(lake, ("gold", name), "landed_at", since, now))
    alerts = _alerted_per_hour(lake, since, now)
    rows, found = transactions.get(0, 0), alerts.get(0, 0)
    past = {hour: count for hour, count in transactions.items() if hour > 0 and count}
    past_rows, past_found = sum(past.values()), sum(alerts.get(hour, 0) for hour in past)
    rate = found / rows if rows else None
    base = past_found / past_rows if past_rows else None
    expected = base * rows if base is not None and rows else None
    z, passed = None, True
    if len(past) < _LEAST_HOURS:
        reason = f"too little data: {len(past)} earlier hours with transactions, {_LEAST_HOURS} needed"
    elif expected is None:
        reason = "too little data: no transaction in the last hour"
    elif max(expected, found) < _LEAST_ALERTS:
        reason = f"too little data: {found} alerts, {expected:.1f} expected, {_LEAST_ALERTS} needed"
    else:
        z = _distance(found, expected, rows / past_rows, {hour: (alerts.get(hour, 0), n) for hour, n in past.items()})
        drifted = abs(z) > limit and not expected / 2 <= found <= expected * 2
        passed = not drifted
        reason = f"{found} alerts, {expected:.1f} expected from {len(past)} earlier hours (z = {z:.1f}, limit {limit})"
    return RateDrift(
        at=now,
        hours=len(past),
        recent_alerts=found,
        recent_transactions=rows,
        recent_rate=rate,
        baseline_alerts=past_found,
        baseline_transactions=past_rows,
        baseline_rate=base,
        expected=expected,
        ratio=rate / base if rate is not None and base else None,
        z=z,
        limit=limit,
        passed=passed,
        reason=reason,
    )


def _distance(found: int, expected: float, share: float, past: dict[int, tuple[int, int]]) -> float:
    """(found - expected) in standard deviations; an expectation of 0 counts as half an alert.

    `share` is recent over baseline transactions, `past` the baseline's hour -> (alerts, transactions).
    """
    rows = sum(n for _, n in past.values())
    rate = max(sum(count for count, _ in past.values()), 0.5) / rows
    pearson = sum((count - rate * n) ** 2 / (rate * n) for count, n in past.values())
    overdispersion = max(1.0, pearson / (len(past) - 1))
    mean = max(expected, 0.5 * share)
    return float((found - expected) / (overdispersion * mean * (1 + share)) ** 0.5)


def _alerted_per_hour(lake: Lake, since: datetime, now: datetime) -> dict[int, int]:
    """Transactions with alerts, by hours between their ingestion and `now`; several alerts count once."""
    if not lake.exists(*ALERTS):
        return {}
    rows = scan(lake.open(*ALERTS)).filter(pl.col("landed_at") > since, pl.col("landed_at") <= now)
    by_hour = rows.group_by(hours_ago(pl.col("landed_at"), now).alias("hour"))
    return dict(by_hour.agg(pl.struct("source", "transaction_id").n_unique().alias("rows")).collect().iter_rows())
