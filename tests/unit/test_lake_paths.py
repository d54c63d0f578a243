"""A lake whose path delta-rs has to percent-encode is read like any other."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.storage.lake import scan


@pytest.mark.parametrize("folder", ["plain", "a b", "it's 50% #1 ü"])
def test_rows_are_found_whatever_the_path(tmp_path: Path, folder: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    first = pl.DataFrame({"source": ["a", "b"], "at": [moment, moment], "amount": [Decimal("1.20"), None]})
    path = str(tmp_path / folder / "table")
    first.write_delta(path)
    first.with_columns(added=pl.lit("x")).write_delta(path, mode="append", delta_write_options={"schema_mode": "merge"})

    rows = scan(DeltaTable(path))

    assert rows.collect_schema()["at"] == pl.Datetime("us", "UTC")
    newest = rows.filter(pl.col("source") == "b").filter(pl.col("at") == pl.col("at").max()).collect()
    assert sorted(newest["added"].to_list(), key=str) == [None, "x"]


def test_a_table_without_files_keeps_its_columns(tmp_path: Path) -> None:
    path = str(tmp_path / "a b")
    pl.DataFrame({"n": [1]}).write_delta(path)
    DeltaTable(path).delete()

    assert scan(DeltaTable(path)).collect().schema == {"n": pl.Int64()}
