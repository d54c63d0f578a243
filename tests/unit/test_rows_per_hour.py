"""Rows by hour are those that counting them one by one gives, and files within an hour are not read for it."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.checks.rows_per_hour import rows_per_hour
from fraud_lakehouse.storage.lake import Lake

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLE = ("gold", "t")
HOUR = 3_600_000_000
# on, and microseconds beside, the turns of hours; and anywhere
moments = st.builds(lambda hour, background: hour * HOUR + background, st.integers(-1, 5), st.integers(-1_500, 1_500))
times = st.none() | moments | st.integers(-HOUR, 5 * HOUR)


def land(lake: Lake, microseconds_ago: list[int | None]) -> None:
    """One file of rows."""
    at = [None if ago is None else NOW - timedelta(microseconds=ago) for ago in microseconds_ago]
    frame = pl.DataFrame({"at": at}, schema={"at": pl.Datetime("us", "UTC")})
    write_deltalake(lake.uri(*TABLE), frame, mode="append")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(times, min_size=1, max_size=6), max_size=5))
def test_it_counts_what_counting_one_by_one_gives(files: list[list[int | None]]) -> None:
    since = NOW - timedelta(hours=4)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        for file in files:
            land(lake, file)
        expected = Counter(ago // HOUR for file in files for ago in file if ago is not None and 0 <= ago < 4 * HOUR)
        assert rows_per_hour(lake, TABLE, "at", since, NOW) == expected


def test_only_files_that_reach_over_an_hour_are_read(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land(lake, [10, HOUR - 5_000])
    land(lake, [HOUR + 5_000, 2 * HOUR - 5_000])
    for file in (tmp_path / "gold" / "t").glob("*.parquet"):
        file.unlink()
    land(lake, [HOUR - 1, HOUR + 1])
    assert rows_per_hour(lake, TABLE, "at", NOW - timedelta(hours=4), NOW) == {0: 3, 1: 3}
