"""The window macros and all that differs between engines, as Apache Spark runs them, equal the same brute force."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.runner import Transformer
from tests.dbt import spark_sql
from tests.dbt.test_windows import QUERIES, START, Row, assert_spines, assert_windows
from tests.spark import Spark

Rendered = Callable[[str], str]
pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.timeout(900)]  # Spark is fetched once
SCHEMA = "id bigint, k bigint, t timestamp_ntz, x double"


def events(seed: int, count: int) -> list[Row]:
    """Rows with ties, exact bounds, and a microsecond beside them."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        seconds, beside = rng.randrange(300), rng.choice([0, 0, 0, 1, -1])
        time = START + timedelta(seconds=seconds, microseconds=beside) if rng.random() > 0.05 else None
        amount = rng.choice([None, 0.0, -2.5, 1.25, rng.randrange(-(10**9), 10**9) / 4])
        found.append({"id": number, "k": rng.choice([1, 1, 2, 3, None]), "t": time, "x": amount})
    return found


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    """What dbt makes of a template for Spark."""
    transformer = Transformer(load_settings(lake=str(tmp_path_factory.mktemp("spark") / "lake")))
    yield lambda text: spark_sql.rendered(transformer, text)
    transformer.close()


def of_times(row: Row) -> Row:
    """With windows' bounds as times again."""
    return {
        name: datetime.fromisoformat(value) if name in ("window_start", "window_end") else value
        for name, value in row.items()
    }


def test_windows_equal_brute_force(spark: Spark, rendered: Rendered) -> None:
    given = events(7, 90)
    spark.view("events", given, SCHEMA)
    assert_windows(lambda kind: [of_times(row) for row in spark.query(rendered(QUERIES[kind]))], given)


def test_spines_have_every_entity_in_every_window(spark: Spark, rendered: Rendered) -> None:
    given = [row for row in events(8, 40) if row["k"] is not None]
    spark.view("events", given, SCHEMA)
    assert_spines(lambda kind: [of_times(row) for row in spark.query(rendered(QUERIES[kind]))], given)


LATER = "2024-03-01 00:00:00.000001"
SAYS: dict[str, tuple[str, Any]] = {
    "a number that is none": ("{{ try_cast(\"'seven'\", 'double') }}", None),
    "a number": ("{{ try_cast(\"'7.5'\", 'double') }}", 7.5),
    "a text of an object": ('{{ json_text("\'{\\"a/b\\": \\"x~y\\"}\'", \'a/b\') }}', "x~y"),
    "a text that is not there": ("{{ json_text(\"'{}'\", 'a') }}", None),
    "texts that are there": ("{{ json_texts([['a', \"'x'\"], ['b', 'cast(null as string)']]) }}", '{"a":"x"}'),
    "no text": ("{{ json_texts([['b', 'cast(null as string)']]) }}", None),
    "seconds": (
        "{{ seconds_between(\"timestamp_ntz '2024-02-29 23:59:59.5'\", \"timestamp_ntz '2024-03-01'\") }}",
        0.5,
    ),
    "seconds of instants": (
        "{{ seconds_between(\"timestamp '2024-02-29 00:00:00'\", \"timestamp '2024-03-01'\") }}",
        86400.0,
    ),
    "later": ("cast({{ later_by(\"timestamp_ntz '2024-02-29 23:59:59'\", '1000001') }} as string)", LATER),
    "earlier": ("cast({{ later_by(\"timestamp_ntz '2024-03-01 00:00:01.000001'\", '-1000000') }} as string)", LATER),
    "from microseconds": ("cast({{ from_microseconds('1709251200000001') }} as string)", LATER),
    "microseconds": ("{{ microseconds(\"timestamp_ntz '2024-03-01 00:00:00.000001'\") }}", 1709251200000001),
    "an identifier": ("(select max({{ quoted('a `b\"') }}) from (select 7 as {{ quoted('a `b\"') }}))", 7),
    "an apostrophe": ('{{ sql_text("it\'s") }}', "it's"),
    "a backslash": ("{{ sql_text('a' ~ '\\\\' ~ 'n') }}", "a\\n"),
    "the widest number": (
        "cast(cast('18446744073709551616' as {{ wide_integer() }}) as string)",
        "18446744073709551616",
    ),
    "numbers": ("(select sum(step) from {{ numbers(0, 3) }} as steps)", 6),
}


def test_each_piece_that_differs_between_engines_says_the_same(spark: Spark, rendered: Rendered) -> None:
    columns = ", ".join(f"{sql} as c{number}" for number, (sql, _) in enumerate(SAYS.values()))
    (row,) = spark.query(rendered(f"select {columns}"))
    found = dict(zip(SAYS, row.values(), strict=True))
    assert found == {name: wanted for name, (_, wanted) in SAYS.items()}


def test_a_json_object_has_its_pairs(spark: Spark, rendered: Rendered) -> None:
    (row,) = spark.query(rendered("select {{ json_object([['a', '1'], ['b', \"'x'\"]]) }} as c"))
    assert json.loads(row["c"]) == {"a": 1, "b": "x"}


def test_the_newest_known_value_is_carried_on(spark: Spark, rendered: Rendered) -> None:
    spark.view("known", [{"n": 1, "x": 5}, {"n": 2, "x": None}, {"n": 3, "x": 7}], "n bigint, x bigint")
    rows = spark.query(rendered("select n, {{ last_known('x', 'order by n') }} as x from known"))
    assert [row["x"] for row in rows] == [5, 5, 7]
