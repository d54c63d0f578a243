"""Excluded values of the last hour are counted, with a few examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.checks.excluded_values import checked_table, evaluate_excluded_values
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.storage.lake import Lake
from tests.catalogues import BANK, CARDS, shipped_streams

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
FLAGS = {"is_amount_excluded": pl.Boolean, "is_time_excluded": pl.Boolean}
COMMON = FLAGS | {"_ingested_at": pl.Datetime("us", "UTC")}
CARD = {"trans_num": pl.String, "amt": pl.Float64, "trans_date_trans_time": pl.Datetime("us")} | COMMON
ENTRY = {"transaction_id": pl.Int64, "amount": pl.Decimal(38, 9), "amount_text": pl.String, "weight": pl.Int32}
ENTRY |= {"transaction_date": pl.Datetime("us")} | COMMON


def land(lake: Lake, stream: PaymentStream, schema: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame([dict.fromkeys(schema) | {"_ingested_at": NOW} | row for row in rows], schema=schema)
    write_deltalake(lake.uri("silver", checked_table(stream)), frame)


@pytest.mark.parametrize("name", [CARDS, BANK])
def test_a_lake_without_the_table_or_its_flags_passes(tmp_path: Path, name: str) -> None:
    lake, stream = Lake.at(tmp_path), shipped_streams()[name]
    assert evaluate_excluded_values(lake, stream, now=NOW).passed
    write_deltalake(lake.uri("silver", checked_table(stream)), pl.DataFrame({"amt": [1e300], "_ingested_at": [NOW]}))
    assert evaluate_excluded_values(lake, stream, now=NOW).passed


def test_card_payments_of_the_last_hour_count(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    old = {"is_amount_excluded": True, "is_time_excluded": True, "_ingested_at": NOW - timedelta(hours=1)}
    both = {"trans_num": "both", "amt": 1e15, "is_amount_excluded": True, "is_time_excluded": True}
    time = {"trans_num": "time", "is_amount_excluded": False, "is_time_excluded": True}
    land(lake, shipped_streams()[CARDS], CARD, [old, both, time, {"trans_num": "good"}, {"is_amount_excluded": False}])
    found = evaluate_excluded_values(lake, shipped_streams()[CARDS], now=NOW)
    assert (found.amounts, found.times, found.passed) == (1, 2, False)
    assert {one["id"]: one["excluded"] for one in found.examples} == {
        "both": "amount and event time",
        "time": "event time",
    }
    assert found.examples[0]["amount"] == "1000000000000000.0"


def test_the_ledger_counts_opened_versions_and_shows_texts(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    row = {"transaction_id": 7, "amount_text": "1e+100", "is_amount_excluded": True, "is_time_excluded": False}
    land(lake, shipped_streams()[BANK], ENTRY, [row | {"weight": weight} for weight in (1, -1)])
    found = evaluate_excluded_values(lake, shipped_streams()[BANK], now=NOW)
    assert (found.amounts, found.times) == (1, 0)
    assert found.examples == ({"id": "7", "amount": "1e+100", "event time": None, "excluded": "amount"},)
