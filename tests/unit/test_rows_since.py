"""Readers at any position get every row exactly once, whatever the writers and the upkeep did in between."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.storage import commit_numbers, durable, housekeeping
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, newest, rows_since, steps
from fraud_lakehouse.storage.compaction import Tier
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.new_rows import NewRows
from fraud_lakehouse.transform import writer
from fraud_lakehouse.transform.consumption import Plan
from fraud_lakehouse.transform.scan import rows_sql
from tests.numbered import commit

SCHEMA: dict[str, pl.DataType] = {"id": pl.Int64(), "v": pl.Int64()}
KEY = ("gold", "t")
Row = tuple[int, int]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is flushed when is another test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Table:
    """A table as a model writes it, and the rows it should have."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake.at(root)
        self.root = Path(self.lake.uri(*KEY))
        self.rows: list[Row] = []
        self.ids = 0

    def write(self, kind: str, count: int) -> None:
        """An append of new ids, a merge of some old and some new ones, or an overwrite with all of them."""
        target = self.lake.open(*KEY) if self.lake.exists(*KEY) else None
        plan = Plan(KEY, target, incremental=target is not None and kind != "overwrite", keep_rows=False)
        start = 0 if kind == "overwrite" else self.ids - count // 2 if kind == "merge" else self.ids
        fresh = [(one, self.ids + count) for one in range(max(start, 0), max(start, 0) + count)]
        rows = pa.table(
            {"id": [one for one, _ in fresh], "v": [v for _, v in fresh]},
            pa.schema([("id", pa.int64()), ("v", pa.int64())]),
        )
        if kind == "merge" and target is not None:
            writer.merge(plan, rows, ["id"])
            gone = {one for one, _ in fresh}
            self.rows = [row for row in self.rows if row[0] not in gone] + fresh
        elif kind == "overwrite":
            writer.overwrite(self.lake, plan, rows.to_reader())
            self.rows = fresh
        else:
            writer.append(self.lake, plan, rows.to_reader())
            self.rows = self.rows + fresh
        self.ids = max(self.ids, start + count, count)

    def clean(self) -> None:
        """A checkpoint, and the log without what is older than its retention."""
        for path in (self.root / durable.LOG).iterdir():
            found = path.stat()
            os.utime(path, (found.st_atime - 3600, found.st_mtime - 3600))
        handle = self.lake.open(*KEY)
        housekeeping.checkpoint(handle, self.root)
        housekeeping.clean_log(handle)

    def compact(self) -> None:
        housekeeping.merge_durably(self.lake.open(*KEY), self.root, Tier(0, housekeeping.MEBIBYTE, 2))


class Reader:
    """Keeps what it has read, by its position."""

    def __init__(self) -> None:
        self.position = NOTHING
        self.rows: Counter[Row] = Counter()

    def read(self, table: DeltaTable) -> None:
        commits = commits_of(table)
        start = commits.position_of(self.position, keeps_rows=False)
        if start is None:
            start, self.rows = NOTHING, Counter()
        rows = rows_since(table, start).scan(table).collect()
        if "_commit" in rows.columns:
            assert rows["_commit"].fill_null(0).is_between(start + 1, commits.newest).all()
        self.rows += Counter(rows.select("id", "v").iter_rows())
        self.position = commits.newest


actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "append", "merge", "overwrite"]), st.integers(0, 5)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("clean"), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 2)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(done=actions)
def test_readers_have_what_the_table_has(done: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table, readers = Table(Path(folder)), [Reader() for _ in range(3)]
        found = NewRows(table.lake, KEY)
        seen: Counter[Row] = Counter()
        table.write("append", 1)
        for kind, number in [*done, ("read", 0), ("read", 1), ("read", 2)]:
            if kind == "compact":
                table.compact()
            elif kind == "clean":
                table.clean()
            elif kind != "read":
                table.write(kind, number)
            else:
                readers[number].read(table.lake.open(*KEY))
                assert readers[number].rows == Counter(table.rows)
                if not (new := found.read()).only_new:
                    found.forget()
                    seen, new = Counter(), found.read()
                if new.rows is not None:
                    seen += Counter(new.rows.select("id", "v").collect().iter_rows())
                assert seen == Counter(table.rows)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    compactions=st.sets(st.integers(0, 11)),
    start=st.integers(-1, 12),
    most=st.integers(1, 9),
)
def test_steps_bring_every_row_once_in_order_and_few_at_a_time(
    sizes: list[int], compactions: set[int], start: int, most: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        for number, size in enumerate(sizes):
            table.write("append", size + 1)
            if number in compactions:
                table.compact()
        handle = table.lake.open(*KEY)
        start = min(start, newest(handle))
        got: list[int] = []
        after = start
        for until in steps(handle, after, newest(handle), most):
            rows = rows_since(handle, after, until)
            numbers = rows.scan(handle).collect()["_commit"].to_list()
            assert len(numbers) <= most or len(set(numbers)) == 1
            got, after = got + sorted(numbers), until
        assert after == newest(handle)
        assert got == [number for number, size in enumerate(sizes, start=1) for _ in range(size + 1) if number > start]


def test_only_files_that_may_have_new_rows_are_read(tmp_path: Path) -> None:
    table = Table(tmp_path)
    for _ in range(6):
        table.write("append", 2)
    table.compact()
    for _ in range(3):
        table.write("append", 2)
    handle = table.lake.open(*KEY)
    assert [len(rows_since(handle, after).files) for after in (-1, 5, 6, 7, 8, 9)] == [4, 4, 3, 2, 1, 0]
    assert [rows_since(handle, after).is_exact for after in (-1, 3, 6)] == [True, False, True]
    assert "coalesce(_commit, 0) > 3" in rows_sql(handle, rows_since(handle, 3))
    assert "where" not in rows_sql(handle, rows_since(handle, 6))


def test_rows_without_numbers_count_as_0(tmp_path: Path) -> None:
    lake, uri = Lake.at(tmp_path), str(tmp_path / "gold/t")
    old = Appender.open(lake, *KEY, SCHEMA, numbered=False)
    old.append(pl.DataFrame({"id": [1], "v": [1]}, schema=SCHEMA), {})
    reader = Reader()
    reader.read(lake.open(*KEY))
    assert reader.position == 0
    Appender.open(lake, *KEY, SCHEMA).append(pl.DataFrame({"id": [2], "v": [2]}, schema=SCHEMA), {})
    assert len(rows_since(lake.open(*KEY), 0).files) == 1, "the footer says that the other has none"
    lake.open(*KEY).optimize.compact()
    reader.read(lake.open(*KEY))
    assert reader.rows == Counter([(1, 1), (2, 2)])
    assert reader.position == newest(DeltaTable(uri)) == 1


def test_numbers_of_before_the_table_had_its_own_count_as_read(tmp_path: Path) -> None:
    """silver/card_transactions of version 0.1 has those of bronze."""
    uri = str(tmp_path / "gold/t")
    pl.DataFrame({"id": [1, 2], "v": [1, 2], "_commit": [7, None]}).write_delta(uri)
    assert newest(DeltaTable(uri)) == 7
    assert commit(uri, pl.DataFrame({"id": [3], "v": [3]})) == 8
    found = rows_since(DeltaTable(uri), 7)
    assert found.scan(DeltaTable(uri)).collect()["id"].to_list() == [3]


@pytest.mark.parametrize("is_ours", [True, False], ids=["with the property", "a table of 0.1"])
def test_a_wide_table_has_statistics_of_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    lake = Lake.at(tmp_path)
    frame = pl.DataFrame({f"c{number}": [float(number)] for number in range(200)})
    if not is_ours:
        monkeypatch.setattr(housekeeping, "properties", lambda **_: {})
    target = None
    for _ in range(3):
        plan = Plan(KEY, target, incremental=target is not None, keep_rows=False)
        writer.append(lake, plan, frame.to_arrow().to_reader())
        target = plan.target
    if is_ours:  # by the log alone
        monkeypatch.setattr(commit_numbers, "_bounds", lambda _file: (0, 2**62))
    handle = lake.open(*KEY)
    assert [len(rows_since(handle, after).files) for after in (0, 1, 2, 3)] == [3, 2, 1, 0]
    assert scan(handle).collect().width == 201
