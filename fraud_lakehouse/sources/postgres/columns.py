"""Packed columns (all values of many rows in one byte string), and how they become typed series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from fraud_lakehouse.sources.postgres.types import ColumnType, text_of

_EPOCH_DAYS = 10_957  # PostgreSQL counts from 2000-01-01
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 from 1970-01-01
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class SourceColumn:
    """One column of many rows.

    Args:
        values: typed, named as in the lake.
        beside: the exact text of values that the type cannot represent, null elsewhere; None if there are none.
    """

    values: pl.Series
    beside: pl.Series | None


@dataclass(frozen=True)
class Packed:
    """One column as the server packs it.

    Args:
        data: the non-null values, concatenated: fixed width (big-endian) or text (numbers: one a line).
        sizes: for text, the bytes of each value (big-endian int32), concatenated; otherwise empty.
        nulls: one byte per row, 1 where the value is null; empty if none is.
    """

    data: bytes
    sizes: bytes
    nulls: bytes


class UnpackError(Exception):
    """A value that only text can represent (a year before 1 or after 9999), or one that is too large."""


SENT: dict[int, tuple[str, pl.DataType]] = {
    16: ("boolsend", pl.UInt8()),
    20: ("int8send", pl.Int64()),
    21: ("int2send", pl.Int16()),
    23: ("int4send", pl.Int32()),
    26: ("oidsend", pl.UInt32()),
    1082: ("date_send", pl.Int32()),
    1114: ("timestamp_send", pl.Int64()),
    1184: ("timestamptz_send", pl.Int64()),
}
"""Types (by oid) sent in a fixed width: the server's send function and the format of its bytes. Others are text."""

LINES = frozenset({700, 701, 1700})
"""Types (by oid) whose text has no newline, so that it needs no sizes: floats and numerics."""

WIDTHS: dict[pl.DataType, int] = {pl.UInt8(): 1, pl.Int16(): 2, pl.Int32(): 4, pl.UInt32(): 4, pl.Int64(): 8}
"""Bytes of each value."""


def unpack(kind: ColumnType, name: str, parts: Sequence[Packed], rows: Sequence[int], limit: int) -> SourceColumn:
    """One column from its packed chunks.

    Args:
        kind: the column's type.
        name: its name in the lake.
        parts: the chunks, in order.
        rows: number of rows of each chunk.
        limit: maximum bytes of a text.

    Raises:
        UnpackError: the rows must be read as text.
    """
    sent = SENT.get(kind.oid)
    nulls = _nulls(parts, rows)
    if sent is None:
        text = _lines(parts) if kind.oid in LINES else _texts(parts, limit)
        text = _spread(text, nulls).alias(name)
        return SourceColumn(*kind.parse(text))
    numbers = _spread(_numbers(b"".join(part.data for part in parts), sent[1]), nulls).alias(name)
    if kind.dtype.is_temporal():
        return _temporal(kind.dtype, numbers)
    return SourceColumn(numbers.cast(kind.dtype), None)


def _temporal(dtype: pl.DataType, since: pl.Series) -> SourceColumn:
    """Dates and timestamps from their distance to 2000-01-01; the extremes represent infinity."""
    day = 1 if dtype == pl.Date() else _DAY
    least, greatest = since.dtype.min(), since.dtype.max()  # type: ignore[attr-defined]
    lowest, highest = (_FIRST_DAY - _EPOCH_DAYS) * day, (_LAST_DAY - _EPOCH_DAYS + 1) * day
    outside = (since < lowest) | (since >= highest)
    beside = None
    if outside.any():
        texts = {pl.select(least).item(): "-infinity", pl.select(greatest).item(): "infinity"}
        odd = since.set(~outside, None)
        beside = odd.replace_strict(texts, default=None, return_dtype=pl.String)
        if beside.null_count() != odd.null_count():
            raise UnpackError
        since = since.set(outside, None)
    return SourceColumn((since + _EPOCH_DAYS * day).cast(dtype), beside)


def _numbers(data: bytes, kind: pl.DataType) -> pl.Series:
    """Concatenated big-endian numbers."""
    if not data:
        return pl.Series([], dtype=kind)
    packed = pl.Series([data]).bin.reinterpret(dtype=pl.Array(kind, len(data) // WIDTHS[kind]), endianness="big")
    return packed.explode()


def _lines(parts: Sequence[Packed]) -> pl.Series:
    """Texts separated by newlines; none is empty."""
    lines = "\n".join(part.data.decode() for part in parts if part.data)
    return pl.Series([lines], dtype=pl.String).str.split("\n").explode() if lines else pl.Series([], dtype=pl.String)


def _texts(parts: Sequence[Packed], limit: int) -> pl.Series:
    """Texts by their sizes."""
    data = b"".join(part.data for part in parts)
    sizes = _numbers(b"".join(part.sizes for part in parts), pl.Int32()).cast(pl.Int64)
    if not sizes.is_empty() and sizes.max() > limit:  # type: ignore[operator]
        raise UnpackError
    ends = pl.concat([pl.Series([0], dtype=pl.Int64), sizes.cum_sum()]).rechunk()
    offsets = ends.to_arrow().buffers()[1]
    packed = pa.Array.from_buffers(pa.large_binary(), sizes.len(), [None, offsets, pa.py_buffer(data)])
    return text_of(pl.Series(pl.from_arrow(packed)))


def _nulls(parts: Sequence[Packed], rows: Sequence[int]) -> pl.Series | None:
    """Where the column is null; None if it never is."""
    if not any(part.nulls for part in parts):
        return None
    marks = b"".join(part.nulls or bytes(count) for part, count in zip(parts, rows, strict=True))
    return _numbers(marks, pl.UInt8()).cast(pl.Boolean)


def _spread(values: pl.Series, nulls: pl.Series | None) -> pl.Series:
    """The values with the nulls inserted."""
    if nulls is None:
        return values
    place = (~nulls).cum_sum().cast(pl.Int64) - 1
    return values.gather(place.set(nulls, None))
