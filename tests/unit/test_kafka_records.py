"""Strict reading of Kafka records, and the one hash that makes user ids."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.demo.card_record import FIELDS, encode, stable_user_id
from fraud_lakehouse.sources.kafka.records import RawRecords
from tests.fixtures_kafka import CARD_SCHEMA, card, decode

GOOD = encode(card(1))


def read(*values: bytes | None, timestamps: list[int | None] | None = None) -> pl.DataFrame:
    count = len(values)
    return decode(RawRecords("t", [0] * count, list(range(count)), timestamps or [0] * count, list(values)))


def error_of(value: bytes | None) -> str | None:
    """The error of a value among good ones; checks that the good ones pass and the bytes are kept."""
    frame = read(GOOD, value, GOOD)
    errors = frame["_error"].to_list()
    assert errors[0] is None and errors[2] is None
    good = frame.row(0)[: len(FIELDS)]
    assert good == frame.row(2)[: len(FIELDS)] and None not in good
    if errors[1] is not None:
        assert frame["_raw"][1] == value
        assert frame.row(1)[: len(FIELDS)] == (None,) * len(FIELDS)
    return errors[1]  # type: ignore[no-any-return]


def test_written_as_the_reference_writes_it() -> None:
    record = card(1, trans_date_trans_time="2012-02-23 00:10:01", trans_num="dbf31d83eebdfe96d2fa213df2043586")
    assert encode(record) == (
        b'{"trans_date_trans_time":"2012-02-23 00:10:01","cc_num":4428780000000000000,'
        b'"merchant":"fraud_Olson, Becker and Koch","category":"gas_transport","amt":82.55,"first":"Richard",'
        b'"last":"Waters","zipcode":"53186","dob":"1/2/46","trans_num":"dbf31d83eebdfe96d2fa213df2043586",'
        b'"is_fraud":0,"user_id":7109464218691269943}'
    )


def test_good_record_gives_typed_columns() -> None:
    frame = read(GOOD, timestamps=[1_700_000_000_123])
    assert frame.schema == pl.Schema(CARD_SCHEMA)
    row = frame.row(0, named=True)
    assert {name: row[name] for name in FIELDS} == json.loads(GOOD)
    assert row["_timestamp"] == datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)
    assert (row["_topic"], row["_partition"], row["_offset"], row["_raw"], row["_error"]) == ("t", 0, 0, None, None)


def test_no_records_give_an_empty_frame() -> None:
    assert read().schema == pl.Schema(CARD_SCHEMA) and read().height == 0


@pytest.mark.parametrize(
    "old, new, error",
    [
        (b"82.55", b'"82.55"', "$.amt: expected float, got str"),
        (b"82.55", b"true", "$.amt: expected float, got bool"),
        (b"82.55", b"1e999", "$.amt: number out of range"),
        (b"82.55", b"NaN", "not JSON: invalid character (byte 151)"),
        (b'"amt":82.55,', b"", "$.amt: required field is missing"),
        (b"4428780000000000000", b"9223372036854775808", "$.cc_num: expected int <= 9223372036854775807"),
        (b"4428780000000000000", b"-9223372036854775809", "$.cc_num: expected int >= -9223372036854775808"),
        (b"4428780000000000000", b"1.0", "$.cc_num: expected int, got float"),
        (b"4428780000000000000", b"null", "$.cc_num: expected int, got null"),
        (b'"is_fraud":0', b'"is_fraud":2', "$.is_fraud: expected int <= 1"),
        (b"Waters", b"\xff", "not UTF-8: invalid start byte"),
        (b'"Waters"', b'["Waters"]', "$.last: expected str, got array"),
        (
            b"01-01 00",
            b"02-30 00",
            "$.trans_date_trans_time: expected \"YYYY-MM-DD HH:MM:SS\", got '2024-02-30 00:00:01'",
        ),
    ],
)
def test_wrong_value_is_told_by_its_place(old: bytes, new: bytes, error: str) -> None:
    assert old in GOOD
    assert error_of(GOOD.replace(old, new)) == error


@pytest.mark.parametrize(
    "value, error",
    [
        (None, "no value (a tombstone)"),
        (b"", "not JSON: Input data was truncated"),
        (b"null", "$: expected object, got null"),
        (b"[]", "$: expected object, got array"),
        (b"{}", "$.trans_date_trans_time: required field is missing"),
        (GOOD + b"\n" + GOOD, f"not JSON: trailing characters (byte {len(GOOD) + 2})"),
        (GOOD[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_record_at_all(value: bytes | None, error: str) -> None:
    assert error_of(value) == error


@pytest.mark.parametrize(
    "time",
    ["2024-1-1 0:0:1", "2024-01-01T00:00:01", "2024-01-01 00:00:60", "2024-01-01 24:00:00", "0000-01-01 00:00:00", ""],
)
def test_time_of_another_form_is_refused(time: str) -> None:
    error = error_of(encode(card(1, trans_date_trans_time=time)))
    assert error == f'$.trans_date_trans_time: expected "YYYY-MM-DD HH:MM:SS", got {time!r}'


def test_integer_amount_further_keys_and_spread_out_json_are_good() -> None:
    assert error_of(GOOD.replace(b"82.55", b"82")) is None
    assert error_of(GOOD[:-1] + b',"new":{"a":[1]}}') is None
    assert error_of(json.dumps(json.loads(GOOD), indent=2).encode()) is None


def test_records_cannot_complete_each_other() -> None:
    """Joined by line breaks these would be two good lines; apart they are none."""
    middle = GOOD.index(b',"amt"')
    frame = read(GOOD + b"\n" + GOOD, b"", GOOD[:middle], GOOD[middle:])
    assert frame["_error"].null_count() == 0


def test_timestamps_beyond_the_calendar_are_null() -> None:
    assert read(GOOD, GOOD, GOOD, timestamps=[None, 2**62, -(2**62)])["_timestamp"].null_count() == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
nearly_good = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)).map(
    lambda changes: json.dumps(json.loads(GOOD) | changes).encode()
)
cut = st.integers(0, len(GOOD)).map(lambda end: GOOD[:end])
payloads = st.none() | st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()) | nearly_good | cut


@settings(max_examples=100, deadline=None)
@given(st.lists(payloads | st.just(GOOD), max_size=12))
def test_any_bytes_are_either_read_or_kept_with_a_reason(values: list[bytes | None]) -> None:
    frame = read(*values)
    assert frame.height == len(values) and frame.schema == pl.Schema(CARD_SCHEMA)
    for value, row in zip(values, frame.iter_rows(named=True), strict=True):
        fields = [row[name] for name in FIELDS]
        if row["_error"] is None:
            assert value is not None and row["_raw"] is None and None not in fields
            assert {name: row[name] for name in FIELDS} == {k: v for k, v in json.loads(value).items() if k in FIELDS}
        else:
            assert row["_raw"] == value and fields == [None] * len(FIELDS)
    alone = [read(value)["_error"][0] for value in values]
    assert frame["_error"].to_list() == alone  # nobody's neighbours matter


@pytest.mark.parametrize(
    "names, user_id",
    [
        (("Waters", "Richard", "1/2/46"), 2174547426616104815),
        (("Banks", "Jennifer", "1988-03-09"), -2130952243843681197),
        (("", "", ""), stable_user_id("", "", "")),
    ],
)
def test_user_id_is_the_same_for_ever(names: tuple[str, str, str], user_id: int) -> None:
    assert stable_user_id(*names) == user_id
    assert -(2**63) <= user_id < 2**63


def test_user_id_keeps_the_three_texts_apart() -> None:
    assert len({stable_user_id("ab", "c", "d"), stable_user_id("a", "bc", "d"), stable_user_id("a", "b", "cd")}) == 3
