"""A row cache holds a table's rows up to any commit, whatever happened to the table; the index finds keys."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import duckdb
import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.storage.commit_numbers import COMMITS, REWRITTEN
from fraud_lakehouse.transform import row_cache as mirrors_module
from fraud_lakehouse.transform.key_index import KeyIndex
from fraud_lakehouse.transform.row_cache import RowCaches, Shape
from tests.numbered import commit

ROWS = Shape((("id", "id"), ("twice", "2 * amount")))
TOTALS = Shape(
    (("bucket", "id % 3"), ("entries", "1"), ("total", "amount")),
    key=("bucket",),
    totals=(("entries", "sum(entries)"), ("total", "sum(total)")),
)


class Table:
    """A Delta table, and the ids that its rows up to each commit have now."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "table")
        self.ids: dict[int, list[int]] = {-1: [], 0: []}
        self.write([], "append")

    def write(self, ids: list[int], mode: Literal["append", "overwrite"]) -> None:
        frame = pl.DataFrame({"id": ids, "amount": [10 * i for i in ids]}, schema={"id": pl.Int64, "amount": pl.Int64})
        number = commit(self.path, frame, mode)
        if mode == "overwrite":
            self.ids = {-1: []}
        self.ids[number] = list(self.ids.values())[-1] + ids

    def compact(self) -> None:
        self.handle.optimize.compact()

    @property
    def newest(self) -> int:
        return max(self.ids)

    @property
    def handle(self) -> DeltaTable:
        return DeltaTable(self.path)


def rows(
    connection: duckdb.DuckDBPyConnection, row_caches: RowCaches, table: Table, number: int
) -> list[tuple[int, int]]:
    row_cache = row_caches.at("table", ROWS, table.handle, number)
    return sorted(connection.execute(f"select id, twice from {row_cache.relation}{row_cache.up_to(number)}").fetchall())


def totals(connection: duckdb.DuckDBPyConnection, row_caches: RowCaches, table: Table, number: int) -> list[object]:
    row_cache = row_caches.at("table", TOTALS, table.handle, number)
    return sorted(connection.execute(TOTALS.fold(row_cache.relation)).fetchall())


def expected_totals(ids: list[int]) -> list[object]:
    buckets = {i % 3 for i in ids}
    return sorted((b, sum(i % 3 == b for i in ids), sum(10 * i for i in ids if i % 3 == b)) for b in buckets)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.lists(st.integers(0, 9), max_size=4)),
            st.tuples(st.just("overwrite"), st.lists(st.integers(0, 9), max_size=4)),
            st.tuples(st.just("compact"), st.just([])),
            st.tuples(st.just("ask"), st.just([])),
            st.tuples(st.just("ask earlier"), st.integers(0, 9).map(lambda n: [n])),
        ),
        max_size=12,
    ),
)
@example(steps=[("append", [1]), ("ask", []), ("append", [2]), ("append", [3]), ("ask", []), ("ask earlier", [3])])
def test_a_mirror_has_the_rows_up_to_that_commit(steps: list[tuple[str, list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table, connection = Table(Path(folder)), duckdb.connect()
        row_caches = RowCaches(connection)
        for action, values in [*steps, ("ask", [])]:
            if action in {"append", "overwrite"}:
                table.write(values, action)  # type: ignore[arg-type]
            elif action == "compact":
                table.compact()
            else:
                known = sorted(table.ids)
                number = known[-1] if action == "ask" else known[values[0] % len(known)]
                ids = table.ids[number]
                assert rows(connection, row_caches, table, number) == sorted((i, 20 * i) for i in ids)
                assert totals(connection, row_caches, table, number) == expected_totals(ids)


def test_a_mirror_reads_only_what_was_added(tmp_path: Path) -> None:
    table, connection = Table(tmp_path), duckdb.connect()
    row_caches = RowCaches(connection)
    table.write([1, 2], "append")
    old_file = Path(table.handle.file_uris()[0].removeprefix("file://"))
    rows(connection, row_caches, table, table.newest)
    old_file.unlink()
    table.write([3], "append")

    assert rows(connection, row_caches, table, table.newest) == [(1, 20), (2, 40), (3, 60)]


def test_a_mirror_follows_a_table_without_numbers(tmp_path: Path) -> None:
    """A one-to-one replica: each of its commits counts as a rewrite."""
    connection, path = duckdb.connect(), str(tmp_path / "table")
    row_caches = RowCaches(connection)
    for number, ids in enumerate(([1, 2], [1, 2, 3], [3]), start=1):
        frame = pl.DataFrame({"id": ids, "amount": ids})
        recorded = [Transaction(name, number) for name in (COMMITS, REWRITTEN)]
        properties = CommitProperties(app_transactions=recorded)
        write_deltalake(path, frame.to_arrow(), mode="overwrite", commit_properties=properties)
        row_cache = row_caches.at("table", ROWS, DeltaTable(path), number)
        found = connection.execute(
            f"select id from {row_cache.relation}{row_cache.up_to(number)} order by 1"
        ).fetchall()
        assert found == [(one,) for one in ids]


def test_totals_are_folded_before_they_grow_with_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors_module, "FOLD_FROM", 10)
    table, connection = Table(tmp_path), duckdb.connect()
    row_caches = RowCaches(connection)
    for number in range(30):
        table.write([number, number + 1], "append")
        assert row_caches.at("table", TOTALS, table.handle, table.newest).rows <= 12
    assert totals(connection, row_caches, table, table.newest) == expected_totals(
        [i for number in range(30) for i in (number, number + 1)]
    )


def test_rows_are_found_by_key_and_nulls_are_none(tmp_path: Path) -> None:
    table, connection = Table(tmp_path), duckdb.connect()
    row_caches = RowCaches(connection)
    table.write([1, 2, 3, 2], "append")
    before = table.newest
    row_caches.find(row_caches.at("table", ROWS, table.handle, before), before, ("id",), "select 2", "found")
    assert connection.execute("select id from found").fetchall() == [(2,), (2,)]

    table.write([2, 4], "append")
    row_cache = row_caches.at("table", ROWS, table.handle, table.newest)
    keys = "select unnest([2, 4, null, 7])"
    row_caches.find(row_cache, table.newest, ("id",), keys, "found")
    assert sorted(connection.execute("select id from found").fetchall()) == [(2,), (2,), (2,), (4,)]
    row_caches.find(row_caches.at("table", ROWS, table.handle, before), before, ("id",), keys, "found")
    assert connection.execute("select id from found").fetchall() == [(2,), (2,)]


@settings(deadline=None)
@given(chunks=st.lists(st.lists(st.integers(0, 20), max_size=30), max_size=12), wanted=st.lists(st.integers(0, 25)))
def test_the_index_finds_every_row_of_a_key_once(chunks: list[list[int]], wanted: list[int]) -> None:
    index, all_hashes = KeyIndex(), []
    for chunk in chunks:
        numbers = range(len(all_hashes), len(all_hashes) + len(chunk))
        schema = {"hash": pl.UInt64, "row": pl.Int64}
        all_hashes += chunk
        index.add(pl.DataFrame({"hash": chunk, "row": list(numbers)}, schema=schema), len(all_hashes))

    found = index.find(pl.Series(wanted, dtype=pl.UInt64)).to_list()
    assert sorted(found) == [row for row, value in enumerate(all_hashes) if value in wanted]
