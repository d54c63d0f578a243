"""Card transactions as Kafka records: what is kept of each, and their writing.

A value of another type is an error row, never a guess (`kafka_decode.py`). Nothing here knows a broker, and what a good
record means for fraud is not decided here.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from fraud_lakehouse.sources.kafka.formats.json import (
    FIELD_TYPES,
    FIELDS,
    MAX_RECORD_BYTES,
    TOMBSTONE,
    CardTransaction,
    read_values,
)

__all__ = [
    "CARD_SCHEMA",
    "FIELDS",
    "FIELD_TYPES",
    "MAX_RECORD_BYTES",
    "TOMBSTONE",
    "CardTransaction",
    "Header",
    "RawRecords",
    "decode",
    "encode",
    "stable_user_id",
]

CARD_SCHEMA: dict[str, pl.DataType] = FIELD_TYPES | {
    "_topic": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": pl.Datetime("us", "UTC"),
    "_raw": pl.Binary(),
    "_error": pl.String(),
    "_extra": pl.String(),
    "_key": pl.Binary(),
    "_headers": pl.String(),
    "_quarantined_at": pl.Datetime("us", "UTC"),
}
"""Columns of bronze/card_transactions as capture gives them (`_ingested_at` is stamped when landing)."""

Header = tuple[str, bytes | str | None]
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class RawRecords:
    """Records as a broker gave them, column by column, all of one length.

    Args:
        topic: their topic.
        partitions: partition of each.
        offsets: offset of each.
        timestamps: milliseconds since 1970 UTC, None where the broker has none.
        values: the payload; None is a tombstone.
        keys: the key of each, None where it has none; empty: none has.
        headers: the headers of each in their order, None where it has none; empty: none has.
    """

    topic: str
    partitions: list[int]
    offsets: Sequence[int]
    timestamps: list[int | None]
    values: list[bytes | None]
    keys: list[bytes | None] = field(default_factory=list)
    headers: list[list[Header] | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of values and keys."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))


def stable_user_id(last: str, first: str, dob: str) -> int:
    """The user's 64-bit signed id: BLAKE2b-64 of the three texts, each ended by a zero byte, big endian.

    The same on every machine and in every version; `dob` is taken as the text it came as.
    """
    text = "".join(f"{part}\0" for part in (last, first, dob))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def encode(record: CardTransaction) -> bytes:
    """The record as compact JSON with its keys in the order of the fields."""
    return _ENCODER.encode(record)


def decode(records: RawRecords, most_bytes: int = MAX_RECORD_BYTES) -> pl.DataFrame:
    """Read records into one frame of `CARD_SCHEMA`, one row each, in the order given; never raises on their content.

    A record that cannot be read has its 12 fields null, its bytes in `_raw` and the reason in `_error`, for instance
    "$.amt: expected float, got str". A good record has both null. A value longer than `most_bytes` is not looked into
    and kept whole in `_raw`.
    """
    values, count = records.values, len(records.values)
    read = read_values(values, most_bytes)
    raw = {row: values[row] for row in read.errors}
    columns = [
        _same("_topic", records.topic, count),
        _partitions(records.partitions),
        pl.Series("_offset", records.offsets, pl.Int64),
        _timestamps(records.timestamps).alias("_timestamp"),
        _sparse("_raw", raw, count),
        _sparse("_error", read.errors, count),
        _sparse("_extra", read.extras, count),
        _sparse("_key", records.keys, count),
        _sparse("_headers", _header_texts(records.headers), count),
        _sparse("_quarantined_at", {}, count),
    ]
    return read.frame.hstack(columns)


def _same(name: str, value: Any, count: int) -> pl.Series:
    """A column of one value; `pl.repeat` takes longer than all that a chunk has of it."""
    return pl.Series(name, [value], CARD_SCHEMA[name]).new_from_index(0, count)


def _partitions(numbers: Sequence[int]) -> pl.Series:
    if numbers and numbers.count(numbers[0]) == len(numbers):
        return _same("_partition", numbers[0], len(numbers))
    return pl.Series("_partition", numbers, pl.Int32)


def _sparse(name: str, values: Mapping[int, Any] | Sequence[Any], count: int) -> pl.Series:
    """A column of all values, or of those few that are there by row."""
    if isinstance(values, Mapping):
        values = [values.get(row) for row in range(count)] if values else ()
    elif values.count(None) == len(values):
        values = ()
    return pl.Series(name, values, CARD_SCHEMA[name]) if values else _same(name, None, count)


def _header_texts(headers: Sequence[Sequence[Header] | None]) -> dict[int, str]:
    """By row, the headers as JSON: a list of [name, "text", text], [name, "base64", bytes] or [name, "null", null]."""
    return {
        row: _ENCODER.encode([_header(name, value) for name, value in found]).decode()
        for row, found in enumerate(headers if any(headers) else ())
        if found
    }


def _header(name: str, value: bytes | str | None) -> tuple[str, str, str | None]:
    if value is None or isinstance(value, str):
        return name, "null" if value is None else "text", value
    try:
        return name, "text", value.decode()
    except UnicodeDecodeError:
        return name, "base64", b64encode(value).decode()


def _timestamps(milliseconds: Sequence[int | None]) -> pl.Series:
    """Milliseconds as microsecond UTC times; beyond the years 1 to 9999, which a producer may claim, null."""
    low, high = (int(datetime(*day, tzinfo=UTC).timestamp() * 1000) for day in ((1, 1, 1), (9999, 12, 31)))
    frame = pl.DataFrame([pl.Series("moment", milliseconds, pl.Int64)])
    moment = pl.col("moment")
    return frame.select(
        (pl.when(moment.is_between(low, high)).then(moment) * 1000).cast(pl.Datetime("us", "UTC"))
    ).to_series()
