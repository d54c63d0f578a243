"""How long alerts took is judged by the 99th percentile of the live ones; a backfill's say nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from deltalake import write_deltalake

from fraud_lakehouse.checks.latency import Latency, evaluate_latency
from fraud_lakehouse.storage.lake import Lake

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
TIMES = {"source_committed_at": pl.Datetime("us", "UTC"), "fired_at": pl.Datetime("us", "UTC")}


def evaluated(folder: Path, seconds: list[float], *, fired: datetime = NOW, limit: float = 5.0) -> Latency:
    """Alerts fired at a time, so many seconds after their source's commit."""
    rows = [(fired - timedelta(seconds=each), fired) for each in seconds]
    write_deltalake(str(folder / "gold" / "alerts"), pl.DataFrame(rows, schema=TIMES, orient="row"), mode="append")
    return evaluate_latency(Lake.at(folder), limit, now=NOW)


def test_one_slow_alert_in_fifty_fails(tmp_path: Path) -> None:
    found = evaluated(tmp_path, [1.0] * 49 + [9.0])
    assert (found.alerts, found.p50, found.longest) == (50, 1.0, 9.0)
    assert not found.passed


def test_all_in_time_pass(tmp_path: Path) -> None:
    assert evaluated(tmp_path, [1.0, 2.0, 4.9]).passed


def test_alerts_of_old_rows_and_old_alerts_do_not_count(tmp_path: Path) -> None:
    found = evaluated(tmp_path, [86_400.0, 2.0])
    assert (found.alerts, found.older, found.longest) == (1, 1, 2.0)
    found = evaluated(tmp_path, [60.0], fired=NOW - timedelta(hours=1))
    assert found.alerts == 1


def test_a_lake_without_alerts_passes(tmp_path: Path) -> None:
    found = evaluate_latency(Lake.at(tmp_path), 5.0)
    assert found.passed and found.p99 is None
