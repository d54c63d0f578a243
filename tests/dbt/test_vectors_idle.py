"""Vectors do not wait for an idle partition; what it brings when it returns corrects those told without it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fraud_lakehouse.ingest import bronze
from tests.catalogues import shipped_catalogue
from tests.dbt import vectors_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.test_feature_vectors import TABLE, build, check, newest, rebuild, that_count
from tests.dbt.test_window_idle import Clock

IDLE = timedelta(seconds=60)
LABEL_DELAY = 600
START = datetime(2024, 3, 1, 6)  # noqa: DTZ001 event times have no zone


class Landing(Clock):
    """The clock of this file's landings."""


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("vectors_idle") / "lake"
    lake = SmallLake(root, idle_seconds=IDLE.total_seconds(), label_delay=LABEL_DELAY)
    yield lake
    lake.transformer.close()


def payments(partition: int, first_offset: int, *minutes: float) -> list[Row]:
    return [
        {"trans_num": f"{partition}-{minute:g}", "_topic": "transaction", "_partition": partition}
        | {"_offset": first_offset + place, "user_id": 1, "cc_num": 7, "merchant": "one", "category": "food"}
        | {"amt": 10.0 + minute, "is_fraud": int(minute) % 2}
        | {"trans_date_trans_time": (START + timedelta(minutes=minute)).isoformat(" ")}
        for place, minute in enumerate(minutes)
    ]


def test_a_partition_that_returns_corrects_what_was_told_without_it(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bronze, "datetime", Landing)
    monkeypatch.setattr(Landing, "at", datetime(2026, 1, 1, tzinfo=UTC))
    catalogue = shipped_catalogue()
    told: dict[str, Row] = {}
    versions: dict[str, int] = {}

    def step(seconds: int, *records: Row) -> set[str]:
        """Land and build, compare with brute force; the payments whose vector is new or another."""
        monkeypatch.setattr(Landing, "at", Landing.at + timedelta(seconds=seconds))
        lake.land("card_transactions", list(records))
        build(lake)
        wanted = oracle.vectors(that_count(lake), catalogue, set(told), LABEL_DELAY, IDLE)
        changed = {
            trans_num
            for trans_num, vector in wanted.items()
            if trans_num not in told or oracle.is_same(told[trans_num], vector) is not None
        }
        for trans_num in changed:
            versions[trans_num] = versions.get(trans_num, 0) + 1
        told.update(wanted)
        found = newest(lake.rows("gold", TABLE))
        check(found, wanted)
        assert {trans_num: row["version"] for trans_num, row in found.items()} == versions
        assert {row["known_at"] for trans_num, row in found.items() if trans_num in changed} <= {Landing.at}
        return changed

    lake.land("card_transactions", payments(0, 0, 0, 10, 20))
    step(0, *payments(1, 0, 1, 2))
    assert told.keys() == {"0-0", "1-1"}, "partition 1 is waited for"
    assert step(59, *payments(0, 3, 30)) == set(), "it still is"
    assert step(1, *payments(0, 4, 40)) == {"1-2", "0-10", "0-20", "0-30"}, "it is idle"
    assert step(10, *payments(1, 2, 12, 25)) == {"1-12", "1-25", "0-20", "0-30"}, "it is back, behind what was told"
    assert (versions["0-10"], versions["0-20"]) == (1, 2)
    assert step(5, *payments(1, 4, 22), *payments(0, 5, 50)) == {"1-22", "1-25", "0-30"}, "corrected again"
    assert step(5, *payments(1, 5, 55)) == {"0-40"}, "the watermark goes on with both"
    assert step(61, *payments(0, 6, 60, 70)) == {"0-50", "1-55", "0-60"}, "idle once more"
    rebuilt, told_before = rebuild(lake, catalogue)
    assert rebuilt == told_before
