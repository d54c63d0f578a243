from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from fraud_lakehouse.sources.postgres.columns import LINES, SENT, WIDTHS, Packed, UnpackError, unpack
from fraud_lakehouse.sources.postgres.types import ColumnType, text_of

LETTER = {pl.UInt8(): "B", pl.Int16(): "h", pl.Int32(): "i", pl.UInt32(): "I", pl.Int64(): "q"}
DAY_ZERO, ZERO = date(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC)
DATE, TIMESTAMP, TIMESTAMPTZ, TEXT, NUMERIC = 1082, 1114, 1184, 25, 1700


def pack(oid: int, values: Sequence[Any]) -> Packed:
    """As the server packs a range of blocks: numbers of a fixed width, or texts."""
    present = [value for value in values if value is not None]
    nulls = b"" if len(present) == len(values) else bytes(value is None for value in values)
    if oid in SENT:
        return Packed(struct.pack(f">{len(present)}{LETTER[SENT[oid][1]]}", *present), b"", nulls)
    texts = [value.encode() for value in present]
    if oid in LINES:
        return Packed(b"\n".join(texts), b"", nulls)
    return Packed(b"".join(texts), struct.pack(f">{len(texts)}i", *map(len, texts)), nulls)


def unpacked(oid: int, parts: Sequence[Sequence[Any]], limit: int = 1000, modifier: int = -1) -> pl.Series:
    column = unpack(ColumnType(oid, modifier), "c", [pack(oid, part) for part in parts], list(map(len, parts)), limit)
    assert column.beside is None
    return column.values


def in_parts(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.lists(st.none() | values, min_size=1, max_size=9), min_size=1, max_size=4)


INTEGERS = [oid for oid in SENT if oid not in (16, DATE, TIMESTAMP, TIMESTAMPTZ)]


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from(INTEGERS))
def test_integers_of_every_width_come_back(data: st.DataObject, oid: int) -> None:
    bits = 8 * WIDTHS[SENT[oid][1]]
    low, high = (0, 2**bits - 1) if oid == 26 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    parts = data.draw(in_parts(st.integers(low, high)))
    assert unpacked(oid, parts).to_list() == [value for part in parts for value in part]


@settings(deadline=None, max_examples=50)
@given(in_parts(st.booleans()))
def test_booleans_come_back(parts: list[list[bool | None]]) -> None:
    assert unpacked(16, parts).to_list() == [value for part in parts for value in part]


@settings(deadline=None, max_examples=50)
@given(in_parts(st.dates()))
def test_dates_come_back(parts: list[list[date | None]]) -> None:
    sent = [[None if value is None else (value - DAY_ZERO).days for value in part] for part in parts]
    assert unpacked(DATE, sent).to_list() == [value for part in parts for value in part]


@settings(deadline=None, max_examples=50)
@given(in_parts(st.datetimes()), st.sampled_from([TIMESTAMP, TIMESTAMPTZ]))
def test_moments_come_back_to_the_microsecond(parts: list[list[datetime | None]], oid: int) -> None:
    zone = UTC if oid == TIMESTAMPTZ else None
    known = [[value and value.replace(tzinfo=UTC) for value in part] for part in parts]
    sent = [
        [None if value is None else (value - ZERO) // timedelta(microseconds=1) for value in part] for part in known
    ]
    expected = [value and value.replace(tzinfo=zone) for part in parts for value in part]
    assert unpacked(oid, sent).to_list() == expected


@settings(deadline=None, max_examples=50)
@given(in_parts(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5)))
def test_texts_come_back_whatever_they_hold(parts: list[list[str | None]]) -> None:
    assert unpacked(TEXT, parts).to_list() == [value for part in parts for value in part]


@settings(deadline=None, max_examples=50)
@given(in_parts(st.decimals(-(10**8) + 1, 10**8 - 1, places=2)))
def test_numerics_come_back(parts: list[list[Decimal | None]]) -> None:
    sent = [[None if value is None else f"{value:f}" for value in part] for part in parts]
    values = unpacked(NUMERIC, sent, modifier=((10 << 16) | 2) + 4)
    assert values.dtype == pl.Decimal(10, 2)
    assert values.to_list() == [value for part in parts for value in part]


@pytest.mark.parametrize("oid", [DATE, TIMESTAMP, TIMESTAMPTZ])
def test_infinities_are_null_with_their_text_beside(oid: int) -> None:
    bits = 8 * WIDTHS[SENT[oid][1]] - 1
    kind = ColumnType(oid)
    column = unpack(kind, "c", [pack(oid, [2**bits - 1, None, 0, -(2**bits)])], [4], 1000)
    texts = pl.Series("c", ["infinity", None, "2000-01-01" if oid == DATE else "2000-01-01 00:00:00", "-infinity"])
    expected, marks = kind.parse(texts)
    assert marks is not None
    assert column.beside is not None
    assert_series_equal(column.values, expected)
    assert column.beside.to_list() == ["infinity", None, None, "-infinity"]


@pytest.mark.parametrize(
    ("oid", "last", "unit"), [(DATE, date(9999, 12, 31), 1), (TIMESTAMP, date(9999, 12, 31), 86_400_000_000)]
)
def test_years_beyond_9999_and_before_1_are_left_to_their_text(oid: int, last: date, unit: int) -> None:
    end, begin = ((last - DAY_ZERO).days + 1) * unit, (date(1, 1, 1) - DAY_ZERO).days * unit
    assert unpacked(oid, [[end - 1, begin]]).null_count() == 0
    for beyond in (end, begin - 1):
        with pytest.raises(UnpackError):
            unpacked(oid, [[0, beyond]])


def test_a_text_over_the_limit_is_left_to_the_rows() -> None:
    assert unpacked(TEXT, [["abc"]], limit=3).to_list() == ["abc"]
    with pytest.raises(UnpackError):
        unpacked(TEXT, [["a"], ["abcd"]], limit=3)


@given(st.lists(st.none() | st.binary(max_size=6).map(lambda value: value.replace(b"\0", b"")), min_size=1))
def test_bytes_that_are_no_text_are_shown_and_kept(values: list[bytes | None]) -> None:
    shown, kept = ColumnType(TEXT).parse(text_of(pl.Series("c", values, dtype=pl.Binary())))
    exact = kept.to_list() if kept is not None else [None] * len(values)
    for value, text, digits in zip(values, shown.to_list(), exact, strict=True):
        if digits is None:
            assert text == (None if value is None else value.decode())
        else:
            assert (text, digits) == (value.decode(errors="backslashreplace"), f"\\x{value.hex()}")
