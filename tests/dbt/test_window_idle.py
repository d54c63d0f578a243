"""Windows that do not wait for an idle partition: closed by the others, corrected by what it brings later."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fraud_lakehouse.ingest import bronze
from tests.dbt import cards_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same

IDLE = timedelta(seconds=60)
WINDOWS = ("user_trans_amt_last_360min_windowed", "user_trans_amt_last_360min_windowed_spine")


class Clock:
    """Stands in for `datetime` where landing is stamped."""

    at = datetime(2026, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, _zone: object) -> datetime:
        return cls.at


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("idle") / "lake"
    lake = SmallLake(root, window_idle_seconds=IDLE.total_seconds(), window_spine=True)
    yield lake
    lake.transformer.close()


def windows(bronze_rows: list[Row]) -> list[Row]:
    """The closed windows: the partitions that had a row within IDLE of the newest landing decide the watermark."""
    rows = oracle.distinct(bronze_rows)
    late = {row["trans_num"] for row in oracle.late(rows)}
    arrivals = {row["_partition"]: row["_ingested_at"] for row in sorted(rows, key=lambda one: one["_ingested_at"])}
    awake = {partition for partition, at in arrivals.items() if max(arrivals.values()) - at < IDLE}
    newest = {one: max(row["t"] for row in rows if row["_partition"] == one) for one in awake}
    passed = min(newest.values())
    # the oracle's own watermark is that of its slowest partition: as one partition that is as far as the slowest awake
    return oracle.tumble([{**row, "_partition": 0} for row in rows if row["t"] <= passed], late)


@pytest.mark.parametrize("seed", range(2))
def test_windows_close_without_an_idle_partition(lake: SmallLake, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bronze, "datetime", Clock)
    rng = random.Random(seed)
    records = oracle.random_records(seed + 20, count=360, partitions=2)
    kept_back: list[Row] = []
    closed = 0
    for number, start in enumerate(range(0, len(records), 40)):
        Clock.at += timedelta(seconds=rng.choice([20, 30, 45]))
        some = records[start : start + 40]
        if number in (2, 3, 4, 5):  # partition 1 is silent for well over a minute, then comes with all it has
            kept_back += [row for row in some if row["_partition"] == 1]
            some = [row for row in some if row["_partition"] == 0]
        elif kept_back:
            some, kept_back = kept_back + some, []
        lake.land("card_transactions", some)
        lake.build("hot")
        lake.build_only(*WINDOWS)
        expected = windows(lake.rows("bronze", "card_transactions"))
        assert_same(lake.rows("gold", "user_trans_amt_last_360min_windowed"), expected, "window_start", "user_id")
        if number == 5:
            closed = len(expected)
    assert closed > 0
    versions = lake.rows("gold", "user_trans_amt_last_360min_windowed_versions")
    assert max(row["version"] for row in versions) > 1, "what the partition brought later is a new version"
    before = lake.rows("gold", "user_trans_amt_last_360min_windowed")
    lake.build("hot", full_refresh=True)
    lake.build_only(*WINDOWS)
    assert_same(lake.rows("gold", "user_trans_amt_last_360min_windowed"), before, "window_start", "user_id")


def test_the_spine_goes_as_far_as_a_users_closed_windows(lake: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The awake partition has gone days further: windows close without the idle one, those that nobody paid in too."""
    monkeypatch.setattr(bronze, "datetime", Clock)
    records = [row for row in oracle.random_records(27, count=60, partitions=2) if "trans_date_trans_time" in row]
    lake.land("card_transactions", records)
    Clock.at += 2 * IDLE
    later = {**records[-1], "_partition": 0}
    last = later | {"trans_num": "last", "_offset": 1_000, "trans_date_trans_time": "2024-03-05 01:00:00"}
    open_one = later | {"trans_num": "open", "_offset": 1_001, "trans_date_trans_time": "2024-03-08 07:00:00"}
    lake.land("card_transactions", [last, open_one])
    lake.build("hot")
    lake.build_only(*WINDOWS)
    spine = lake.rows("gold", "user_trans_amt_last_360min_windowed_spine")
    in_march = sorted((row for row in spine if row["window_start"].month == 3), key=lambda row: row["window_start"])
    assert in_march[-1]["window_end"].isoformat(" ") == "2024-03-05 06:00:00"
    assert [row["user_trans_count_last_360min"] for row in in_march] == [*([0] * 16), 1]
    assert {row["user_id"] for row in in_march} == {last["user_id"]}
