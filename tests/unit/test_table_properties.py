"""Properties are changed without a new reader feature, durably, and never over another writer's commit."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.maintenance import maintain_table
from fraud_lakehouse.storage.table_properties import set_properties

SCHEMA = pa.schema([("at", pa.timestamp("us")), ("text", pa.string())])


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    root = str(tmp_path / "bronze/t")
    made = DeltaTable.create(root, SCHEMA, description="what it is", configuration={"delta.checkpointInterval": "100"})
    write_deltalake(made, pa.table({"at": [None], "text": ["a"]}, schema=SCHEMA), mode="append")
    return made


def features(table: DeltaTable) -> set[str]:
    return set(table.protocol().reader_features or ())


def test_properties_are_set_and_everything_else_stays(table: DeltaTable, tmp_path: Path) -> None:
    root = tmp_path / "bronze/t"
    before = table.metadata(), table.schema()
    values = {"fraud_lakehouse.columns": '[{"name": "ä"}]'}
    assert set_properties(table, root, values) and not set_properties(table, root, values)
    opened = DeltaTable(str(root))
    assert opened.version() == table.version() == 2
    assert opened.metadata().configuration == {"delta.checkpointInterval": "100", **values}
    assert (opened.metadata().id, opened.metadata().description) == (before[0].id, "what it is")
    assert opened.schema() == before[1]
    assert features(opened) == {"timestampNtz"}
    write_deltalake(table, pa.table({"at": [None], "text": ["b"]}, schema=SCHEMA), mode="append")
    assert pl.read_delta(str(root)).height == 2
    assert DeltaTable(str(root)).history(2)[1]["operation"] == "SET TBLPROPERTIES"


@pytest.mark.parametrize("name", ["\U0001f600", "\U00020000", "\U0002a6d6x", "\U000e0100", "\u2028"])
def test_a_column_keeps_its_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / "bronze/t"
    table = DeltaTable.create(str(root), pa.schema([(name, pa.string())]))
    set_properties(table, root, {"fraud_lakehouse.columns": "[]"})
    assert [field.name for field in DeltaTable(str(root)).schema().fields] == [name]


def test_a_rivals_commit_in_between_refuses_it(table: DeltaTable, tmp_path: Path) -> None:
    root = tmp_path / "bronze/t"
    write_deltalake(str(root), pa.table({"at": [None], "text": ["rival"]}, schema=SCHEMA), mode="append")
    with pytest.raises(ConcurrentWriterError, match="version 2"):
        set_properties(table, root, {"fraud_lakehouse.columns": "[]"})
    assert "fraud_lakehouse.columns" not in DeltaTable(str(root)).metadata().configuration
    assert sorted(path.name for path in (root / "_delta_log").iterdir()) == [f"{n:020}.json" for n in range(3)]


def test_upkeep_takes_back_a_feature_that_delta_rs_added(table: DeltaTable, tmp_path: Path) -> None:
    table.alter.set_table_properties({"fraud_lakehouse.columns": "[]"}, raise_if_not_exists=False)
    assert features(table) == {"timestampNtz", "variantType"}, "else delta-rs may set properties again"
    maintain_table(Lake.at(tmp_path), "bronze", "t")
    mended = DeltaTable(str(tmp_path / "bronze/t"))
    assert features(mended) == {"timestampNtz"}
    assert mended.metadata().configuration["fraud_lakehouse.columns"] == "[]"
    write_deltalake(mended, pa.table({"at": [None], "text": ["b"]}, schema=SCHEMA), mode="append")
    assert pl.read_delta(str(tmp_path / "bronze/t")).height == 2
