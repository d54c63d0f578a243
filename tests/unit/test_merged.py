"""Which files a merge writes anew, for keys of each kind whose range decides what is read."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fraud_lakehouse.transform.merged import Change, _touched


@pytest.mark.parametrize(
    "keys",
    [
        [1, 2, 3],
        ["a", "b", "c"],
        ["key", "value", "it's"],
        ["\U0001f600", "", " "],
        [date(1, 1, 1), date(2026, 1, 1), date(9999, 12, 31)],
        [1.5, -0.0, 2.5],
        [b"a", b"\xff", b""],
        [True, False, None],
    ],
    ids=str,
)
def test_a_file_is_touched_if_it_holds_a_key(tmp_path: Path, keys: list[Any]) -> None:
    for key in keys:
        write_deltalake(tmp_path, _row(key, _kind(keys)), mode="append")
    table = DeltaTable(tmp_path)
    for key in keys:
        rows = pa.table(_row(key, _kind(keys)).to_arrow())
        touched = _touched(table, Change.of(table, rows, ["key"], "_delete").keys)
        assert len(touched) == 1
        found = pl.read_parquet(tmp_path / touched[0][0])
        assert found["key"].to_list() == [key]


def _row(key: Any, kind: pl.DataType) -> pl.DataFrame:
    return pl.DataFrame({"key": [key], "value": [1]}, {"key": kind, "value": pl.Int64})


def _kind(keys: list[Any]) -> pl.DataType:
    return pl.Series(keys).dtype
