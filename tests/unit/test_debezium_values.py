"""Every mode in which Debezium writes decimals, times and bytes gives the value that the database had."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.sources.kafka.records import RecordDecoder
from tests.change_records import (
    CONNECT,
    DEBEZIUM,
    days,
    event,
    plain,
    records,
    since,
    text64,
    topic,
    unscaled,
    variable,
    with_schema,
)

EARLY = datetime(1969, 12, 31, 23, 59, 59, 900_001, UTC).replace(tzinfo=None)
EARLY_MS = EARLY.replace(microsecond=999_000)
LONG = "1234567890123456789012345678901234567890.5"
DAY = date(1969, 12, 30)
MONEY = {"type": "bytes", "name": f"{CONNECT}.Decimal", "parameters": {"scale": "2"}}
VARIABLE = {"type": "struct", "name": f"{DEBEZIUM}.data.VariableScaleDecimal"}


def one(kind: Any, written: Any, schema: dict[str, Any] | None = None, **modes: str) -> Any:
    """The value that is read, by itself and among others."""
    decoder = RecordDecoder(topic({"v": kind, "id": "int64"}, **modes))

    def encode(number: int, value: Any) -> bytes:
        found = event("c", None, {"id": number, "v": value})
        fields = [{**(schema or {}), "field": "v"}, {"type": "int64", "field": "id"}]
        return plain(found) if schema is None else with_schema(found, fields)

    alone = decoder.decode(records([encode(0, written)]))
    assert alone["_error"].to_list() == [None]
    among = decoder.decode(records([encode(0, None), encode(1, written), b"no", encode(3, {"odd": 1})]))
    assert among["v"][1] == alone["v"][0]
    return alone["v"][0]


@pytest.mark.parametrize(
    "kind, written, schema, modes, expected",
    [
        # decimal.handling.mode
        ("decimal(12,2)", text64(unscaled(Decimal("-99999.99"), 2)), None, {}, Decimal("-99999.99")),
        ("decimal(12,2)", text64(unscaled(Decimal("10.25"), 2)), MONEY, {}, Decimal("10.25")),
        ("decimal(12,3)", text64(unscaled(Decimal("10.25"), 2)), MONEY, {}, Decimal("10.250")),
        ("decimal(38,2)", text64(unscaled(Decimal("9" * 36 + ".99"), 2)), MONEY, {}, Decimal("9" * 36 + ".99")),
        ("decimal(12,2)", "10.25", None, {"decimals": "string"}, Decimal("10.25")),
        ("decimal(12,2)", "1000", None, {"decimals": "string"}, Decimal(1000)),
        ("decimal(12,2)", "1000", {"type": "string"}, {}, Decimal(1000)),
        ("decimal(12,2)", 10.25, None, {"decimals": "double"}, Decimal("10.25")),
        ("decimal(12,2)", 10.25, {"type": "double"}, {}, Decimal("10.25")),
        ("decimal(12,2)", variable(Decimal("10.25")), None, {}, Decimal("10.25")),
        ("decimal(12,2)", variable(Decimal("-0.5")), VARIABLE, {}, Decimal("-0.50")),
        ("int64", {"scale": 0, "value": "AQ=="}, None, {}, 1),
        ("int64", {"scale": -2, "value": "AQ=="}, None, {}, 100),
        ("int64", "33", None, {"decimals": "string"}, 33),
        ("int64", 33.0, None, {"decimals": "double"}, 33),
        ("int64", text64(unscaled(Decimal(-300), 0)), None, {}, -300),
        ("boolean", {"scale": 0, "value": "AQ=="}, VARIABLE, {}, True),
        ("string", variable(Decimal(LONG)), VARIABLE, {}, LONG),
        ("double", "-Infinity", None, {}, float("-inf")),
        # time.precision.mode
        ("timestamp", since(EARLY, "us"), None, {}, EARLY),
        ("timestamp", since(EARLY, "us"), {"type": "int64", "name": f"{DEBEZIUM}.time.MicroTimestamp"}, {}, EARLY),
        ("timestamp", since(EARLY, "ns"), {"type": "int64", "name": f"{DEBEZIUM}.time.NanoTimestamp"}, {}, EARLY),
        ("timestamp", -1, {"type": "int64", "name": f"{DEBEZIUM}.time.Timestamp"}, {}, EARLY_MS),
        ("timestamp", -1, {"type": "int64", "name": f"{CONNECT}.Timestamp"}, {}, EARLY_MS),
        ("timestamp", -1, None, {"times": "connect"}, EARLY_MS),
        ({"type": "timestamp", "unit": "ms"}, -1, None, {}, EARLY_MS),
        ("timestamp", since(EARLY, "us"), None, {"times": "adaptive_time_microseconds"}, EARLY),
        ("timestamp", since(EARLY, "us"), None, {"times": "microseconds"}, EARLY),
        ("timestamp", since(EARLY, "ns"), None, {"times": "nanoseconds"}, EARLY),
        ("timestamp", "1969-12-31T23:59:59.900001Z", None, {"times": "isostring"}, EARLY),
        ("timestamptz", "2026-03-29T01:30:00.000000Z", None, {}, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("timestamptz", "2026-03-29T03:30:00.5+02:00", None, {}, datetime(2026, 3, 29, 1, 30, 0, 500_000, tzinfo=UTC)),
        ("date", days(DAY), None, {}, DAY),
        ("date", days(DAY), {"type": "int32", "name": f"{CONNECT}.Date"}, {"times": "connect"}, DAY),
        ("date", "1969-12-30Z", None, {"times": "isostring"}, DAY),
        ("time", 45_296_789_000, None, {}, "12:34:56.789000"),
        ("time", 45_296_789, None, {"times": "connect"}, "12:34:56.789000"),
        ("time", 45_296_000, {"type": "int32", "name": f"{DEBEZIUM}.time.Time"}, {}, "12:34:56"),
        ("time", 45_296_789_000_000, {"type": "int64", "name": f"{DEBEZIUM}.time.NanoTime"}, {}, "12:34:56.789000"),
        ("time", "12:34:56.789Z", None, {"times": "isostring"}, "12:34:56.789Z"),
        # binary.handling.mode
        ("binary", "+/8=", None, {}, b"\xfb\xff"),
        ("binary", "+/8=", {"type": "bytes"}, {"binaries": "hex"}, b"\xfb\xff"),
        ("binary", "-_8", None, {"binaries": "base64-url-safe"}, b"\xfb\xff"),
        ("binary", "fbff", None, {"binaries": "hex"}, b"\xfb\xff"),
        ("binary", "fbff", {"type": "string"}, {"binaries": "hex"}, b"\xfb\xff"),
        ("json", ["a", None], None, {}, '["a",null]'),
    ],
)  # fmt: skip
def test_each_mode(
    kind: Any, written: Any, schema: dict[str, Any] | None, modes: dict[str, str], expected: Any
) -> None:
    assert one(kind, written, schema, **modes) == expected


@pytest.mark.parametrize(
    "kind, written, modes, reason",
    [
        ("decimal(12,2)", "10.25", {}, "$.v: expected decimal(12,2) in base64 (decimals: precise), got '10.25'"),
        ("decimal(12,2)", "10.255", {"decimals": "string"}, "$.v: expected decimal(12,2), got '10.255'"),
        ("decimal(12,2)", "1" * 11, {"decimals": "string"}, f"$.v: expected decimal(12,2), got '{'1' * 11}'"),
        ("decimal(12,2)", "\uff11", {"decimals": "string"}, "$.v: expected decimal(12,2), got"),
        ("decimal(12,2)", "1_0", {"decimals": "string"}, "$.v: expected decimal(12,2), got '1_0'"),
        ("decimal(12,2)", "NaN", {"decimals": "string"}, "$.v: expected decimal(12,2), got 'NaN'"),
        ("decimal(12,2)", {"scale": 3, "value": "AQ=="}, {}, "$.v: expected decimal(12,2), got an object"),
        ("decimal(12,2)", "", {}, "$.v: expected decimal(12,2) in base64 (decimals: precise), got ''"),
        ("int64", 1.5, {}, "$.v: expected int64, got 1.5"),
        ("int64", True, {}, "$.v: expected int64, got a boolean"),
        ("int32", 2**31, {}, "$.v: expected int32 from -2147483648 to 2147483647, got 2147483648"),
        ("boolean", 2, {}, "$.v: expected boolean, got 2"),
        ("timestamp", 2**62, {}, "$.v: expected a time of the years 1 to 9999, got '4611686018427387904 us'"),
        ("timestamp", 5, {"times": "isostring"}, "$.v: expected a time, got the number 5 without a unit"),
        ("timestamp", "2026-01-01T00:00:00+02:00", {}, "$.v: expected a time without a zone (timestamp)"),
        ("timestamptz", "2026-01-01T00:00:00", {}, "$.v: expected a time with a zone (timestamptz)"),
        ("date", 10**7, {}, "$.v: expected a date of the years 1 to 9999, got 10000000 days"),
        ("time", -1, {}, "$.v: expected a time of day, got -1 us"),
        ("binary", "f", {"binaries": "hex"}, "$.v: expected bytes in hex, got 'f'"),
        ("string", 5, {}, "$.v: expected string, got 5"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_kept_with_the_reason(
    kind: Any, written: Any, modes: dict[str, str], reason: str
) -> None:
    bad, good = (plain(event("c", None, {"v": value})) for value in (written, None))
    frame = RecordDecoder(topic({"v": kind}, **modes)).decode(records([good, bad, good]))
    assert frame["_error"].is_null().to_list() == [True, False, True]
    assert frame["_error"][1].startswith(reason)
    assert frame["_raw"].to_list() == [None, bad, None]
    assert frame["_op"].to_list() == ["c", None, "c"] and frame["_lsn"].to_list() == [100, None, 100]


MOMENTS = st.datetimes()
NUMBERS = st.decimals(-(10**10) + 1, 10**10 - 1, places=2, allow_nan=False)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.none() | NUMBERS,
            st.none() | MOMENTS,
            st.none() | st.dates(),
            st.none() | st.binary(max_size=9),
            st.none() | st.text(max_size=5),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["precise", "string", "variable"]),
    st.sampled_from(["us", "ns", "isostring"]),
    st.sampled_from(["bytes", "hex"]),
    st.booleans(),
)
def test_any_row_is_read_as_it_was(
    rows: list[tuple[Any, ...]], decimals: str, times: str, binaries: str, has_schema: bool
) -> None:
    names = {"us": "MicroTimestamp", "ns": "NanoTimestamp", "isostring": "IsoTimestamp"}
    fields: list[dict[str, Any]] = [
        {"type": "int64", "field": "ID"},
        {"precise": MONEY, "string": {"type": "string"}, "variable": VARIABLE}[decimals] | {"field": "AMOUNT"},
        {"type": "int64", "name": f"{DEBEZIUM}.time.{names[times]}", "field": "AT"},
        {"type": "int32", "name": f"{DEBEZIUM}.time.Date", "field": "DAY"},
        {"type": "bytes" if binaries == "bytes" else "string", "field": "DATA"},
        {"type": "string", "field": "NAME"},
        {"type": "boolean", "field": "OK"},
    ]

    encoders = {"precise": lambda number: text64(unscaled(number, 2)), "string": str, "variable": variable}

    def encode(row: tuple[Any, ...]) -> bytes:
        number, amount, at, day, data, name, ok = row
        written = {
            "ID": number,
            "AMOUNT": None if amount is None else encoders[decimals](amount),
            "AT": at if at is None else f"{at.isoformat()}Z" if times == "isostring" else since(at, times),
            "DAY": day if day is None or times == "isostring" else days(day),
            "DATA": data if data is None else text64(data) if binaries == "bytes" else data.hex(),
            "NAME": name,
            "OK": ok,
        }
        if times == "isostring" and day is not None:
            written["DAY"] = f"{day.isoformat()}Z"
        found = event("u", None, written)
        return with_schema(found, fields) if has_schema else plain(found)

    modes = {"us": "adaptive", "ns": "nanoseconds", "isostring": "isostring"}
    config = topic(
        {
            "id": "int64",
            "amount": "decimal(12,2)",
            "at": "timestamp",
            "day": "date",
            "data": "binary",
            "name": "string",
            "ok": "boolean",
        },
        decimals="string" if decimals == "string" else "precise",
        times=modes[times],
        binaries=binaries,
    )
    frame = RecordDecoder(config).decode(records([encode(row) for row in rows]))
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(pl.nth(range(7))).rows() == rows
