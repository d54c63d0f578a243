"""A stream cut into runs decodes to the events of the whole, however it arrives and however large transactions are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.sources.postgres.pgoutput.decode import decode
from fraud_lakehouse.sources.postgres.pgoutput.relation import Relation
from fraud_lakehouse.sources.postgres.pgoutput.runs import Run, Runs
from tests.unit.pgoutput_messages import Table, transaction, truncate

INT8, TEXT = 20, 25
TABLES = [Table(2000 + n, f"t{n}", (("id", INT8, -1), ("note", TEXT, -1)), ("id",)) for n in range(3)]
FOLDER = Path(tempfile.gettempdir())
AFTER = {table.name: 0 for table in TABLES}

CHANGE = st.tuples(st.sampled_from("cudkt"), st.integers(0, 2), st.integers(0, 99))
LOG = st.lists(st.lists(CHANGE, max_size=12), max_size=6)


def message(op: str, table: Table, key: int) -> bytes:
    match op:
        case "c":
            return table.insert(str(key), "new")
        case "u":
            return table.update(str(key), "other")
        case "k":
            return table.update(str(key + 1), "moved", old=(str(key), None))
        case "d":
            return table.delete(str(key), None)
        case _:
            return truncate(*TABLES)


def log_of(transactions: list[list[tuple[str, int, int]]]) -> list[bytes]:
    messages: list[bytes] = []
    described: set[int] = set()
    for number, changes in enumerate(transactions, start=1):
        built: list[bytes] = []
        for op, which, key in changes:
            needed = TABLES if op == "t" else [TABLES[which]]
            built += [table.relation() for table in needed if table.oid not in described]
            described |= {table.oid for table in needed}
            built.append(message(op, TABLES[which], key))
        messages += transaction(number * 100, *built, committed_us=1_700_000_000_000_000 + number)
    return messages


def chunked(messages: list[bytes], size: int) -> Iterator[list[bytes]]:
    yield []
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


def decoded(runs: list[Run], position: int) -> tuple[dict[str, pl.DataFrame], int, int | None]:
    described: dict[int, Relation] = {}
    frames: dict[str, list[pl.DataFrame]] = {}
    end, newest = 0, None
    for run in runs:
        result = decode(run.messages, {}, AFTER, position, part=run.part, described=described)
        if result.end_lsn:
            end, newest = result.end_lsn, result.newest_committed_at_us
        for name, frame in result.frames.items():
            frames.setdefault(name, []).append(frame)
    return {name: pl.concat(found) for name, found in frames.items()}, end, newest


@settings(max_examples=50, deadline=None)
@given(log=LOG, limit=st.integers(1, 20), size=st.integers(1, 9), ingested=st.integers(0, 3))
def test_events_are_those_of_the_uncut_stream(
    log: list[list[tuple[str, int, int]]], limit: int, size: int, ingested: int
) -> None:
    messages = log_of(log)
    runs = list(Runs(FOLDER, most_messages=limit).cut(chunked(messages, size)))
    assert [one for run in runs for one in run.messages] == messages
    assert all(len(run.messages) < limit + size for run in runs)
    position = ingested * 100
    whole = decode(messages, {}, AFTER, position)
    frames, end, newest = decoded(runs, position)
    assert (end, newest) == (whole.end_lsn, whole.newest_committed_at_us)
    assert frames.keys() == whole.frames.keys()
    for name, frame in whole.frames.items():
        assert frames[name].equals(frame, null_equal=True)


def test_a_large_transaction_comes_in_bounded_runs_that_know_its_end(tmp_path: Path) -> None:
    table = TABLES[0]
    messages = log_of([[("c", 0, 1)]]) + transaction(900, *(table.insert(str(n), "x") for n in range(1000)))
    messages += transaction(950, table.insert("-1", "after"))
    runs = list(Runs(tmp_path, most_messages=100).cut(chunked(messages, 7)))
    parts = [run for run in runs if run.part is not None]
    assert len(parts) >= 1000 // 107
    assert {run.part.end_lsn for run in parts if run.part} == {900}
    assert max(len(run.messages) for run in runs) < 107
    frames, end, _ = decoded(runs, 0)
    large = frames["t0"].filter(pl.col("_lsn") == 900)
    assert large["_seq"].to_list() == list(range(3, 2003, 2))
    assert large["id"].to_list() == list(range(1000))
    assert (end, frames["t0"]["id"][-1]) == (950, -1)
    assert list(tmp_path.iterdir()) == [], "the waiting file has no name"


def test_large_rows_are_cut_by_bytes(tmp_path: Path) -> None:
    table = TABLES[0]
    messages = transaction(100, table.relation(), *(table.insert(str(n), "x" * 1000) for n in range(50)))
    runs = list(Runs(tmp_path, most_bytes=5_000).cut(chunked(messages, 1)))
    assert max(sum(map(len, run.messages)) for run in runs) < 6_100
    assert decoded(runs, 0)[0]["t0"]["id"].to_list() == list(range(50))


def test_transactions_beyond_the_limit_are_left_out_of_a_cut_stream(tmp_path: Path) -> None:
    table = TABLES[0]
    messages = transaction(100, table.relation(), table.insert("1", "a"))
    messages += transaction(200, *(table.insert(str(n), "b") for n in range(30)))
    for limit in (10, 1000):
        described: dict[int, Relation] = {}
        results = [
            decode(run.messages, {}, AFTER, 0, part=run.part, described=described, until=150)
            for run in Runs(tmp_path, most_messages=limit).cut([messages])
        ]
        assert [frame["id"].to_list() for result in results for frame in result.frames.values()] == [[1]]
        assert max(result.end_lsn for result in results) == 100


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    messages = transaction(100, *(TABLES[0].insert(str(n), "x") for n in range(30)))
    with pytest.raises(LakeError, match=r"file.*(?s:.)*FRAUD_WORK"):
        list(Runs(tmp_path / "file", most_messages=10).cut(chunked(messages, 5)))
