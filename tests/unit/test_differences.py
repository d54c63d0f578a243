"""What bronze lacks of a snapshot, beside a replay of the events one by one."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.ingest.differences import Differences, write_differences
from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
COLUMNS = {"at": pl.Int64(), "a \"b'": pl.String(), "k0": pl.Decimal(12, 2)}
SCHEMA = COLUMNS | EVENT_SCHEMA
KEY, NOTE, AMOUNT = COLUMNS
Event = dict[str, Any]
Rows = dict[int, tuple[Any, Any]]


def frame(events: list[Event]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=SCHEMA)


def event(op: str, lsn: int, seq: int, key: int | None, note: Any = None, amount: Any = None, **more: Any) -> Event:
    return {KEY: key, NOTE: note, AMOUNT: amount, "_op": op, "_lsn": lsn, "_seq": seq, "_committed_at": NOON} | more


def compare(events: list[list[Event]], source: Rows, lsn: int) -> tuple[Differences, pl.DataFrame]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for number, batch in enumerate(events):
            files.append(str(folder / f"bronze-{number}.parquet"))
            frame(batch).write_parquet(files[-1])
        rows = [event("r", lsn, n, key, *values) for n, (key, values) in enumerate(sorted(source.items()))]
        frame(rows).write_parquet(folder / "snapshot.parquet")
        found = write_differences(
            files, SCHEMA, [folder / "snapshot.parquet"], SCHEMA, [KEY], lsn, NOON, folder, "500MB"
        )
        return found, pl.read_parquet(found.path)


def applied(events: list[Event], rows: Rows) -> Rows:
    """The rows after the events, by their meaning."""
    for one in events:
        if one["_op"] == "t":
            rows.clear()
        elif one["_op"] == "d":
            rows.pop(one[KEY], None)
        else:
            kept = json.loads(one.get("_unchanged") or "[]")
            before = rows.get(one[KEY], (None, None))
            values = zip((NOTE, AMOUNT), before, strict=True)
            rows[one[KEY]] = tuple(old if name in kept else one[name] for name, old in values)  # type: ignore[assignment]
    return rows


keys, notes = st.integers(1, 4), st.sampled_from([None, "x", "y", ""])
amounts = st.sampled_from([None, Decimal("1.50"), Decimal("2.25")])
left_out = st.sampled_from([[], [NOTE], [AMOUNT], [NOTE, AMOUNT]])
changes = st.lists(st.tuples(st.sampled_from("ccuuuudt"), keys, notes, amounts, left_out), max_size=25)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=changes,
    missed=st.dictionaries(keys, st.tuples(notes, amounts), max_size=2),
    deleted=st.sets(keys, max_size=1),
    files=st.integers(1, 3),
)
def test_the_differences_make_the_state_that_of_the_source(
    changes: list[Any], missed: Rows, deleted: set[int], files: int
) -> None:
    events: list[Event] = []
    rows: Rows = {}
    for number, (op, key, note, amount, kept) in enumerate(changes):
        if (op == "c") == (key in rows) and op != "t":  # a log inserts what is not there, and changes what is
            continue
        unchanged = json.dumps(kept) if op == "u" and kept else None
        values = [None if name in kept and op == "u" else value for name, value in ((NOTE, note), (AMOUNT, amount))]
        one = event(op, 10 * (number // 3), number, None if op == "t" else key, *values, _unchanged=unchanged)
        events.append(one)
        applied([one], rows)
    beyond = event("u", 10_000, 1, 1, "beyond")
    batches = [events[start::files] for start in range(files)] + [[beyond]]
    source = {key: row for key, row in (rows | missed).items() if key not in deleted}
    found, differences = compare(batches, source, lsn=5_000)
    same = {key for key in rows if key in source and rows[key] == source[key]}
    assert found.new == len(source.keys() - rows.keys())
    assert found.gone == len(rows.keys() - source.keys())
    assert found.changed == len((source.keys() & rows.keys()) - same)
    assert applied(differences.to_dicts(), dict(rows)) == source


def test_a_value_that_a_moved_row_left_out_is_written_again() -> None:
    events = [
        event("r", 10, 1, 1, "body"),
        event("d", 20, 1, 1),
        event("u", 20, 2, 2, None, Decimal("3.00"), _unchanged=json.dumps([NOTE])),
    ]
    found, differences = compare([events], {2: ("body", Decimal("3.00"))}, lsn=30)
    assert (found.new, found.changed, found.gone) == (0, 1, 0)
    assert differences[NOTE].to_list() == ["body"]


@pytest.mark.parametrize("text, changed", [('{"at": "NaN"}', 0), ('{"at": "Infinity"}', 1)])
def test_a_key_that_its_column_cannot_hold_is_known_by_its_text(text: str, changed: int) -> None:
    schema = {"at": pl.Decimal(10, 2)} | EVENT_SCHEMA
    one = {"at": None, "_op": "c", "_lsn": 1, "_seq": 1, "_committed_at": NOON, "_text": '{"at": "NaN"}'}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pl.DataFrame([one], schema=schema).write_parquet(folder / "bronze.parquet")
        source = pl.DataFrame([one | {"_op": "r", "_text": text}], schema=schema)
        source.write_parquet(folder / "snapshot.parquet")
        files = [str(folder / "bronze.parquet")], schema, [folder / "snapshot.parquet"], schema
        found = write_differences(*files, ["at"], 5, NOON, folder, "500MB")
    assert (found.new, found.gone) == (changed, changed)


def test_keys_that_are_alike_but_for_their_texts_are_gone_each_for_itself() -> None:
    """Rounded, out of range, and of a type that the column had before: one event for each, with the text."""
    schema = {"at": pl.Decimal(38, 9), "n": pl.Int32()} | EVENT_SCHEMA
    share = Decimal("0.123456789")
    rows = [
        {"at": share, "n": 1, "_text": '{"at": "0.1234567891"}'},
        {"at": share, "n": 1, "_text": None},
        {"at": None, "n": 1, "_text": '{"at": "1e100"}'},
        {"at": share, "n": None, "_text": '{"n": "abc"}'},
        {"at": share, "n": None, "_text": '{"n": "def"}'},
    ]
    events = [
        row | {"_op": "c", "_lsn": 1, "_seq": number, "_committed_at": NOON} for number, row in enumerate(rows, 1)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pl.DataFrame(events, schema=schema).write_parquet(folder / "bronze.parquet")
        kept = pl.DataFrame([event | {"_op": "r"} for event in events[1:3]], schema=schema)
        kept.write_parquet(folder / "snapshot.parquet")
        files = [str(folder / "bronze.parquet")], schema, [folder / "snapshot.parquet"], schema
        found = write_differences(*files, ["at", "n"], 5, NOON, folder, "500MB")
        written = pl.read_parquet(found.path)
    assert (found.new, found.changed, found.gone) == (0, 0, 3)
    assert set(written["_op"]) == {"d"}
    assert sorted(written.select("at", "n", "_text").rows(), key=str) == sorted(
        (tuple(rows[number].values()) for number in (0, 3, 4)), key=str
    )
