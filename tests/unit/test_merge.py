"""A merge upserts and deletes by key, whatever the keys and columns are called and hold, in files that all can read."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.errors import ConcurrentWriterError, TransformError
from fraud_lakehouse.transform import merged, writer
from fraud_lakehouse.transform.consumption import Plan

KEY = ["^.*$", "*"]
SCHEMA = pa.schema(
    [("^.*$", pa.int64()), ("*", pa.string()), ("strange, {name}", pa.binary()), ("amount", pa.decimal128(38, 2))]
)
DELETED = SCHEMA.append(pa.field(writer.DELETE, pa.bool_()))
Row = tuple[int | None, str | None, bytes | None, Decimal | None, bool]

rows = st.lists(
    st.tuples(
        st.sampled_from([None, *range(6)]),
        st.sampled_from([None, "", "a", "name", "^.*$"]),
        st.sampled_from([None, b"", b"\xff"]),
        st.sampled_from([None, Decimal("1.50"), Decimal("9e35")]),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda row: row[:2],
)


def table(root: Path) -> DeltaTable:
    return DeltaTable.create(str(root / "silver/t"), SCHEMA)


def plan(found: DeltaTable) -> Plan:
    return Plan(("silver", "t"), found, incremental=True, keep_rows=False)


def arrow(found: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(DELETED.names, row, strict=True)) for row in found], schema=DELETED)


def content(found: DeltaTable) -> dict[Any, Any]:
    read = pl.DataFrame(found.to_pyarrow_table()).drop("_commit", strict=False).rows()
    assert len({row[:2] for row in read}) == len(read), "a key is there once"
    return {row[:2]: row[2:] for row in read}


@settings(max_examples=40, deadline=None)
@given(merges=st.lists(rows, min_size=1, max_size=5), is_remote=st.booleans(), piece=st.sampled_from([1, 2**26]))
def test_merges_give_what_a_dictionary_does(merges: list[list[Row]], is_remote: bool, piece: int) -> None:
    oracle: dict[Any, Any] = {}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged, "MERGED_BYTES", piece)  # 1: each row is a file of its own
        if is_remote:
            patch.setattr(writer, "_local", lambda _target: None)
        found = table(Path(folder))
        for given_rows in merges:
            writer.merge(plan(found), arrow(given_rows), KEY)
            for row in given_rows:
                oracle.pop(row[:2], None)
                if not row[-1]:
                    oracle[row[:2]] = row[2:4]
            assert content(DeltaTable(found.table_uri)) == oracle
        for file in Path(folder).rglob("*.parquet"):
            if "_delta_log" not in file.parts:
                assert not [kind for kind in pq.read_schema(file).types if "view" in str(kind)]


def test_a_file_without_a_key_of_the_merge_is_left_as_it_is(tmp_path: Path) -> None:
    found = table(tmp_path)
    for number in range(3):
        writer.merge(plan(found), arrow([(number, "a", b"x", None, False)]), KEY)
    before = set(found.file_uris())
    writer.merge(plan(found), arrow([(1, "a", b"y", None, False)]), KEY)
    assert len(before & set(found.file_uris())) == 2
    assert content(found)[1, "a"] == (b"y", None)


def test_a_column_that_the_table_lacks_is_added(tmp_path: Path) -> None:
    found = table(tmp_path)
    writer.merge(plan(found), arrow([(1, "a", b"x", None, False), (2, "a", b"x", None, False)]), KEY)
    more = arrow([(2, "a", b"y", None, False)]).append_column("note", pa.array(["new"]))
    writer.merge(plan(found), more, KEY)
    assert content(found) == {(1, "a"): (b"x", None, None), (2, "a"): (b"y", None, "new")}


@pytest.mark.parametrize("amount", [pa.array([1.005]), pa.array(["much"]), pa.array([10**37], pa.decimal128(38, 0))])
def test_a_value_that_its_column_cannot_hold_is_refused_and_none_is_cut_off(tmp_path: Path, amount: pa.Array) -> None:
    found = table(tmp_path)
    given_rows = arrow([(1, "a", b"x", None, False)]).drop_columns("amount").append_column("amount", amount)
    with pytest.raises(TransformError, match=r"column amount of .* is Decimal"):
        writer.merge(plan(found), given_rows, KEY)
    fitting = given_rows.drop_columns("amount").append_column("amount", pa.array([7], pa.int16()))
    writer.merge(plan(found), fitting, KEY)
    assert content(found) == {(1, "a"): (b"x", Decimal("7.00"))}


def test_a_merge_that_a_rival_has_overtaken_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    found = table(tmp_path)
    writer.merge(plan(found), arrow([(1, "a", b"x", None, False)]), KEY)
    rival = DeltaTable(found.table_uri)
    writer.merge(plan(rival), arrow([(1, "a", b"rival", None, False)]), KEY)
    files = set((tmp_path / "silver/t").glob("*.parquet"))
    with pytest.raises(ConcurrentWriterError):
        writer.merge(plan(found), arrow([(1, "a", b"late", None, False)]), KEY)
    assert content(DeltaTable(found.table_uri)) == {(1, "a"): (b"rival", None)}
    assert set((tmp_path / "silver/t").glob("*.parquet")) == files


def test_what_delta_rs_merges_write_is_why_ours_are_our_own(tmp_path: Path) -> None:
    """Once this fails, delta-rs writes plain columns, and its MERGE may be used again."""
    write_deltalake(str(tmp_path), pa.table({"id": [1], "text": ["a"]}))
    found = DeltaTable(str(tmp_path))
    merge = found.merge(pa.table({"id": [1], "text": ["b"]}), "t.id = s.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().execute()
    found.update_incremental()
    (file,) = found.file_uris()
    assert str(pq.read_schema(file.removeprefix("file://")).field("text").type) == "string_view"
