"""JSON of any declared fields: what each type takes, nested paths, what is kept, and what a declaration cannot be."""

from __future__ import annotations

import base64
import json
import string
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.formats.json import JsonDecoder


def decoder(**fields: Any) -> JsonDecoder:
    """Of fields by name: each a type, or the keys of its declaration."""
    declared = {name: value if isinstance(value, dict) else {"type": value} for name, value in fields.items()}
    return JsonDecoder([Field(name=name, **value) for name, value in declared.items()])


def read(reader: JsonDecoder, text: str | bytes) -> tuple[dict[str, Any], str | None, str | None]:
    """Row, error and extra of one value, which is read between two that are no records."""
    found = reader.read([b"", text.encode() if isinstance(text, str) else text, b"{"])
    assert found.errors.keys() >= {0, 2} and found.frame.schema == pl.Schema(reader.schema)
    return found.frame.row(1, named=True), found.errors.get(1), found.extras.get(1)


@pytest.mark.parametrize(
    "declared, text, value",
    [
        ("string", '"x"', "x"),
        ("int32", "-2147483648", -(2**31)),
        ("int64", "9223372036854775807", 2**63 - 1),
        ("double", "1", 1.0),
        ("boolean", "true", True),
        ("decimal(12,2)", "0.1", Decimal("0.10")),
        ("decimal(12,2)", '"1234567890.12"', Decimal("1234567890.12")),
        ("decimal(12,2)", "1.50000", Decimal("1.50")),
        ("decimal(12,2)", "-1E+3", Decimal("-1000.00")),
        ("decimal(12,2)", "0e99999", Decimal("0.00")),
        ("decimal(38,18)", "1234567890123456789.000000000000000001", Decimal("1234567890123456789.000000000000000001")),
        ("date", '"2024-02-29"', date(2024, 2, 29)),
        ("timestamp", '"2024-02-29 01:02:03"', datetime.fromisoformat("2024-02-29 01:02:03")),
        ("timestamp", '"2024-02-29T01:02:03.5"', datetime.fromisoformat("2024-02-29 01:02:03.500000")),
        ("timestamp", '"2024-02-29T01:02:03.123456789"', datetime.fromisoformat("2024-02-29 01:02:03.123456")),
        ("timestamp", '"1969-12-31T23:59:59.999999"', datetime.fromisoformat("1969-12-31 23:59:59.999999")),
        ("timestamp", '"2024-02-29T01:02"', datetime.fromisoformat("2024-02-29 01:02:00")),
        ("timestamptz", '"2024-02-29T01:02:03Z"', datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
        ("timestamptz", '"2024-02-29 01:02:03.25+0530"', datetime(2024, 2, 28, 19, 32, 3, 250_000, UTC)),
        ({"type": "timestamp", "unit": "s"}, "1", datetime.fromisoformat("1970-01-01 00:00:01")),
        ({"type": "timestamptz", "unit": "ms"}, "-1", datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)),
        ({"type": "timestamptz", "unit": "us"}, "1700000000000001", datetime(2023, 11, 14, 22, 13, 20, 1, UTC)),
        ({"type": "timestamptz", "unit": "ns"}, "-1", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("binary", '"AP8="', b"\x00\xff"),
        ({"type": "decimal(5,1)", "optional": True}, "null", None),
        ({"type": "timestamp", "optional": True}, "null", None),
        ({"type": "int32", "optional": True, "minimum": 3}, "null", None),
    ],
)
def test_what_each_type_takes(declared: Any, text: str, value: object) -> None:
    assert read(decoder(a=declared), f'{{"a":{text}}}') == ({"a": value}, None, None)


@pytest.mark.parametrize(
    "declared, text, error",
    [
        ("int32", "2147483648", "$.a: expected int <= 2147483647"),
        ("int32", "1.0", "$.a: expected int, got float"),
        ("boolean", "1", "$.a: expected bool, got int"),
        ("string", "null", "$.a: expected str, got null"),
        ({"type": "int64", "minimum": 3}, "2", "$.a: expected int >= 3"),
        ("decimal(12,2)", "0.001", "$.a: expected decimal(12,2), got '0.001'"),
        ("decimal(12,2)", "12345678901", "$.a: expected decimal(12,2), got '12345678901'"),
        ("decimal(12,2)", '"1,5"', "$.a: expected decimal(12,2), got '\"1,5\"'"),
        ("decimal(12,2)", '"NaN"', "$.a: expected decimal(12,2), got '\"NaN\"'"),
        ("decimal(12,2)", "null", "$.a: expected decimal(12,2), got 'null'"),
        ("decimal(12,2)", "1e999999", "$.a: expected decimal(12,2), got '1e999999'"),
        ("decimal(12,2)", "[1]", "$.a: expected decimal(12,2), got '[1]'"),
        ("date", '"2023-02-29"', "$.a: expected a date such as 2024-01-31, got '2023-02-29'"),
        ("date", '"20240229"', "$.a: expected a date such as 2024-01-31, got '20240229'"),
        ("timestamp", '"2024-02-29T01:02:03Z"', "$.a: expected a time without a zone (timestamp), got"),
        ("timestamptz", '"2024-02-29T01:02:03"', "$.a: expected a time with a zone (timestamptz), got"),
        ("timestamp", '"2024-02-29T24:00:00"', "$.a: expected a time, got '2024-02-29T24:00:00' (hour must be in"),
        ("timestamp", '"yesterday"', "$.a: expected a time such as 2024-01-31T12:00:00, got 'yesterday'"),
        ("timestamp", "1700000000", "$.a: expected str, got int"),
        ("timestamptz", '"0001-01-01T00:00:00+23:00"', "$.a: expected a time"),
        ({"type": "timestamp", "unit": "s"}, "253402300800", "$.a: expected a time of the years 1 to 9999"),
        ({"type": "timestamp", "unit": "ms"}, '"2024-02-29"', "$.a: expected int, got str"),
        ("binary", '"AP8"', "$.a: expected bytes in base64, got 'AP8'"),
    ],
)
def test_what_each_type_does_not_take(declared: Any, text: str, error: str) -> None:
    row, found, extra = read(
        decoder(a=declared, b={"type": "string", "optional": True}), f'{{"a":{text},"b":"y","c":1}}'
    )
    assert found is not None and found.startswith(error)
    assert (row, extra) == ({"a": None, "b": None}, None)


NESTED = {
    "id": "string",
    "sender": {"path": "sender.details.id", "type": "int64"},
    "iban": {"path": "sender.iban", "type": "string", "optional": True},
    "sku": {"path": "items.0.sku", "type": "string"},
    "second": {"path": "items.1.price", "type": "decimal(9,2)", "optional": True},
    "cell": {"path": "grid.1.0", "type": "int32", "optional": True},
}


def wire(**changes: Any) -> str:
    return json.dumps(
        {
            "id": "w1",
            "sender": {"details": {"id": 7, "name": "Æ"}, "iban": None, "bank": [1]},
            "items": [{"sku": "s", "n": 2}, {"price": "1.5"}, {}],
            "note": {"x": 1},
            **changes,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def test_nested_values_are_columns_and_the_undeclared_is_kept() -> None:
    row, error, extra = read(decoder(**NESTED), wire())
    assert error is None
    assert row == {"id": "w1", "sender": 7, "iban": None, "sku": "s", "second": Decimal("1.50"), "cell": None}
    assert json.loads(extra or "") == {
        "sender": {"details": {"name": "Æ"}, "bank": [1]},
        "items": [{"sku": "s", "n": 2}, {"price": "1.5"}, {}],
        "note": {"x": 1},
    }


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"sender": {}}, "$.sender.details: required field is missing"),
        ({"sender": {"details": {}}}, "$.sender.details.id: required field is missing"),
        ({"sender": {"details": {"id": "7"}}}, "$.sender.details.id: expected int, got str"),
        ({"sender": 7}, "$.sender: expected object, got int"),
        ({"items": []}, "$.items: expected array of length >= 1, got 0"),
        ({"items": {}}, "$.items: expected array, got object"),
        ({"items": None}, "$.items: expected array, got null"),
        ({"items": [{}]}, "$.items[0].sku: required field is missing"),
        ({"items": [{"sku": 1}]}, "$.items[0].sku: expected str, got int"),
        ({"items": [{"sku": "s"}, {"price": "x"}]}, "$.items[1].price: expected decimal(9,2), got '\"x\"'"),
        ({"grid": [[], [True]]}, "$.grid[1][0]: expected int | null, got bool"),
    ],
)
def test_a_wrong_nested_value_is_named_by_its_place(changes: dict[str, Any], error: str) -> None:
    row, found, extra = read(decoder(**NESTED), wire(**changes))
    assert (found, extra) == (error, None)
    assert set(row.values()) == {None}


@pytest.mark.parametrize(
    "changes, cell",
    [({"grid": [[], [5]]}, 5), ({"grid": [[], []]}, None), ({"grid": None}, None), ({"grid": [1, None]}, None)],
)
def test_an_optional_element_may_be_absent(changes: dict[str, Any], cell: int | None) -> None:
    row, error, _ = read(decoder(**NESTED), wire(**changes))
    assert (row["cell"], error) == (cell, None)


@pytest.mark.parametrize(
    "old, new, place",
    [
        ('"id":7', '"id":7,"id":8', "$.sender.details.id"),
        ('"name":"Æ"', '"name":"Æ","name":"B"', "$.sender.details.name"),
        ('"sku":"s"', '"sku":"s","sku":"t"', "$.items[0].sku"),
        ('"note":', '"id":"w2","note":', "$.id"),
    ],
)
def test_a_repeated_key_near_declared_ones_is_an_error(old: str, new: str, place: str) -> None:
    assert old in wire()
    assert read(decoder(**NESTED), wire().replace(old, new))[1] == f"{place}: there more than once"


# --- against an oracle ---------------------------------------------------------------------------------------------

TYPES = {"string": str, "int32": int, "int64": int, "double": float, "boolean": bool}
LIMITS = {"int32": 2**31, "int64": 2**63}
keys = st.sampled_from(["a", "b", "key with blanks", "e-f", "é"])
flat = st.dictionaries(keys, st.sampled_from(sorted(TYPES)), min_size=1, max_size=4)
texts = st.text(alphabet='":,{}[]\\ aé\n', max_size=5)
scalars = (
    texts | st.integers(-(2**31), 2**33) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)
good = {
    "string": texts,
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    "boolean": st.booleans(),
}


def fits(kind: str, value: object) -> bool:
    if kind == "double":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in LIMITS:
        return type(value) is int and -LIMITS[kind] <= value < LIMITS[kind]
    return type(value) is TYPES[kind]


@st.composite
def declared_records(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Flat fields, and records of which most have exactly these, of their types."""
    fields = draw(flat)
    right = st.fixed_dictionaries({name: good[kind] for name, kind in fields.items()})
    near = st.builds(lambda one, other: one | other, right, st.dictionaries(keys, scalars, max_size=1))
    some = st.dictionaries(keys, scalars, max_size=4)
    return fields, draw(st.lists(right | right | near | some, min_size=1, max_size=6))


@settings(max_examples=300, deadline=None)
@given(declared_records(), st.booleans())
def test_records_of_any_flat_fields_are_read_as_python_reads_them(
    given_: tuple[dict[str, str], list[dict[str, Any]]], is_wide: bool
) -> None:
    fields, rows = given_
    declared = {f"f{number}": {"type": kind, "path": key} for number, (key, kind) in enumerate(fields.items())}
    reader = decoder(**declared)
    separators = None if is_wide else (",", ":")
    values: list[bytes | None] = [json.dumps(row, ensure_ascii=is_wide, separators=separators).encode() for row in rows]
    found = reader.read(values)
    alone = [reader.read([value]) for value in values]
    for number, row in enumerate(rows):
        is_good = all(key in row and fits(kind, row[key]) for key, kind in fields.items())
        assert (number in found.errors) is not is_good
        assert found.frame.row(number) == alone[number].frame.row(0)
        assert found.errors.get(number) == alone[number].errors.get(0)
        if is_good:
            assert found.frame.row(number) == tuple(row[key] for key in fields)
            extra = {key: value for key, value in row.items() if key not in fields}
            assert json.loads(found.extras.get(number, "{}")) == extra


def test_flat_fields_of_any_names_are_read_at_once() -> None:
    reader = decoder(one={"type": "int32", "path": "a"}, two={"type": "boolean", "path": "b c"}, three="string")
    lines = [b'{"a":%d,"b c":true,"three":"x"}' % number for number in range(3)]
    assert reader._read_plain(lines, 1_000) is not None
    assert decoder(a="int64")._read_plain([b'{"a":1}'], 1_000) is not None, "without any text"
    optional = decoder(a={"type": "int64", "optional": True})
    assert optional._read_plain([b'{"a":1}'], 1_000) is None
    assert optional.read([b'{"a":1}', b"{}"]).frame["a"].to_list() == [1, None]


decimals = st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.decimals(-(10**7), 10**7, places=2)


@settings(max_examples=300, deadline=None)
@given(decimals, st.integers(1, 38), st.integers(0, 38), st.booleans())
def test_decimals_are_exact_or_refused(number: Decimal, precision: int, scale: int, is_text: bool) -> None:
    scale = min(scale, precision)
    text = str(number)
    row, error, _ = read(
        decoder(a=f"decimal({precision},{scale})"), f'{{"a":"{text}"}}' if is_text else f'{{"a":{text}}}'
    )
    # an integer of the scale's units, with at most as many digits as the precision
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    units = int("".join(map(str, digits)))
    shift = exponent + scale
    is_whole = units == 0 or (shift >= -60 and (shift >= 0 or units % 10**-shift == 0))
    fits_in = units == 0 or (
        shift <= 60 and is_whole and (units * 10**shift if shift >= 0 else units // 10**-shift) < 10**precision
    )
    if is_whole and fits_in:
        assert error is None and row["a"] == number
    else:
        assert error is not None and error.startswith(f"$.a: expected decimal({precision},{scale}), got ")


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(
        min_value=datetime.fromisoformat("0001-01-02 00:00:00"), max_value=datetime.fromisoformat("9999-12-30 00:00:00")
    ),
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from("T "),
)
def test_times_keep_every_microsecond(moment: datetime, minutes: int, between: str) -> None:
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    text = moment.isoformat(between)
    row, error, _ = read(decoder(a="timestamp", b="timestamptz"), json.dumps({"a": text, "b": text + zone}))
    assert error is None
    assert row == {"a": moment, "b": moment.replace(tzinfo=UTC) - timedelta(minutes=minutes)}


@given(st.binary(max_size=40))
def test_bytes_are_those_that_were_encoded(content: bytes) -> None:
    assert read(decoder(a="binary"), json.dumps({"a": base64.b64encode(content).decode()}))[0] == {"a": content}


tree = st.recursive(
    st.integers(-5, 5) | st.text(alphabet=string.ascii_letters + '"\\é', max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), tree, max_size=4))
def test_columns_and_extra_together_are_the_whole_record(record: dict[str, Any]) -> None:
    """Objects on the way to a declared field may be empty in `_extra`'s place: they hold nothing else."""
    paths = {"f0": "a.b", "f1": "c", "f2": "d.a.b"}
    fields = {name: {"type": "int64", "path": path, "optional": True} for name, path in paths.items()}
    row, error, extra = read(decoder(**fields), json.dumps(record))
    if error is not None:
        assert set(row.values()) == {None}
        return
    whole = json.loads(extra or "{}")
    for name, path in paths.items():
        *outer, last = path.split(".")
        if row[name] is not None:
            at = whole
            for key in outer:
                at = at.setdefault(key, {})
            assert last not in at
            at[last] = row[name]

    def without_empty(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: without_empty(one) for key, one in value.items() if without_empty(one) != {}}

    assert without_empty(whole) == without_empty(record)
