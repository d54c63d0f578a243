"""A lake that version 0.1 wrote goes on: bronze, alerts and history stay, and every table says what a rebuild says.

tests/data/lake_0_1.tar.gz: 30 users and 300 bank transactions with updates and deletes, 500 card records of two
partitions, some of them late, in four catch-ups.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.commit_numbers import commits_of
from fraud_lakehouse.transform.consumption import app_id
from tests.dbt.small_lake import SmallLake

PACKED = Path(__file__).parents[1] / "data" / "lake_0_1.tar.gz"
LANES = ("hot", "rest")
RECORDED = (
    *("scored_at", "fired_at", "known_at", "landed_at", "time_to_detect_ms"),
    *("_commit", "_bronze_commit", "stream", "rule_version"),
)
"""Columns that say when, by which commit or by which version a row was written."""
ANEW = ("daily_report", "shadow_alerts", "time_to_detect", "vector_firings")
"""Tables that 0.1 did not have, or made otherwise."""
OF_0_1 = ("user_entry", "user_count", "user_amount")
"""Columns of the ledger that only 0.1 fills."""
FEATURES = ("card_transaction_features", "transaction_features")
VERSIONED = ("transaction_feature_vectors", "card_feature_vectors")
"""Tables with as many versions of a row as there were builds with news of it."""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[SmallLake]:
    """The lake as 0.1 left it, opened by a new process."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path / "lake", filter="data")
    lake = SmallLake(tmp_path / "lake")
    yield lake
    lake.transformer.close()


def land_more(lake: SmallLake) -> None:
    """What the sources have by now: payments, one of them late, an update and a delete."""
    cards = pl.read_delta(str(lake.root / "bronze/card_transactions"))
    newest = cards.sort("_offset").filter(pl.col("_partition") == 0).tail(1).to_dicts()[0]
    moment = datetime.fromisoformat(cards["trans_date_trans_time"].max())  # type: ignore[arg-type]
    rows = []
    for number in range(12):
        at = moment + timedelta(minutes=30 * number) - (timedelta(days=2) if number == 5 else timedelta())
        row = {
            "_offset": newest["_offset"] + 1 + number,
            "trans_num": f"new {number}",
            "amt": 900.0 if number == 7 else 5.0,
        }
        rows.append(newest | row | {"trans_date_trans_time": at.isoformat(" ")})
    append(lake, "card_transactions", rows)
    events = pl.read_delta(str(lake.root / "bronze/transactions"))
    last = events.filter(pl.col("_op") != "d").sort("_lsn", "_seq").tail(1).to_dicts()[0]
    fresh = last | {"_op": "c", "transaction_id": 9001, "amount": 9999, "_lsn": last["_lsn"] + 10**9}
    changed = last | {"_op": "u", "amount": 1, "_lsn": last["_lsn"] + 10**9 + 1}
    gone = {"_op": "d", "transaction_id": last["transaction_id"] - 1, "_lsn": last["_lsn"] + 10**9 + 2, "_seq": 0}
    gone |= {"_committed_at": last["_committed_at"]}
    append(lake, "transactions", [fresh, changed, {name: gone.get(name) for name in last}])


def append(lake: SmallLake, table: str, rows: list[dict[str, Any]]) -> None:
    bronze = BronzeTable.open_or_create(lake.lake, table, {}, ())
    frame = pl.DataFrame(rows, schema=bronze.schema).drop("_ingested_at", "_commit", strict=False)
    bronze.append(frame, {})


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    for tier in LANES:
        lake.build(tier, full_refresh=full_refresh)


def contents(lake: SmallLake) -> dict[str, pl.DataFrame]:
    """Every table's rows in a fixed order, but for what says when they were written."""
    found = {}
    for layer in ("silver", "gold"):
        for name in lake.lake.tables(layer):
            if name in ANEW:
                continue
            frame = pl.read_delta(str(lake.root / layer / name)).drop(*RECORDED, *OF_0_1, strict=False)
            if name == "alerts":
                frame = frame.drop("weight", strict=False)
            if name in FEATURES:  # columns that rules need are null in older rows
                (model,) = lake.transformer.compiled.named([name])
                frame = frame.select(column for column in frame.columns if column in model.columns)
            if name in VERSIONED:
                key = "trans_num" if "trans_num" in frame.columns else "transaction_id"
                frame = frame.sort("version").unique(key, keep="last").drop("version")
                if "is_deleted" in frame.columns:
                    frame = frame.filter(~pl.col("is_deleted"))
            if not name.endswith("_versions"):  # their newest rows are the table without that suffix
                found[f"{layer}/{name}"] = frame.select(sorted(frame.columns)).sort(pl.all(), nulls_last=True)
    return found


def versions(lake: SmallLake) -> dict[str, int]:
    names = [(layer, name) for layer in ("silver", "gold") for name in lake.lake.tables(layer)]
    return {name: DeltaTable(lake.lake.uri(layer, name)).version() for layer, name in names}


def assert_same(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert actual.keys() == expected.keys()
    for name, frame in expected.items():
        try:
            assert_frame_equal(actual[name], frame, rel_tol=1e-9, abs_tol=1e-9)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def test_what_0_1_had_read_is_not_read_again(old: SmallLake) -> None:
    before, kept = contents(old), versions(old)
    build(old)
    assert_same(contents(old), before)
    for layer, name, upstream in (("silver", "card_transactions", "card_transactions"), ("silver", "users", "users")):
        table = old.lake.open(layer, name)
        source = old.lake.open("bronze", upstream)
        assert table.transaction_version(app_id(("bronze", upstream), source)) == commits_of(source).newest
    build(old)  # alerts read what rules on vectors found, which was not there before
    again = versions(old)
    build(old)
    assert versions(old) == again, "positions are in today's form now"
    assert all(again[name] <= kept[name] + 2 for name in kept), "commits of positions, and none of rows"


@pytest.mark.parametrize("forgotten", [False, True], ids=["the log is there", "the log was cut"])
def test_it_goes_on_as_if_it_had_been_built_by_this_version(old: SmallLake, *, forgotten: bool) -> None:
    before = pl.read_delta(str(old.root / "gold/alerts"))
    history = pl.read_delta(str(old.root / "silver/users_history"))
    land_more(old)
    if forgotten:
        for layer in ("bronze", "silver", "gold"):
            for name in old.lake.tables(layer):
                forget_log(old.root / layer / name)
    build(old)
    alerts = pl.read_delta(str(old.root / "gold/alerts"))
    assert alerts["alert_id"].is_unique().all()
    assert (
        alerts.join(before, on="alert_id", how="semi")
        .sort("alert_id")
        .select(before.columns)
        .equals(before.sort("alert_id"))
    ), "as they fired"
    fresh = alerts.join(before, on="alert_id", how="anti")
    assert set(fresh["stream"]) == {"bank_payments", "card_payments"}, "which old ones do not have"
    assert alerts["stream"].null_count() == before.height
    after = pl.read_delta(str(old.root / "silver/users_history"))
    assert after.select(history.columns).sort(pl.all()).equals(history.sort(pl.all()))
    incremental = contents(old)
    shutil.rmtree(old.root / "silver")
    shutil.rmtree(old.root / "gold")
    build(old)
    assert_same(incremental, contents(old))


def forget_log(root: Path) -> None:
    """Leave what a checkpoint and the newest entry say."""
    table = DeltaTable(str(root))
    table.create_checkpoint()
    for version in range(table.version()):
        durable.log_entry(root, version).unlink(missing_ok=True)
