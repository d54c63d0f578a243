"""Fields of sampled records: their types, and that every value a declared type is for can be read as it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.discovery.facts import JsonField
from fraud_lakehouse.discovery.json_fields import topic_of
from fraud_lakehouse.discovery.naming import field_names


def fields_of(*records: dict[str, Any]) -> dict[str, JsonField]:
    topic = topic_of("t", 1, [json.dumps(record).encode() for record in records])
    return {".".join(field.path): field for field in topic.fields}


@pytest.mark.parametrize(
    ("values", "kind", "unit"),
    [
        ([1, -5], "int64", ""),
        ([1, 2.5], "double", ""),
        ([True, False], "boolean", ""),
        (["a", ""], "string", ""),
        (["12.50", "3.1"], "decimal(38,9)", ""),
        (["12.50", "x"], "string", ""),
        (["4428780000000000000"], "string", ""),
        (["2024-01-31"], "date", ""),
        (["2024-01-31T10:00:00", "2024-01-31 10:00:00.123456"], "timestamp", ""),
        (["2024-01-31T10:00:00Z", "2024-01-31T10:00:00.5+02:00"], "timestamptz", ""),
        (["2024-01-31T10:00:00", "2024-01-31T10:00:00Z"], "string", ""),
        ([2**70, 1], "decimal(38,0)", ""),
        ([1, "1"], "", ""),
        ([True, 1], "", ""),
        ([[1]], "", ""),
        ([None], "", ""),
        ([{"x": 1}, 5], "", ""),
    ],
)
def test_types_of_values(values: list[Any], kind: str, unit: str) -> None:
    field = fields_of(*({"v": value} for value in values))["v"]
    assert (field.type, field.unit) == (kind, unit)
    assert kind or field.note


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("created_at", 1_700_000_000, "s"),
        ("ts", 1_700_000_000_123, "ms"),
        ("eventTime", 1_700_000_000_123_456, "us"),
        ("timestamp", 1_700_000_000_123_456_789, "ns"),
        ("ts", 12, ""),
        ("account", 1_700_000_000, ""),
    ],
)
def test_numbers_that_are_times_have_a_unit(name: str, value: int, unit: str) -> None:
    field = fields_of({name: value})[name]
    assert (field.type, field.unit) == ("timestamptz" if unit else "int64", unit)


def test_a_field_that_some_records_lack_says_how_many_have_it() -> None:
    fields = fields_of({"a": {"b": 1}}, {"a": None}, {"a": {"b": 2}})
    assert fields["a.b"].present == 2
    assert fields["a.b"].note == "2 of 3 records have it"


def test_fields_of_what_is_not_always_an_object_are_not_declared() -> None:
    fields = fields_of({"a": {"b": 1}}, {"a": 5})
    assert (fields["a"].type, fields["a.b"].type) == ("", "")


@pytest.mark.parametrize("key", ["a.b", "", "0", 'a"b', "a\nb"])
def test_a_key_that_no_path_can_name_is_not_declared(key: str) -> None:
    [field] = fields_of({key: 1}).values()
    assert (field.type, field.note) == ("", "a path cannot name this key")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([("sender_details", "id")], ["sender_id"]),
        ([("senderDetails", "id"), ("sender_id",)], ["senderDetails_id", "sender_id"]),
        ([("data", "id"), ("ID",)], ["data_id", "ID"]),
        ([("from",), ("user-id",), ("1st",), ("source",)], ["from_value", "user_id", "field_1st", "source_value"]),
        ([("a_b",), ("a", "b"), ("A", "b")], ["a_b", "a_b_2", "A_b_3"]),
    ],
)
def test_names_of_fields(paths: list[tuple[str, ...]], names: list[str]) -> None:
    given_names = field_names(paths)
    assert [given_names[path] for path in paths] == names


FITTING: dict[str, Any] = {
    "int64": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "double": lambda value: type(value) in (int, float),
    "boolean": lambda value: type(value) is bool,
    "string": lambda value: type(value) is str,
    "date": lambda value: type(value) is str,
    "timestamp": lambda value: type(value) is str and ("T" in value or " " in value),
    "timestamptz": lambda value: type(value) in (str, int),
    "decimal(38,9)": lambda value: type(value) is str and "." in value,
    "decimal(38,0)": lambda value: type(value) is int,
}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(-1e6, 1e6).filter(lambda number: not number.is_integer()),
    st.sampled_from(["2024-01-31", "2024-01-31T10:00:00", "2024-01-31T10:00:00Z", "1.50", "1", "", "é"]),
    st.integers(1_600_000_000, 1_700_000_000),
)
keys = st.sampled_from(["a", "b", "at", "A", "0", "x.y"])
records = st.recursive(
    st.dictionaries(keys, scalars, max_size=4),
    lambda inner: st.dictionaries(keys, scalars | inner | st.lists(scalars, max_size=2), max_size=4),
    max_leaves=8,
)


def value_at(record: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


@given(st.lists(records, min_size=1, max_size=6))
def test_every_sampled_value_fits_the_type_that_is_declared_for_it(found: list[dict[str, Any]]) -> None:
    for path, field in fields_of(*found).items():
        values = [value_at(record, field.path) for record in found]
        there = [value for value in values if value is not None]
        assert field.present == len([value for value in there if not isinstance(value, dict)]), path
        if field.type:
            assert all(FITTING[field.type](value) for value in there), (path, field, there)
