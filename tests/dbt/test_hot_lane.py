"""The hot lane built warm, many times over: what is kept in memory gives what one cold build gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform import writer
from fraud_lakehouse.transform.consumption import Plan
from fraud_lakehouse.transform.row_cache import RowCache, RowCaches
from tests.dbt import cards_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.transactions_oracle import Change, random_log

RESULTS = {
    ("silver", "card_transactions"): ["trans_num"],
    ("silver", "card_transactions_late"): ["trans_num"],
    ("silver", "transactions_ledger"): ["transaction_id", "_lsn", "_seq", "weight"],
    ("gold", "transaction_features"): ["transaction_id", "_lsn", "_seq"],
    ("gold", "card_transaction_features"): ["transaction_id"],
    ("gold", "user_trans_amt_last_360min"): ["trans_num"],
    ("gold", "user_trans_amt_last_360min_windowed"): ["window_start", "user_id"],
    ("gold", "alerts"): ["alert_id"],
}


@pytest.fixture
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("hot") / "lake")
    yield lake
    lake.transformer.close()


def land(lake: SmallLake, records: list[Row], commits: list[list[Change]]) -> None:
    """One micro-batch of both sources."""
    if records:
        lake.land("card_transactions", records)
    for table in ("users", "transactions"):
        if rows := [row for commit in commits for name, row in commit if name == table]:
            lake.land(table, rows)


def compact(lake: SmallLake) -> None:
    for layer, table in RESULTS:
        if lake.lake.exists(layer, table):
            DeltaTable(lake.lake.uri(layer, table)).optimize.compact()


def results(lake: SmallLake) -> dict[tuple[str, str], list[Row]]:
    """Rows of all tables, without the times of building."""
    lake.build("replica")
    of_a_run = ("scored_at", "fired_at", "_commit")
    return {
        key: [{name: value for name, value in row.items() if name not in of_a_run} for row in lake.rows(*key)]
        for key in RESULTS
    }


def newest(rows: list[Row], *key: str) -> list[Row]:
    """The newest version of each key; versions must be 1, 2, 3 …"""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in key), []).append(row)
    for versions in found.values():
        assert sorted(row["version"] for row in versions) == list(range(1, len(versions) + 1)), versions
    last = [max(versions, key=lambda row: row["version"]) for versions in found.values()]
    return [row for row in last if not row.get("is_deleted")]


def test_many_warm_builds_give_what_one_cold_build_gives(lake: SmallLake) -> None:
    rng = random.Random(4)
    records = cards_oracle.random_records(4, count=300, partitions=2)
    log = random_log(4, transactions=80)
    for number in range(14):
        some, few = rng.choice([0, 1, 8, 40]), rng.choice([0, 1, 5, 20])
        land(lake, records[:some], log[:few])
        records, log = records[some:], log[few:]
        lake.build("hot")
        if number in (8, 12):
            compact(lake)
        if number == 9:
            lake.transformer.close()  # what another process starts with
        if number in (9, 11):
            lake.transformer.warm_up()
    land(lake, records, log)
    lake.build("hot")
    warm = results(lake)
    over = lake.rows("gold", "user_trans_amt_last_360min_versions")
    windows = lake.rows("gold", "user_trans_amt_last_360min_windowed_versions")

    assert_same(newest(over, "trans_num"), warm["gold", "user_trans_amt_last_360min"], "trans_num")
    assert_same(
        newest(windows, "window_start", "user_id"),
        warm["gold", "user_trans_amt_last_360min_windowed"],
        "window_start",
        "user_id",
    )
    assert max(row["version"] for row in over) > 1
    lake.build("hot", full_refresh=True)
    cold = results(lake)
    for table, key in RESULTS.items():
        assert_same(warm[table], cold[table], *key)


def test_warming_up_reads_what_the_build_needs_and_writes_nothing(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.transformer.warm_up()
    assert not any(lake.lake.tables(layer) for layer in ("silver", "gold")), "nothing to build from"
    records = cards_oracle.random_records(2, count=60, partitions=1)
    land(lake, records[:30], [])
    lake.build("hot")
    land(lake, records[30:], [])
    lake.transformer.close()
    versions = {key: lake.lake.open(*key).version() for key in RESULTS if lake.lake.exists(*key)}
    made: list[str] = []
    make = RowCaches._make

    def noted(row_caches: RowCaches, row_cache: RowCache, *others: Any) -> None:
        made.append(row_cache.name)
        make(row_caches, row_cache, *others)

    monkeypatch.setattr(RowCaches, "_make", noted)
    lake.transformer.warm_up()
    assert made, "what was read before is in memory now"
    assert versions == {key: lake.lake.open(*key).version() for key in versions}, "nothing is written"
    made.clear()
    result = lake.build("hot")
    assert result.rows("card_transaction_features") > 0 and not made


def test_a_build_that_fails_half_way_through_its_rows_is_built_by_the_next(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = cards_oracle.random_records(3, count=80, partitions=1)
    for number in range(3):
        land(lake, records[20 * number : 20 * number + 20], [])
        lake.build("hot")
    kept: list[object] = []

    def refuse(_lake: Lake, plan: Plan, reader: pa.RecordBatchReader) -> None:
        kept.append((reader, reader.read_next_batch()))
        raise ConcurrentWriterError(f"{plan.consumer[1]} was built by another process", "nothing is lost")

    land(lake, records[60:], [])
    with monkeypatch.context() as patched:
        patched.setattr(writer, "append", refuse)
        assert lake.transformer.build_tier("hot").failed and kept
    assert lake.build("hot").rows("card_transaction_features") > 0
    stored = {row["trans_num"] for row in lake.rows("silver", "card_transactions")}
    assert stored == {row["trans_num"] for row in records if "trans_num" in row}


def test_a_lake_emptied_under_a_warm_process_is_built_anew(lake: SmallLake) -> None:
    records = cards_oracle.random_records(2, count=60, partitions=1)
    for number in range(4):
        land(lake, records[10 * number : 10 * number + 10], [])
        lake.build("hot")
    lake.clear()
    land(lake, records[40:], [])
    assert lake.build("hot").rows("card_transaction_features") == len(lake.rows("silver", "card_transactions"))


def test_a_moved_and_deleted_transaction_closes_its_stored_version(lake: SmallLake) -> None:
    """Through the mirror of the ledger: the update finds what another build has stored."""
    rows = [
        {"transaction_id": number, "user_id": number % 3, "amount": Decimal(number), "_op": "c", "_lsn": 10 + number}
        | {"_seq": 1, "transaction_date": cards_oracle.START + timedelta(minutes=number)}
        for number in range(30)
    ]
    for start in range(0, 30, 5):
        lake.land("transactions", rows[start : start + 5])
        lake.build("hot")
    lake.land(
        "transactions", [{**rows[3], "user_id": 1, "_op": "u", "_lsn": 100}, {**rows[4], "_op": "d", "_lsn": 110}]
    )
    lake.build("hot")

    closed = {
        (row["transaction_id"], row["user_id"], row["_op"])
        for row in lake.rows("silver", "transactions_ledger")
        if row["weight"] == -1
    }
    assert closed == {(3, 0, "u"), (4, 1, "d")}


def test_a_lake_of_before_a_column_came_goes_on_with_either_source(lake: SmallLake) -> None:
    records, log = cards_oracle.random_records(5, count=40, partitions=1), random_log(5, transactions=40)
    land(lake, records[:20], log)
    lake.build("hot")
    for table in ("transaction_features", "card_transaction_features", "alerts"):
        uri = lake.lake.uri("gold", table)
        without = pl.read_delta(uri).drop("scored_at")
        write_deltalake(uri, without.to_arrow(), mode="overwrite", schema_mode="overwrite")
    before = {row["alert_id"] for row in lake.rows("gold", "alerts")}
    lake.transformer.close()
    velocity = [{**records[20], "trans_num": f"burst{number}", "_offset": 1000 + number} for number in range(30)]
    land(lake, velocity, [])
    lake.build("hot")
    assert "scored_at" not in lake.rows("gold", "transaction_features")[0], "no row came to it"
    fired = [row for row in lake.rows("gold", "alerts") if row["alert_id"] not in before]
    assert fired and all(row["landed_at"] <= row["scored_at"] <= row["fired_at"] for row in fired)
