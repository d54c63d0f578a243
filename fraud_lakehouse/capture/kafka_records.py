"""Card transactions as Kafka records: the 12 JSON fields, their strict reading and their writing.

Strict means: a value of another type is an error row, never a guess. Reading knows no broker, and what a good record
means for fraud is not decided here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import polars as pl

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]


class CardTransaction(msgspec.Struct, gc=False):
    """One record; the order of the fields is the order of the keys when written.

    `amt` takes integers as well as decimals; `is_fraud` is 0 or 1; keys beyond these twelve are ignored on reading.
    """

    trans_date_trans_time: str
    cc_num: Int64
    merchant: str
    category: str
    amt: float
    first: str
    last: str
    zipcode: str
    dob: str
    trans_num: str
    is_fraud: Flag
    user_id: Int64


FIELDS = CardTransaction.__struct_fields__
FIELD_TYPES: dict[str, pl.DataType] = {
    name: pl.Int64() if name in ("cc_num", "is_fraud", "user_id") else pl.Float64() if name == "amt" else pl.String()
    for name in FIELDS
}
CARD_SCHEMA: dict[str, pl.DataType] = FIELD_TYPES | {
    "_topic": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": pl.Datetime("us", "UTC"),
    "_raw": pl.Binary(),
    "_error": pl.String(),
}
"""Columns of bronze/card_transactions as capture gives them (`_ingested_at` is stamped when landing)."""

_DECODER = msgspec.json.Decoder(CardTransaction)
_ENCODER = msgspec.json.Encoder()
_TIME_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-5][0-9]:[0-5][0-9]$"
_SHOWN = 80  # characters of a wrong value that an error repeats


@dataclass(frozen=True)
class RawRecords:
    """Records as a broker gave them, column by column, all of one length.

    Args:
        topic: their topic.
        partitions: partition of each.
        offsets: offset of each.
        timestamps: milliseconds since 1970 UTC, None where the broker has none.
        values: the payload; None is a tombstone.
    """

    topic: str
    partitions: Sequence[int]
    offsets: Sequence[int]
    timestamps: Sequence[int | None]
    values: Sequence[bytes | None]


def stable_user_id(last: str, first: str, dob: str) -> int:
    """The user's 64-bit signed id: BLAKE2b-64 of the three texts, each ended by a zero byte, big endian.

    The same on every machine and in every version; `dob` is taken as the text it came as.
    """
    text = "".join(f"{part}\0" for part in (last, first, dob))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def encode(record: CardTransaction) -> bytes:
    """The record as compact JSON with its keys in the order of the fields."""
    return _ENCODER.encode(record)


def decode(records: RawRecords) -> pl.DataFrame:
    """Read records into one frame of `CARD_SCHEMA`, one row each, in the order given; never raises on their content.

    A record that cannot be read has its 12 fields null, its bytes in `_raw` and the reason in `_error`, for instance
    "$.amt: expected float, got str". A good record has both null.
    """
    values = list(records.values)
    rows, errors = _decode_all(values)
    columns: dict[str, Any] = {
        name: pl.Series(name, [getattr(row, name) if row is not None else None for row in rows], dtype)
        if errors
        else pl.Series(name, [getattr(row, name) for row in rows], dtype)
        for name, dtype in FIELD_TYPES.items()
    }
    for index in _wrong_times(columns["trans_date_trans_time"]):
        text = columns["trans_date_trans_time"][index]
        errors[index] = f'$.trans_date_trans_time: expected "YYYY-MM-DD HH:MM:SS", got {_shown(text)}'
    count = len(values)
    raw: list[bytes | None] = [None] * count
    reasons: list[str | None] = [None] * count
    for index, reason in errors.items():
        raw[index], reasons[index] = values[index], reason
    columns["_topic"] = pl.repeat(records.topic, count, dtype=pl.String, eager=True)
    columns["_partition"] = pl.Series(records.partitions, dtype=pl.Int32)
    columns["_offset"] = pl.Series(records.offsets, dtype=pl.Int64)
    columns["_timestamp"] = _timestamps(records.timestamps)
    columns["_raw"] = pl.Series(raw, dtype=pl.Binary)
    columns["_error"] = pl.Series(reasons, dtype=pl.String)
    frame = pl.DataFrame(columns, schema=CARD_SCHEMA)
    if errors:  # a row whose time is wrong was read: take its fields back
        good = pl.col("_error").is_null()
        frame = frame.with_columns(pl.when(good).then(pl.col(name)).alias(name) for name in FIELDS)
    return frame


def _decode_all(values: list[bytes | None]) -> tuple[Sequence[CardTransaction | None], dict[int, str]]:
    """Each record or None, and the reason for each None by its index."""
    try:
        # All at once: a third quicker than one by one. Only when no record holds a line break of its own, so that
        # lines and records are the same; blank lines are skipped, which the count shows.
        joined = b"\n".join(values)  # type: ignore[arg-type]  # a None is a TypeError, caught below
        if joined.count(b"\n") == len(values) - 1:
            rows = _DECODER.decode_lines(joined)
            if len(rows) == len(values):
                return rows, {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        pass
    found: list[CardTransaction | None] = []
    errors: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            if value is None:
                raise msgspec.DecodeError("no value (a tombstone)")
            found.append(_DECODER.decode(value))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            found.append(None)
            errors[index] = _reason(error)
    return found, errors


def _reason(error: Exception) -> str:
    """A decoder's message as "path: expected X, got Y"."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    message = str(error).replace("`", "")
    if not isinstance(error, msgspec.ValidationError):
        return message if message.startswith("no value") else f"not JSON: {message.removeprefix('JSON is malformed: ')}"
    text, _, path = message.partition(" - at ")
    if text.startswith("Object missing required field "):
        return f"{path or '$'}.{text.removeprefix('Object missing required field ')}: required field is missing"
    return f"{path or '$'}: {text[:1].lower()}{text[1:]}"


def _wrong_times(texts: pl.Series) -> list[int]:
    """Indexes of texts that are no time of the form YYYY-MM-DD HH:MM:SS; nulls are left out."""
    times = texts.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    wrong = texts.is_not_null() & (times.is_null() | ~texts.str.contains(_TIME_SHAPE) | texts.str.starts_with("0000"))
    return wrong.arg_true().to_list()


def _timestamps(milliseconds: Sequence[int | None]) -> pl.Series:
    """Milliseconds as microsecond UTC times; beyond the years 1 to 9999, which a producer may claim, null."""
    low, high = (int(datetime(*day, tzinfo=UTC).timestamp() * 1000) for day in ((1, 1, 1), (9999, 12, 31)))
    series = pl.Series(milliseconds, dtype=pl.Int64)
    series = pl.select(pl.when(series.is_between(low, high)).then(series)).to_series()
    return (series * 1000).cast(pl.Datetime("us", "UTC"))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
