from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.checks.late_rows import evaluate_late_rows
from fraud_lakehouse.storage.lake import Lake
from tests.catalogues import CARDS, shipped_streams

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
SCHEMA = {"trans_num": pl.String, "_ingested_at": pl.Datetime("us", "UTC"), "seconds_late": pl.Float64}


def land(lake: Lake, table: str, minutes_ago: list[float], late: list[float] | None = None) -> None:
    times = [NOW - timedelta(minutes=ago) for ago in minutes_ago]
    rows = {
        "trans_num": [str(ago) for ago in minutes_ago],
        "_ingested_at": times,
        "seconds_late": late or [None] * len(times),
    }
    write_deltalake(lake.uri("silver", table), pl.DataFrame(rows, schema=SCHEMA))


def test_a_lake_without_card_transactions_passes(tmp_path: Path) -> None:
    found = evaluate_late_rows(Lake.at(tmp_path), shipped_streams()[CARDS], 0.0, now=NOW)
    assert (found.passed, found.rows, found.late, found.share, found.worst_seconds) == (True, 0, 0, None, None)


@pytest.mark.parametrize("limit, passed", [(0.24, False), (0.25, True), (1.0, True)])
def test_the_share_of_the_last_hour_counts(tmp_path: Path, limit: float, passed: bool) -> None:
    lake = Lake.at(tmp_path)
    land(lake, "card_transactions", [0, 1, 59.9, 30, 60, 61, 400, -1])  # the hour is open at its beginning
    land(lake, "card_transactions_late", [30, 400], [12.5, 9999.0])
    found = evaluate_late_rows(lake, shipped_streams()[CARDS], limit, now=NOW)
    assert (found.late, found.rows, found.total, found.share) == (1, 4, 2, 0.25)
    assert found.worst_seconds == 12.5
    assert found.passed is passed


def test_without_late_rows_it_passes_at_any_limit(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, "card_transactions", [1, 2])
    assert evaluate_late_rows(lake, shipped_streams()[CARDS], 0.0, now=NOW).passed
