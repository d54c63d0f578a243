"""A rebuild from bronze gives what builds after every commit gave, whatever the clock did between the commits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fraud_lakehouse.ingest import bronze
from fraud_lakehouse.storage.appender import Appender
from tests.dbt import vectors_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.test_card_models import BESIDE, KEYS, arrivals
from tests.dbt.test_window_idle import Clock

HOT = ("card_transactions", "card_transactions_late", "card_transaction_features")
VERSIONS = {f"{table}_versions": key for table, key in KEYS.items()} | {"card_feature_vectors": ["trans_num"]}
TABLES = {
    ("silver", "card_transactions"): ["trans_num"],
    ("silver", "card_transactions_late"): ["trans_num"],
    ("gold", "card_transaction_features"): ["transaction_id"],
    **{("gold", table): key for table, key in {**KEYS, **VERSIONS}.items()},
}
WHEN_COMPUTED = {"scored_at", "known_at", "version"}
"""When and how often something was computed: documented to begin again in a rebuild."""
STEPS = [1, 1, 30, 61, 5 * 3600, -20, -3 * 3600, -9 * 3600]
"""Seconds by which the clock moves between two commits."""


class Ingestion(Clock):
    """The clock of this file's commits."""


@pytest.fixture(scope="module", params=[0.0, 60.0], ids=["every partition", "idle partitions"])
def shared_lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("clock") / "lake"
    lake = SmallLake(root, window_idle_seconds=request.param, idle_seconds=60.0, label_delay=3600)
    yield lake
    lake.transformer.close()


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    models = [*HOT, *BESIDE, *KEYS, *VERSIONS]
    lake.transformer.build(models, full_refresh=full_refresh, tests=False).raise_for_errors()


def contents(lake: SmallLake, layer: str, table: str) -> list[Row]:
    """The rows, of versions the newest ones that were not withdrawn, without what says when they were computed."""
    rows = lake.rows(layer, table)
    if table in VERSIONS:
        rows.sort(key=lambda row: row["version"])
        newest = {tuple(row[name] for name in VERSIONS[table]): row for row in rows}
        rows = [row for row in newest.values() if row.get("is_open") or not row.get("is_deleted")]
    return [{name: value for name, value in row.items() if name not in WHEN_COMPUTED} for row in rows]


@pytest.mark.parametrize("seed", range(2))
def test_a_rebuild_gives_what_incremental_builds_gave(
    lake: SmallLake, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bronze, "datetime", Ingestion)
    monkeypatch.setattr(Ingestion, "at", datetime(2026, 1, 1, tzinfo=UTC))
    rng = random.Random(seed)
    commits = 0
    older = 3 * seed  # commits of before they were numbered: they count as their clock had them, and are read as one
    for rows in arrivals(vectors_oracle.random_payments(seed + 60, count=160, partitions=2), rng):
        with monkeypatch.context() as patched:
            if commits < older:
                patched.setattr(Appender, "_next_number", None)
            lake.land("card_transactions", rows)
        if commits + 1 >= older:
            build(lake)
        Ingestion.at += timedelta(seconds=30 if commits < older else rng.choice(STEPS))
        commits += 1
        if commits % 4 == 0:
            check_rebuild(lake)
    check_rebuild(lake)
    assert commits > 4
    numbered = [row["_commit"] for row in lake.rows("bronze", "card_transactions") if row["_commit"] is not None]
    assert max(numbered) == commits - older
    assert len(lake.rows("silver", "card_transactions_late")) > 0
    assert len(lake.rows("silver", "card_transactions")) < len(lake.rows("bronze", "card_transactions"))


def check_rebuild(lake: SmallLake) -> None:
    before = {place: contents(lake, *place) for place in TABLES}
    build(lake, full_refresh=True)
    differing = {}
    for (layer, table), key in TABLES.items():
        try:
            assert_same(contents(lake, layer, table), before[layer, table], *key)
        except AssertionError as error:
            differing[table] = str(error)[:300]
    assert not differing, differing
