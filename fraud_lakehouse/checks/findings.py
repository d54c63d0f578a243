"""A rule's recent alerts as evidence for its check: how many, on which entities, against which threshold.

Finding fraud is not a defect of the pipeline: these results belong in non-blocking checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from fraud_lakehouse.alerts.outbox import ALERTS
from fraud_lakehouse.storage.lake import Lake, scan

_TOP = 5


@dataclass(frozen=True)
class Offender:
    """An entity with alerts of one rule in the window."""

    entity: str
    alerts: int
    highest_score: float | None
    amount: float | None
    last_fired_at: datetime


@dataclass(frozen=True)
class Finding:
    """One rule's alerts that fired in (`since`, `until`] (UTC).

    `passed` is `count <= threshold`. `top_offenders` has at most five, most alerts first; their `amount` is the sum of
    the alerts' amounts.
    """

    rule: str
    since: datetime
    until: datetime
    count: int
    threshold: int
    entities: int
    by_severity: dict[str, int]
    by_stream: dict[str, int]
    top_offenders: tuple[Offender, ...]

    @property
    def passed(self) -> bool:
        """Whether no more alerts fired than the threshold allows."""
        return self.count <= self.threshold

    def evidence(self) -> dict[str, Any]:
        """The fields as plain values, times as ISO 8601."""
        plain = asdict(self) | {"since": self.since.isoformat(), "until": self.until.isoformat()}
        plain["top_offenders"] = [
            asdict(one) | {"last_fired_at": one.last_fired_at.isoformat()} for one in self.top_offenders
        ]
        return plain


def evaluate_rules(
    lake: Lake,
    rules: Sequence[str],
    window: timedelta = timedelta(hours=1),
    threshold: int = 0,
    now: datetime | None = None,
) -> dict[str, Finding]:
    """Evaluate several rules in one read of gold/alerts. A lake without alerts gives empty findings.

    Args:
        lake: the lake with the alerts.
        rules: names as in the column `rule`.
        window: how far back from `now` alerts count, by `fired_at`.
        threshold: alerts per rule and window that still pass.
        now: end of the window; default: the clock (UTC).
    """
    until = now or datetime.now(UTC)
    since = until - window
    alerts = _fired(lake, since, until)
    return {rule: _finding(alerts.filter(pl.col("rule") == rule), rule, since, until, threshold) for rule in rules}


def evaluate_rule(
    lake: Lake, rule: str, window: timedelta = timedelta(hours=1), threshold: int = 0, now: datetime | None = None
) -> Finding:
    """Evaluate one rule; see `evaluate_rules`."""
    return evaluate_rules(lake, [rule], window, threshold, now)[rule]


def _fired(lake: Lake, since: datetime, until: datetime) -> pl.DataFrame:
    columns = {
        "rule": pl.String(),
        "severity": pl.String(),
        "stream": pl.String(),
        "entity_type": pl.String(),
        "entity_id": pl.String(),
        "score": pl.Float64(),
        "amount": pl.Float64(),
        "fired_at": pl.Datetime("us", "UTC"),
    }
    if not lake.exists(*ALERTS):
        return pl.DataFrame(schema=columns)
    found = scan(lake.open(*ALERTS))
    present = set(found.collect_schema().names())
    return (
        found.filter(pl.col("fired_at") > since, pl.col("fired_at") <= until)
        .select(
            (pl.col(name) if name in present else pl.lit(None)).cast(kind).alias(name) for name, kind in columns.items()
        )
        .collect()
    )


def _finding(alerts: pl.DataFrame, rule: str, since: datetime, until: datetime, threshold: int) -> Finding:
    by_entity = (
        alerts.group_by("entity_type", "entity_id")
        .agg(pl.len(), pl.col("score").max(), pl.col("amount").sum(), pl.col("fired_at").max())
        .sort(["len", "score", "entity_id"], descending=[True, True, False], nulls_last=True)
    )
    return Finding(
        rule=rule,
        since=since,
        until=until,
        count=alerts.height,
        threshold=threshold,
        entities=by_entity.height,
        by_severity=_counted(alerts, "severity"),
        by_stream=_counted(alerts.drop_nulls("stream"), "stream"),
        top_offenders=tuple(
            Offender(f"{kind} {name}", count, score, amount, fired)
            for kind, name, count, score, amount, fired in by_entity.head(_TOP).iter_rows()
        ),
    )


def _counted(alerts: pl.DataFrame, column: str) -> dict[str, int]:
    counted = alerts.group_by(column).agg(pl.len()).sort("len", column, descending=[True, False])
    return {row[0]: row[1] for row in counted.iter_rows()}
