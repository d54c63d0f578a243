"""The feature engine gives what plain loops over all rows give, however rows come and whatever is forgotten."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.engine import EngineFeature, FeatureEngine

SECOND = 1_000_000
WINDOWS = (5, 20)
UNIT = 100
Row = dict[str, Any]


def all_features() -> Iterator[EngineFeature]:
    numeric = ["count", "sum", "mean", "stddev", "min", "max", "median", "mad", "percentile_90", "distinct"]
    for entity in ("user", "card"):
        for aggregate in [*numeric, "first", "last"]:
            for seconds in WINDOWS:
                for current in (True, False):
                    name = f"{entity}_{aggregate}_{seconds}_{current}"
                    yield EngineFeature(name, entity, aggregate, "amount", seconds, current)
        for aggregate in ("count", "sum", "mean", "stddev", "seconds_since_last", "is_first"):
            yield EngineFeature(f"{entity}_{aggregate}_ever", entity, aggregate, "amount", None, current=False)
        for aggregate in ("count", "distinct", "first", "last"):
            for current in (True, False):
                name = f"{entity}_shop_{aggregate}_{current}"
                yield EngineFeature(name, entity, aggregate, "shop", 20, current, is_text=True)
        for aggregate in ("count", "seconds_since_last", "is_first"):
            yield EngineFeature(f"{entity}_rows_{aggregate}", entity, aggregate, None, None, current=False)
            yield EngineFeature(
                f"{entity}_shop_{aggregate}", entity, aggregate, "shop", None, current=False, is_text=True
            )
        yield EngineFeature(f"{entity}_rows", entity, "count", None, 20, current=True)


FEATURES = list(all_features())


@dataclass
class Oracle:
    """All rows in a list; each feature by a loop over it."""

    kind: str
    kept: list[Row] = field(default_factory=list)

    def process(self, row: Row) -> Row | None:
        if row["_weight"] < 0:
            self.kept.remove(row | {"_weight": 1})
            return None
        features = {feature.name: self.value(feature, row) for feature in FEATURES}
        self.kept.append(row)
        return features

    def counted(self, feature: EngineFeature, row: Row) -> list[Row]:
        key, at = f"key_{feature.entity}", row["_at"]
        others = [] if row[key] is None else [other for other in self.kept if other[key] == row[key]]
        if feature.seconds is None and feature.kind in ("count", "sum", "mean", "stddev") and self.kind == "changes":
            return others
        if at is None:
            return []
        begin = -math.inf if feature.seconds is None else at - feature.seconds * SECOND
        others = [other for other in others if other["_at"] is not None]
        if feature.seconds is None or not feature.current:
            return [other for other in others if begin <= other["_at"] < at]
        return [*(other for other in others if begin <= other["_at"] <= at), row]

    def value(self, feature: EngineFeature, row: Row) -> Any:  # noqa: PLR0912 a case for each aggregate
        rows = self.counted(feature, row)
        if feature.kind in ("seconds_since_last", "is_first"):
            if row["_at"] is None or row[f"key_{feature.entity}"] is None:
                return None
            times = [other["_at"] for other in rows if feature.measure is None or other[feature.measure] is not None]
            if feature.kind == "is_first":
                return not times
            return (row["_at"] - max(times)) / SECOND if times else None
        if feature.measure is None:
            return len(rows)
        rows = [other for other in rows if other[feature.measure] is not None]
        values = sorted(other[feature.measure] for other in rows)
        if feature.kind == "count":
            return len(values)
        if feature.kind == "distinct":
            return len(set(values))
        if feature.kind == "sum":
            return sum(values) / UNIT
        if len(values) < (2 if feature.kind == "stddev" else 1):
            return None
        if feature.kind == "mean":
            return sum(values) / UNIT / len(values)
        if feature.kind == "stddev":
            mean = Fraction(sum(values), len(values))
            return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / UNIT
        if feature.kind == "first":
            at = min(other["_at"] for other in rows)
            found = min(other[feature.measure] for other in rows if other["_at"] == at)
        elif feature.kind == "last":
            at = max(other["_at"] for other in rows)
            found = max(other[feature.measure] for other in rows if other["_at"] == at)
        else:
            found = self.of_order(feature, values)
        return found if feature.is_text else found / UNIT

    def of_order(self, feature: EngineFeature, values: list[int]) -> float:
        if feature.kind in ("min", "max"):
            return values[0] if feature.kind == "min" else values[-1]
        if feature.kind == "percentile":
            return quantile(values, feature.percent / 100)
        median = quantile(values, 0.5)
        return median if feature.kind == "median" else quantile(sorted(abs(value - median) for value in values), 0.5)


def quantile(values: list[Any], share: float) -> float:
    place = (len(values) - 1) * share
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def table(rows: list[Row], key: pa.DataType) -> pa.Table:
    return pa.table(
        {
            "_at": pa.array([row["_at"] for row in rows], pa.int64()),
            "_weight": pa.array([row["_weight"] for row in rows], pa.int8()),
            "key_user": pa.array([row["key_user"] for row in rows], pa.string()),
            "key_card": pa.array([row["key_card"] for row in rows], pa.int64()).cast(key),
            "units_of_amount": pa.array([row["amount"] for row in rows], pa.int64()),
            "value_amount": pa.array(
                [None if row["amount"] is None else row["amount"] / UNIT for row in rows], pa.float64()
            ),
            "value_shop": pa.array([row["shop"] for row in rows], pa.string()),
        }
    )


def assert_equal(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, value in theirs.items():
            close = isinstance(value, float) and not any(exact in name for exact in ("sum", "mean"))
            wanted = pytest.approx(value, rel=1e-9, abs=1e-6) if close else value
            assert ours[name] == wanted, (number, name)


ROWS = st.fixed_dictionaries(
    {
        "_at": st.none() | st.integers(0, 40).map(lambda seconds: seconds * SECOND) | st.integers(0, 40 * SECOND),
        "_weight": st.just(1),
        "key_user": st.none() | st.sampled_from(["", "ann", "bob", "a rather long name of a user"]),
        "key_card": st.none() | st.integers(-1, 1),
        "amount": st.none() | st.integers(-300, 300) | st.integers(-(10**11), 10**11),
        "shop": st.none() | st.sampled_from(["x", "xy", "y", "ä", ""]),
    }
)


@st.composite
def histories(draw: st.DrawFn, kind: str, *, evicted: bool) -> list[list[Row] | int]:
    """Batches of rows, and times before which rows are evicted. No later row has them in its windows."""
    steps: list[list[Row] | int] = []
    there: list[Row] = []
    earliest = 0
    for rows in draw(st.lists(st.lists(ROWS, max_size=8), min_size=1, max_size=6)):
        batch: list[Row] = []
        for drawn in rows:
            row = drawn
            if row["_at"] is not None:
                row = row | {"_at": row["_at"] + earliest}
            batch.append(row)
            there.append(row)
            if kind == "changes" and draw(st.integers(0, 2)) == 0:
                removed = there.pop(draw(st.integers(0, len(there) - 1)))
                batch.append(removed | {"_weight": -1})
        steps.append(batch)
        if evicted and draw(st.booleans()):
            before = earliest + draw(st.integers(0, 40)) * SECOND
            steps.append(before)
            earliest = before + max(WINDOWS) * SECOND
    return steps


def check(kind: Any, steps: list[list[Row] | int], key: pa.DataType, left_out: tuple[str, ...] = ()) -> None:
    engine = FeatureEngine(FEATURES, kind, {"amount": UNIT})
    oracle = Oracle(kind)
    for step in steps:
        if isinstance(step, int):
            engine.evict(step)
            continue
        expected = [features for row in step if (features := oracle.process(row)) is not None]
        kept = [{k: v for k, v in row.items() if not k.endswith(left_out or ("-",))} for row in expected]
        assert_equal(engine.add(table(step, key)).to_pylist(), kept)


@settings(max_examples=150, deadline=None)
@given(histories("events", evicted=False), st.sampled_from([pa.int64(), pa.string()]))
def test_events_equal_the_oracle(steps: list[list[Row] | int], key: pa.DataType) -> None:
    check("events", steps, key)


@settings(max_examples=150, deadline=None)
@given(histories("changes", evicted=False), st.sampled_from([pa.int64(), pa.string()]))
def test_changes_equal_the_oracle(steps: list[list[Row] | int], key: pa.DataType) -> None:
    check("changes", steps, key)


@settings(max_examples=150, deadline=None)
@given(histories("events", evicted=True))
def test_what_is_evicted_changes_no_later_feature_of_events(steps: list[list[Row] | int]) -> None:
    check("events", steps, pa.int64())


@settings(max_examples=150, deadline=None)
@given(histories("changes", evicted=True))
def test_what_is_evicted_changes_no_later_total_of_changes(steps: list[list[Row] | int]) -> None:
    # of the rows that are forgotten it is not known which was the latest once one is taken out
    check("changes", steps, pa.int64(), ("seconds_since_last", "is_first", "since_last_ever", "first_ever"))


@settings(max_examples=60, deadline=None)
@given(histories("changes", evicted=False), st.randoms(use_true_random=False))
def test_loaded_history_counts_as_added_history_does(steps: list[list[Row] | int], chance: random.Random) -> None:
    batches = [step for step in steps if isinstance(step, list)]
    history = [row for batch in batches[:-1] for row in batch]
    added, loaded = (FeatureEngine(FEATURES, "changes", {"amount": UNIT}) for _ in range(2))
    added.add(table(history, pa.int64()))
    shuffled = chance.sample(history, len(history))
    for part in (shuffled[:5], shuffled[5:]) if all(row["_weight"] > 0 for row in history) else (shuffled,):
        loaded.load(table(part, pa.int64()))
    assert loaded.rows == added.rows
    last = table(batches[-1], pa.int64())
    assert loaded.add(last).equals(added.add(last))


def one_key(ats: list[int], units: list[int | None]) -> pa.Table:
    values = [None if amount is None else amount / UNIT for amount in units]
    columns = {"_at": ats, "key_user": [1] * len(ats), "units_of_amount": units, "value_amount": values}
    return pa.table(
        columns,
        schema=pa.schema(
            {"_at": pa.int64(), "key_user": pa.int64(), "units_of_amount": pa.int64(), "value_amount": pa.float64()}
        ),
    )


def of_user(*aggregates: str, seconds: int | None = 20) -> list[EngineFeature]:
    return [EngineFeature(name, "user", name, "amount", seconds, current=True) for name in aggregates]


def test_values_are_those_of_duckdb_to_the_last_digit() -> None:
    chance = random.Random(17)
    names = ("stddev", "median", "mad", "percentile_5", "percentile_90", "percentile_99")
    for _ in range(200):
        units = [chance.randint(-(10**6), 10**8) for _ in range(chance.randint(1, 12))]
        engine = FeatureEngine(of_user(*names), "events", {"amount": UNIT})
        found = engine.add(one_key([0] * len(units), units)).to_pylist()[-1]
        expected = duckdb.sql(
            f"""
            with totals as (
                select count(*) as n, sum(units) as s, sum(cast(units as hugeint) * units) as q,
                    cast(round(cast(s as double) / n) as hugeint) as nearest,
                    median(units / {UNIT}), mad(units / {UNIT}), quantile_cont(units / {UNIT}, 0.05),
                    quantile_cont(units / {UNIT}, 0.9), quantile_cont(units / {UNIT}, 0.99)
                from (select unnest({units}::bigint[]) as units)
            )
            select
                case when n > 1 then sqrt(greatest(
                    cast(q - nearest * (2 * s - n * nearest) as double)
                    - power(cast(s - n * nearest as double), 2) / n, 0
                ) / (n - 1)) end / {UNIT},
                columns(* exclude (n, s, q, nearest))
            from totals"""
        ).fetchall()[0]
        assert tuple(found.values()) == expected


def test_sums_of_large_amounts_are_exact() -> None:
    units = [9 * 10**12 * 100 + number for number in range(200)]
    engine = FeatureEngine(of_user("sum", "mean"), "events", {"amount": UNIT})
    found = engine.add(one_key([number * SECOND for number in range(200)], units))
    sums = [sum(units[max(0, number - 20) : number + 1]) for number in range(200)]
    assert found["sum"].to_pylist() == [float(total) / UNIT for total in sums]
    assert found["mean"].to_pylist() == [float(total) / UNIT / min(number + 1, 21) for number, total in enumerate(sums)]


def test_a_sum_that_might_not_fit_is_null_until_the_window_has_passed_it() -> None:
    engine = FeatureEngine(of_user("sum", "mean", "stddev", "count"), "events", {"amount": UNIT})
    found = engine.add(one_key([0, SECOND, 2 * SECOND, 22 * SECOND], [5 * 10**18, 4 * 10**18, 7, 8])).to_pydict()
    assert found["sum"] == [5e16, None, None, 0.15]
    assert found["mean"] == [5e16, None, None, 0.075]
    assert found["stddev"] == [None, None, None, pytest.approx(0.5**0.5 / UNIT)]
    assert found["count"] == [1, 2, 3, 2]


def test_many_late_rows_are_put_in_order() -> None:
    ats = [number * SECOND for number in range(3_000)]
    random.Random(5).shuffle(ats)
    engine = FeatureEngine(of_user("count", "sum"), "events", {"amount": UNIT})
    first = engine.add(one_key(ats, list(range(3_000))))
    again = engine.add(one_key(sorted(ats), [0] * 3_000))
    assert first.num_rows == 3_000
    by_time = dict(zip(ats, range(3_000), strict=True))
    windows = [range(max(0, second - 20), second + 1) for second in range(3_000)]
    assert again["count"].to_pylist() == [2 * len(window) for window in windows]
    expected = [sum(by_time[second * SECOND] for second in window) / UNIT for window in windows]
    assert again["sum"].to_pylist() == expected


def test_a_single_row_goes_into_a_large_block() -> None:
    engine = FeatureEngine(of_user("count"), "events", {"amount": UNIT})
    engine.load(one_key([0] * 100_000, [1] * 100_000))
    for number in range(100):
        assert engine.add(one_key([0], [1]))["count"].to_pylist() == [100_001 + number]


def test_totals_of_older_rows_count_without_a_window() -> None:
    features = of_user("sum", "mean", "stddev", "count", "seconds_since_last", seconds=None)
    whole, newer = (FeatureEngine(features, "events", {"amount": UNIT}) for _ in range(2))
    older = [3 * 10**9, -5 * 10**9, 10**10]
    whole.load(one_key([0, SECOND, 2 * SECOND], older))
    totals = {"key_user": [1, 1], "count_of_amount": [2, 1], "units_of_amount": [sum(older[:2]), older[2]]}
    squares = pa.array([sum(unit * unit for unit in older[:2]), older[2] ** 2], pa.decimal128(38, 0))
    newer.load_totals(pa.table(totals | {"squares_of_amount": squares, "at_of_amount": [SECOND, 2 * SECOND]}))
    new = one_key([5 * SECOND, 6 * SECOND], [7, 9])
    assert newer.add(new).equals(whole.add(new))


def test_rows_kept_and_memory_shrink_when_rows_are_evicted() -> None:
    engine = FeatureEngine(of_user("sum", "max"), "events", {"amount": UNIT})
    engine.add(one_key([number * SECOND for number in range(50_000)], [1] * 50_000))
    assert engine.rows == 50_000
    before = engine.nbytes
    engine.evict(49_000 * SECOND)
    assert engine.rows == 1_000
    assert engine.nbytes < before / 10


def test_keys_and_texts_that_no_row_has_are_forgotten() -> None:
    features = [
        EngineFeature(name, "user", name, "shop", 20, current=True, is_text=True)
        for name in ("count", "distinct", "first", "last")
    ]

    def rows(begin: int, end: int) -> pa.Table:
        numbers = range(begin, end)
        users, shops = [f"user {number // 4}" for number in numbers], [f"shop {number // 3}" for number in numbers]
        return pa.table({"_at": [number * SECOND for number in numbers], "key_user": users, "value_shop": shops})

    evicted, whole = FeatureEngine(features, "events"), FeatureEngine(features, "events")
    for engine in (evicted, whole):
        engine.add(rows(0, 10_000))
    evicted.evict(9_900 * SECOND)
    assert evicted.nbytes < whole.nbytes / 10
    for begin in (9_930, 9_940):  # users and shops that are known, and new ones
        assert evicted.add(rows(begin, begin + 100)).equals(whole.add(rows(begin, begin + 100)))


ROW = {"_at": [1], "key_user": [1], "units_of_amount": [1], "value_amount": [1.0]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"units_of_amount": None}, "no column units_of_amount"),
        ({"key_user": None}, "no column key_user"),
        ({"_at": ["1"]}, "column _at of the rows is string"),
        ({"units_of_amount": [1.5]}, "column units_of_amount of the rows is double"),
        ({"value_amount": ["x"]}, "column value_amount of the rows is string"),
        ({"key_user": ["x"]}, "key_user of the rows is large_string, and was int64 before"),
        ({"key_user": [1.5]}, "column key_user of the rows is double"),
        ({"_weight": [-1]}, "values other than 1"),
        ({"units_of_amount": [-(2**63)]}, "has the value"),
    ],
)
def test_bad_rows_raise_an_error_and_change_nothing(change: dict[str, Any], problem: str) -> None:
    engine = FeatureEngine(of_user("sum", "max"), "events", {"amount": UNIT})
    engine.add(pa.table(ROW))
    columns = {name: values for name, values in (ROW | change).items() if values is not None}
    with pytest.raises(TransformError, match=problem):
        engine.add(pa.table(columns))
    assert engine.rows == 1
    assert engine.add(pa.table(ROW))["sum"].to_pylist() == [0.02]


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        (("medan", "amount", 5), "unknown aggregate 'medan'\n  -> use median"),
        (("percentile_100", "amount", 5), "percentile_1 to percentile_99"),
        (("sum", None, 5), "needs a measure"),
        (("max", "amount", None), "needs a window"),
        (("is_first", "amount", 5), "has no window"),
        (("sum", "amount", 0), "a window of 0 seconds"),
    ],
)
def test_a_feature_that_does_not_exist_is_an_error(feature: tuple[Any, Any, Any], problem: str) -> None:
    with pytest.raises(TransformError, match=problem):
        FeatureEngine([EngineFeature("f", "user", *feature, current=True)], "events", {"amount": UNIT})


def test_a_sum_needs_its_units() -> None:
    with pytest.raises(TransformError, match="units of amount"):
        FeatureEngine(of_user("sum"), "events")


def test_the_package_is_imported_without_numba() -> None:
    code = "import sys, fraud_lakehouse.features, fraud_lakehouse.features.engine; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_are_compiled_without_a_cache_where_none_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from fraud_lakehouse.features.engine import compiled

    def njit(*, cache: bool = False, **_: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.compiled(one_key) is one_key
