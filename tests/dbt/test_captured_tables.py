"""Replica and history of any other captured table: composite keys, names with capitals, blanks and quotes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from fraud_lakehouse.ingest.bronze import BronzeTable
from tests.dbt.small_lake import CHANGE, Row, SmallLake, assert_same

NAME = "sales__Order_Lines"
HOSTILE = ['x"; drop table y; --', "{{ boom }}", "{% boom %}", "{# boom", "^.*$", "*", "perc%ent %s", "it's",
           "a.b/../c", "é 🙂", "recency", "row_number", "chain", "next_op", "valid_to"]  # fmt: skip
SCHEMA = {"Order Id": pl.Int64(), "line": pl.String(), 'Note "x"': pl.String(), "select": pl.Float64(),
          **dict.fromkeys(HOSTILE, pl.String()), **CHANGE}  # fmt: skip
KEY = ["Order Id", "line"]


def event(op: str, lsn: int, seq: int, order: int | None = None, line: str | None = None, **values: object) -> Row:
    at = datetime(2026, 1, 1, 0, 0, lsn, tzinfo=UTC)
    change = {"_op": op, "_lsn": lsn, "_seq": seq, "_committed_at": at}
    return {"Order Id": order, "line": line, **values, **change}


def land(lake: SmallLake, rows: list[Row]) -> None:
    frame = pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)
    BronzeTable.open_or_create(lake.lake, NAME, SCHEMA, KEY).append(frame, {})


def test_a_table_with_awkward_names_is_replicated_with_its_history(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path / "lake")
    note = 'Note "x"'
    land(
        lake,
        [
            event("r", 1, 1, 1, "a", **{note: "long", "select": 1.5}),
            event("r", 1, 2, 1, "b", **{note: "kept"}, **{name: name for name in HOSTILE}),
            event("u", 2, 1, 1, "a", select=2.5, _unchanged='["Note \\"x\\""]'),
        ],
    )
    lake.build("replica")
    assert_same(
        lake.rows("silver", NAME),
        [
            {"Order Id": 1, "line": "a", note: "long", "select": 2.5},
            {"Order Id": 1, "line": "b", note: "kept", "select": None, **{name: name for name in HOSTILE}},
        ],
        *KEY,
    )

    land(
        lake,
        [
            event("d", 3, 1, 1, "b"),
            event("u", 3, 2, 2, "b", select=9.0, _unchanged=json.dumps([note, *HOSTILE])),
        ],
    )
    lake.build("replica")
    assert_same(
        lake.rows("silver", NAME),
        [
            {"Order Id": 1, "line": "a", note: "long", "select": 2.5},
            {"Order Id": 2, "line": "b", note: "kept", "select": 9.0, **{name: name for name in HOSTILE}},
        ],
        *KEY,
    )
    assert set(lake.rows("silver", NAME)[0]) == {"Order Id", "line", note, "select", *HOSTILE}
    assert_same(
        [row for row in lake.rows("silver", f"{NAME}_history") if row["line"] == "b"],
        [
            {"Order Id": 1, "line": "b", note: "kept", "_lsn": 1, "_seq": 2, "is_deleted": True},
            {"Order Id": 2, "line": "b", note: "kept", "_lsn": 3, "_seq": 2, "is_deleted": False},
        ],
        *KEY,
        "_lsn",
        "_seq",
    )
    lake.transformer.close()


def test_a_wide_table_is_replicated_in_the_default_memory(tmp_path: Path) -> None:
    """Half of its columns are values that an update does not send."""
    wide = SmallLake(tmp_path / "lake")
    names = [f"c{number}" for number in range(800)]
    schema = {"id": pl.Int64(), **dict.fromkeys(names, pl.String()), **CHANGE}
    table = BronzeTable.open_or_create(wide.lake, "wide", schema, ["id"])

    def add(op: str, lsn: int, key: int, values: Row, unsent: list[str] | None = None) -> None:
        at = {"_op": op, "_lsn": lsn, "_seq": key, "_committed_at": datetime(2026, 1, 1, tzinfo=UTC)}
        row = {"id": key, **values, **at, "_unchanged": json.dumps(unsent) if unsent else None}
        table.append(pl.DataFrame([{name: row.get(name) for name in schema}], schema=schema), {})

    first = {name: f"1 {name}" for name in names}
    for key in (1, 2):
        add("c", 10, key, first)
    add("u", 20, 1, dict.fromkeys(names[400:], "2"), names[:400])
    wide.build("replica")
    second = {**first, **dict.fromkeys(names[400:], "2")}
    assert_same(wide.rows("silver", "wide"), [{"id": 1, **second}, {"id": 2, **first}], "id")
    add("u", 30, 2, {**dict.fromkeys(names[:200], "3"), **dict.fromkeys(names[400:], "3")}, names[200:400])
    wide.build("replica")
    third = {**first, **dict.fromkeys([*names[:200], *names[400:]], "3")}
    assert_same(wide.rows("silver", "wide"), [{"id": 1, **second}, {"id": 2, **third}], "id")
    versions = [{"id": 1, "_lsn": 10, **first}, {"id": 1, "_lsn": 20, **second}]
    versions += [{"id": 2, "_lsn": 10, **first}, {"id": 2, "_lsn": 30, **third}]
    assert_same(wide.rows("silver", "wide_history"), versions, "id", "_lsn")
    wide.transformer.close()
