"""Every window macro with every aggregate equals brute force, for any order of rows, exact bounds, ties and nulls.

dbt renders the macros once; DuckDB runs what came out over many sets of events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.runner import Transformer
from tests.dbt import windows_oracle as oracle

Row = dict[str, Any]
Query = Callable[[str, list[Row]], list[Row]]
SIZE, SLIDE, GAP = 10, 4, 5
START = datetime(2024, 2, 28, 23, 59, 50)  # noqa: DTZ001 event times have no zone
SCHEMA = {"id": pl.Int64, "k": pl.Int64, "t": pl.Datetime("us"), "x": pl.Float64}
_AGGREGATES = [name for name in oracle.AGGREGATES if name != "is_first"]  # a window of a group by is never empty


def _ranges(call: str) -> str:
    columns = [f"{{{{ {call.format(name)} }}}} as {name}" for name in oracle.AGGREGATES]
    return f"select id, {', '.join(columns)} from events"


def _grouped(windows: str) -> str:
    columns = [f"{{{{ aggregate_of('{name}', 'x', 't', at='window_end') }}}} as {name}" for name in _AGGREGATES]
    by = "k, window_start, window_end"
    return f"select {by}, {', '.join(columns)} from {{{{ {windows} }}}} group by {by}"


def _values(call: str) -> str:
    features = [{"name": name, "aggregate": name, "measure": "x", "seconds": SIZE} for name in VALUED]
    prepared = "select id as _row, id % 2 = 0 as is_evaluated, epoch_us(t) as _at, k, x from events where t is not null"
    return f"with prepared as ({prepared}) {{{{ {call.format(features)} }}}}"


VALUED = ["min", "max", "median", "mad", "percentile_90", "first", "last"]
OF_FEW = {
    "frame by frame": _values("values_block('prepared', {{'key': ['k']}}, {}, true)"),
    "row by row": _values(f"values_of_few('prepared', {{{{'key': ['k']}}}}, {{}}, {SIZE})"),
}
QUERIES = {
    "over": _ranges(f"over('{{}}', 'x', 'k', 't', {SIZE})"),
    "past": _ranges(f"past('{{}}', 'x', ['k'], 't', {SIZE})"),
    "past of all time": _ranges("past('{}', 'x', 'k', 't')"),
    "tumble": _grouped(f"tumble('events', 't', {SIZE})"),
    "hop": _grouped(f"hop('events', 't', {SLIDE}, {SIZE})"),
    "cumulate": _grouped(f"cumulate('events', 't', 5, {SIZE})"),
    "session": _grouped(f"session('events', 'k', 't', {GAP})"),
    "spine": f"select * from {{{{ spine('events', 'k', 't', {SIZE}) }}}}",
    "spine of hops": f"select * from {{{{ spine('events', 'k', 't', {SIZE}, slide={SLIDE}) }}}}",
}


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Runs one of QUERIES and OF_FEW, as dbt renders it, over events."""
    folder = tmp_path_factory.mktemp("windows")
    transformer = Transformer(load_settings(lake=str(folder / "lake")))
    queries = QUERIES | OF_FEW
    sql = transformer.rendered("\n--next--\n".join(queries.values()))
    transformer.close()
    rendered = dict(zip(queries, sql.split("--next--"), strict=True))

    with duckdb.connect() as connection:

        def run(kind: str, events: list[Row]) -> list[Row]:
            connection.register("events", pl.DataFrame(events, schema=SCHEMA).to_arrow())
            return pl.DataFrame(connection.sql(rendered[kind]).to_arrow_table()).to_dicts()

        yield run


# in steps that make ties and exact bounds common, a microsecond beside them too
_times = st.builds(
    lambda seconds, background: START + timedelta(seconds=seconds, microseconds=background),
    st.integers(0, 40),
    st.sampled_from([0, 0, 0, 1, -1]),
)
_amounts = st.one_of(st.none(), st.sampled_from([0.0, -2.5, 1.25]), st.integers(-(10**9), 10**9).map(lambda n: n / 4))
_events = st.lists(
    st.fixed_dictionaries(
        {"k": st.sampled_from([1, 1, 2, None]), "t": st.one_of(_times, _times, _times, st.none()), "x": _amounts}
    ),
    max_size=14,
)


def assert_equal(found: Row, wanted: Row, of: object) -> None:
    assert found.keys() >= wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, float) and found[name] is not None:
            assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-6), (of, name, found[name], value)
        else:
            assert found[name] == value, (of, name, found[name], value)


def assert_windows(query: Callable[[str], list[Row]], events: list[Row]) -> None:
    """What the windows of QUERIES say of the events is what brute force says."""
    for kind, wanted in (
        ("over", oracle.ranged(events, SIZE, closed=True)),
        ("past", oracle.ranged(events, SIZE, closed=False)),
        ("past of all time", oracle.ranged(events, None, closed=False)),
    ):
        found = {row["id"]: row for row in query(kind)}
        assert found.keys() == wanted.keys()
        for number, values in wanted.items():
            assert_equal(found[number], values, (kind, number))
    for kind, windows in (
        ("tumble", oracle.windowed(events, SIZE, SIZE)),
        ("hop", oracle.windowed(events, SLIDE, SIZE)),
        ("cumulate", oracle.cumulated(events, 5, SIZE)),
        ("session", oracle.sessions(events, GAP)),
    ):
        rows_found = query(kind)
        by_window = {(row["k"], row["window_start"], row["window_end"]): row for row in rows_found}
        assert len(by_window) == len(rows_found)
        assert by_window.keys() == windows.keys(), kind
        for window, values in windows.items():
            assert_equal(by_window[window], values, (kind, window))


def assert_spines(query: Callable[[str], list[Row]], events: list[Row]) -> None:
    """The spines of QUERIES have every entity in every window from its first to its last."""
    for kind, wanted in (
        ("spine", oracle.spine(events, SIZE, SIZE)),
        ("spine of hops", oracle.spine(events, SLIDE, SIZE)),
    ):
        found = [(row["k"], row["window_start"], row["window_end"]) for row in query(kind)]
        assert len(found) == len(set(found)), kind
        assert set(found) == wanted, kind


@given(rows=_events)
@settings(max_examples=40, deadline=None)
def test_windows_equal_brute_force(query: Query, rows: list[Row]) -> None:
    events = [{"id": number, **row} for number, row in enumerate(rows)]
    assert_windows(lambda kind: query(kind, events), events)


@given(rows=_events)
@settings(max_examples=20, deadline=None)
def test_spines_have_every_entity_in_every_window(query: Query, rows: list[Row]) -> None:
    events = [{"id": number, **row} for number, row in enumerate(rows) if row["k"] is not None]
    assert_spines(lambda kind: query(kind, events), events)


@given(rows=_events)
@settings(max_examples=30, deadline=None)
def test_few_rows_are_told_row_by_row_what_they_are_told_frame_by_frame(query: Query, rows: list[Row]) -> None:
    events = [{"id": number, **row} for number, row in enumerate(rows)]
    past = oracle.ranged(events, SIZE, closed=False)
    nothing = dict.fromkeys(VALUED)
    for kind in OF_FEW:
        found = {row.pop("_row"): row for row in query(kind, events)}
        assert found.keys() <= {event["id"] for event in events if event["id"] % 2 == 0}
        for event in events[::2]:  # a row without a past may be left out
            wanted = {name: past[event["id"]][name] for name in VALUED}
            assert_equal(found.get(event["id"], nothing), wanted, (kind, event["id"]))


def test_a_deviation_is_not_lost_beside_large_amounts(query: Query) -> None:
    events = [
        {"id": number, "k": 1, "t": START + timedelta(seconds=number), "x": 1e9 + number % 2} for number in range(9)
    ]
    [last] = [row for row in query("past", events) if row["id"] == 8]
    assert_equal(last, {"stddev": 0.5345224838248488, "count": 8}, "large amounts")
