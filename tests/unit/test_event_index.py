"""The index over events tells what brute force tells, for any order, ties, exact bounds, nulls and large amounts."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.features import event_index
from fraud_lakehouse.features.event_index import EventIndex, Wanted

Row = dict[str, Any]
SCHEMA = pa.schema(
    [
        ("_at", pa.int64()),
        ("is_evaluated", pa.bool_()),
        ("user", pa.int64()),
        ("shop", pa.string()),
        ("units_of_x", pa.int64()),
        ("units_of_late", pa.int64()),
    ]
)
SECONDS = (1, 3)
KEYS = {"user": ("user",), "user_shop": ("user", "shop")}
ENTITIES = {
    name: Wanted(
        key,
        (
            *((total, "x", seconds, 0) for seconds in SECONDS for total in "nsq"),
            ("n", "late", 2, 1),
            ("s", "late", 2, 1),
        ),
        tuple(("shop", seconds) for seconds in SECONDS),
        last=(None, "x"),
    )
    for name, key in KEYS.items()
}
_events = st.lists(
    st.fixed_dictionaries(
        {
            "_at": st.builds(
                lambda second, background: second * 1_000_000 + background,
                st.integers(-3, 4),
                st.sampled_from([0, 0, 1, -1]),
            ),
            "is_evaluated": st.booleans(),
            "user": st.sampled_from([1, 1, 2, -(2**62), None]),
            "shop": st.sampled_from(["a", "a", "b", "", None]),
            "units_of_late": st.sampled_from([None, 1, 0]),
            "units_of_x": st.one_of(st.none(), st.integers(-9, 9), st.sampled_from([10**18, -(10**18)])),
        }
    ),
    max_size=14,
)


def wanted(row: Row, events: list[Row]) -> Row:
    told: Row = {}
    for name, key in KEYS.items():
        known = all(row[column] is not None for column in key)
        past = [other for other in events if other["_at"] < row["_at"] and all(other[c] == row[c] for c in key)]
        told[f"{name}__last"] = max((other["_at"] for other in past), default=None) if known else None
        having = [other["_at"] for other in past if other["units_of_x"] is not None]
        told[f"{name}__last_x"] = max(having, default=None) if known else None
        moment = row["_at"] - 1_000_000
        late = [
            o["units_of_late"]
            for o in past
            if moment - 2_000_000 <= o["_at"] < moment and o["units_of_late"] is not None
        ]
        told[f"{name}__n_late_2"] = len(late) if known else None
        told[f"{name}__s_late_2"] = sum(late) if known else None
        for seconds in SECONDS:
            window = [other for other in past if other["_at"] >= row["_at"] - seconds * 1_000_000]
            units = [other["units_of_x"] for other in window if other["units_of_x"] is not None]
            totals = {"n": len(units), "s": sum(units), "q": sum(value * value for value in units)}
            for total, value in totals.items():
                told[f"{name}__{total}_x_{seconds}"] = value if known else None
            shops = {other["shop"] for other in window} - {None}
            told[f"{name}__distinct_shop_{seconds}"] = len(shops) if known else None
    return told


def check(events: list[Row]) -> None:
    index = EventIndex(pa.Table.from_pylist(events, schema=SCHEMA), ENTITIES)
    requested = [row for row in events if row["is_evaluated"]]
    half = len(requested) // 2
    found = [*index.rows(0, half).to_dicts(), *index.rows(half, len(requested) - half).to_dicts()]
    assert found == [wanted(row, events) for row in requested]


@given(events=_events)
@settings(deadline=None)
def test_index_equals_brute_force(events: list[Row]) -> None:
    check(events)
    check([row | {"is_evaluated": True} for row in events])


@given(events=_events)
@settings(deadline=None)
def test_keys_too_large_to_be_combined_are_numbered_anew(events: list[Row]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(event_index, "_MOST", 20)
        check(events)


def test_totals_have_the_types_their_formulas_count_on() -> None:
    index = EventIndex(pa.Table.from_pylist([], schema=SCHEMA), ENTITIES)
    kinds = {name.split("__")[1][:2]: kind for name, kind in index.rows(0, 0).schema.items()}
    assert kinds == {
        "n_": pl.Int64(),
        "s_": pl.Decimal(38, 0),
        "q_": pl.Decimal(38, 0),
        "di": pl.Int64(),
        "la": pl.Int64(),
    }
