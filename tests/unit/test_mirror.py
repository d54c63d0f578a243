"""Mirrors hold a table's rows at any version asked for, whatever happened to the table; the index finds keys."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.transform import mirror as mirrors_module
from fraud_lakehouse.transform.key_index import KeyIndex
from fraud_lakehouse.transform.mirror import Mirrors, Shape

ROWS = Shape((("id", "id"), ("twice", "2 * amount")))
TOTALS = Shape(
    (("bucket", "id % 3"), ("entries", "1"), ("total", "amount")),
    key=("bucket",),
    totals=(("entries", "sum(entries)"), ("total", "sum(total)")),
)


class Table:
    """A Delta table and the ids it held at each version."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "table")
        self.versions: dict[int, list[int]] = {}
        self.write([], "append")

    def write(self, ids: list[int], mode: str) -> None:
        frame = pl.DataFrame({"id": ids, "amount": [10 * i for i in ids]}, schema={"id": pl.Int64, "amount": pl.Int64})
        write_deltalake(self.path, frame.to_arrow(), mode=mode)  # type: ignore[call-overload]
        before = list(self.versions.values())[-1] if self.versions and mode == "append" else []
        self.versions[self.handle.version()] = before + ids

    def compact(self) -> None:
        before = list(self.versions.values())[-1]
        self.handle.optimize.compact()
        self.versions.setdefault(self.handle.version(), before)

    @property
    def handle(self) -> DeltaTable:
        return DeltaTable(self.path)


def rows(connection: duckdb.DuckDBPyConnection, mirrors: Mirrors, table: Table, version: int) -> list[tuple[int, int]]:
    mirror, count = mirrors.at("table", ROWS, table.handle, version)
    return sorted(connection.execute(f"select * from {mirror.relation} where rowid < {count}").fetchall())


def totals(connection: duckdb.DuckDBPyConnection, mirrors: Mirrors, table: Table, version: int) -> list[object]:
    mirror, _ = mirrors.at("table", TOTALS, table.handle, version)
    return sorted(connection.execute(TOTALS.fold(mirror.relation)).fetchall())


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
    most_steps=st.sampled_from([0, 20]),
)
@example(
    steps=[("append", [1]), ("ask", []), ("append", [2]), ("append", [3]), ("ask", []), ("ask earlier", [2])],
    most_steps=0,
)
def test_a_mirror_is_the_table_at_that_version(steps: list[tuple[str, list[int]]], most_steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(mirrors_module, "MOST_STEPS", most_steps):
        table, connection = Table(Path(folder)), duckdb.connect()
        mirrors = Mirrors(connection)
        for action, values in [*steps, ("ask", [])]:
            if action in ("append", "overwrite"):
                table.write(values, action)
            elif action == "compact":
                table.compact()
            else:
                known = sorted(table.versions)
                version = known[-1] if action == "ask" else known[values[0] % len(known)]
                ids = table.versions[version]
                assert rows(connection, mirrors, table, version) == sorted((i, 20 * i) for i in ids)
                assert totals(connection, mirrors, table, version) == expected_totals(ids)


def test_a_mirror_reads_only_what_was_added(tmp_path: Path) -> None:
    table, connection = Table(tmp_path), duckdb.connect()
    mirrors = Mirrors(connection)
    table.write([1, 2], "append")
    old_file = Path(table.handle.file_uris()[0].removeprefix("file://"))
    rows(connection, mirrors, table, table.handle.version())
    old_file.unlink()
    table.write([3], "append")

    assert rows(connection, mirrors, table, table.handle.version()) == [(1, 20), (2, 40), (3, 60)]


def test_a_table_restored_from_a_backup_is_mirrored_anew(tmp_path: Path) -> None:
    table, connection = Table(tmp_path), duckdb.connect()
    mirrors = Mirrors(connection)
    shutil.copytree(table.path, tmp_path / "backup")
    table.write([1, 2], "append")
    rows(connection, mirrors, table, 1)
    shutil.rmtree(table.path)
    shutil.copytree(tmp_path / "backup", table.path)
    table.versions = {0: []}
    table.write([7], "append")

    assert rows(connection, mirrors, table, 1) == [(7, 140)]


def test_totals_are_folded_before_they_grow_with_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors_module, "FOLD_FROM", 10)
    table, connection = Table(tmp_path), duckdb.connect()
    mirrors = Mirrors(connection)
    for number in range(30):
        table.write([number, number + 1], "append")
        _, count = mirrors.at("table", TOTALS, table.handle, table.handle.version())
        assert count <= 12
    assert totals(connection, mirrors, table, table.handle.version()) == expected_totals(
        [i for number in range(30) for i in (number, number + 1)]
    )


def test_rows_are_found_by_key_and_nulls_are_none(tmp_path: Path) -> None:
    table, connection = Table(tmp_path), duckdb.connect()
    mirrors = Mirrors(connection)
    table.write([1, 2, 3, 2], "append")
    before = table.handle.version()
    mirrors.find(*mirrors.at("table", ROWS, table.handle, before), ("id",), "select 2", "found")
    assert connection.execute("select id from found").fetchall() == [(2,), (2,)]

    table.write([2, 4], "append")
    mirror, count = mirrors.at("table", ROWS, table.handle, table.handle.version())
    keys = "select unnest([2, 4, null, 7])"
    mirrors.find(mirror, count, ("id",), keys, "found")
    assert sorted(connection.execute("select id from found").fetchall()) == [(2,), (2,), (2,), (4,)]
    mirrors.find(*mirrors.at("table", ROWS, table.handle, before), ("id",), keys, "found")
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
