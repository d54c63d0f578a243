"""Values of card records into columns: a whole chunk at once where it is proven plain, else one by one.

Plain means: every record is one flat object of exactly the twelve fields, each there once and of its type. Whatever is
not plain is read strictly by itself, so that its neighbours never matter. Both ways give the same (tested).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import polars as pl
import pyarrow as pa

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]


class CardTransaction(msgspec.Struct, gc=False):
    """One record; the order of the fields is the order of the keys when written.

    `amt` takes integers as well as decimals; `is_fraud` is 0 or 1.
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
TOMBSTONE = "no value (a tombstone)"
"""`_error` of a record without a value: on a compacted topic, the deletion of its key."""

MAX_RECORD_BYTES = 1024 * 1024
"""Default of FRAUD_MAX_RECORD_BYTES: the longest value that is read."""

_TEXTS = sum(kind == pl.String for kind in FIELD_TYPES.values())
_QUOTES = 2 * (len(FIELDS) + _TEXTS)
_PIECE = 1_000  # records; a chunk with something odd in it is tried again in pieces of these
_TIME_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-5][0-9]:[0-5][0-9]$"
_SHOWN = 80  # characters of a wrong value that an error repeats
_READER = msgspec.json.Decoder(CardTransaction)
_ANY_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WRITER = msgspec.json.Encoder()


@dataclass
class ReadValues:
    """Values as columns.

    Args:
        frame: columns of `FIELD_TYPES`, one row a value, all null where it could not be read.
        errors: by row, why it could not be read.
        extras: by row, the fields beyond the twelve as the text of a JSON object.
    """

    frame: pl.DataFrame
    errors: dict[int, str] = field(default_factory=dict)
    extras: dict[int, str] = field(default_factory=dict)


class _RecordError(Exception):
    """Why a record cannot be read."""


def read_values(values: Sequence[bytes | None], most_bytes: int = MAX_RECORD_BYTES) -> ReadValues:
    """Read values strictly, in their order; never raises on their content.

    Args:
        values: the payloads; None is a tombstone.
        most_bytes: a longer value is not looked into.
    """
    frame = _read_plain(values, most_bytes)
    if frame is not None:
        return ReadValues(frame)
    if len(values) <= _PIECE:
        return _read_each(values, most_bytes)
    read = ReadValues(pl.DataFrame(schema=FIELD_TYPES))
    frames = []
    for start in range(0, len(values), _PIECE):
        piece = read_values(values[start : start + _PIECE], most_bytes)
        frames.append(piece.frame)
        read.errors |= {start + row: reason for row, reason in piece.errors.items()}
        read.extras |= {start + row: text for row, text in piece.extras.items()}
    read.frame = pl.concat(frames, rechunk=False)
    return read


def _read_plain(values: Sequence[bytes | None], most_bytes: int) -> pl.DataFrame | None:
    """The columns of values that are all plain and good, else None."""
    if None in values or not values:
        return None
    lines = b"\n".join(values)  # type: ignore[arg-type]  # no None among them
    if not _only_twelve(lines, len(values)):
        return None
    if not _are_short(lines, most_bytes) and max(map(len, values)) > most_bytes:  # type: ignore[arg-type]
        return None
    try:
        frame = pl.scan_ndjson(io.BytesIO(lines), schema=FIELD_TYPES).collect()
    except pl.exceptions.PolarsError:
        return None
    if frame.height != len(values) or any(column.null_count() for column in frame.iter_columns()):
        return None
    flags, times = frame["is_fraud"], frame["trans_date_trans_time"].unique()
    if (flags < 0).any() or (flags > 1).any():
        return None
    return None if _wrong_times(times).any() else frame


def _are_short(lines: bytes, most_bytes: int) -> bool:
    """Whether no line can be longer: the half of one that is would be a whole one of these parts, without its end."""
    part = max(most_bytes // 2, 1)
    return all(lines.find(b"\n", start, start + part) >= 0 for start in range(0, len(lines) - part + 1, part))


def _only_twelve(joined: bytes, lines: int) -> bool:
    """Whether lines in which the parser finds all twelve fields hold nothing else, and text where text belongs.

    polars ignores further fields and turns any value into text. Twelve keys a line leave 2 x 8 of the 40 quotes of a
    line for eight texts; that many `":"` (a key and its text) are seen: so no further key, no text elsewhere.
    """
    if b"[" in joined:  # in ["":""] a `":"` may be a text that belongs to no key
        return False
    bare = joined
    if b"\\" in joined:
        if b"\\ud" in joined or b"\\uD" in joined:  # half a surrogate pair: the parsers differ
            return False
        bare = joined.replace(b"\\\\", b"").replace(b'\\"', b"")
    octets = pl.Series(pl.from_arrow(pa.Array.from_buffers(pa.uint8(), len(bare), [None, pa.py_buffer(bare)])))
    quotes = octets == ord('"')
    if (octets == ord("\n")).sum() != lines - 1 or quotes.sum() != _QUOTES * lines:
        return False
    if b'": "' in bare[: bare.find(b"\n")]:
        texts = bare.count(b'": "')
    else:
        seen = quotes[:-2] & (octets[1:-1] == ord(":")) & quotes[2:]
        texts = int((seen & ~seen.shift(2, fill_value=False)).sum())  # of `":":"`, a key and the text ":", only one
    return texts == _TEXTS * lines


def _read_each(values: Sequence[bytes | None], most_bytes: int) -> ReadValues:
    rows: list[CardTransaction | None] = []
    read = ReadValues(pl.DataFrame(schema=FIELD_TYPES))
    for index, value in enumerate(values):
        try:
            row, extra = _read_one(value, most_bytes)
        except _RecordError as error:
            rows.append(None)
            read.errors[index] = str(error)
        else:
            rows.append(row)
            if extra is not None:
                read.extras[index] = extra
    times = pl.Series("time", [row and row.trans_date_trans_time for row in rows], pl.String)
    for index in _wrong_times(times).arg_true().to_list():
        text = times[index]
        shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
        read.errors[index] = f'$.trans_date_trans_time: expected "YYYY-MM-DD HH:MM:SS", got {shown}'
        rows[index] = None
        read.extras.pop(index, None)
    columns = []
    for name, kind in FIELD_TYPES.items():
        of = attrgetter(name)
        columns.append(pl.Series(name, [None if row is None else of(row) for row in rows], kind))
    read.frame = pl.DataFrame(columns)
    return read


def _read_one(value: bytes | None, most_bytes: int) -> tuple[CardTransaction, str | None]:
    """The record and its further fields as JSON text.

    Raises:
        _RecordError: as "path: expected X, got Y", for instance "$.amt: expected float, got str".
    """
    if value is None:
        raise _RecordError(TOMBSTONE)
    if len(value) > most_bytes:
        raise _RecordError(f"longer than FRAUD_MAX_RECORD_BYTES: {len(value)} bytes, at most {most_bytes} are read")
    try:
        row = _READER.decode(value)
        found = _ANY_FIELDS.decode(value)
        # A repeated key is in `found` once: what is written again is shorter. So are blanks and escapes in keys.
        if len(_WRITER.encode(found)) != len(value) and (name := _repeated_key(value)) is not None:
            raise _RecordError(f"$.{name[:_SHOWN]}: there more than once")
        extra = {name: text for name, text in found.items() if name not in FIELD_TYPES}
        return row, _WRITER.encode(extra).decode() if extra else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _RecordError(_reason(error)) from None


def _repeated_key(value: bytes) -> str | None:
    """A key that the outermost object has twice."""
    objects: list[list[str]] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        objects[:] = [[name for name, _ in pairs]]  # the outermost comes last

    json.loads(value, object_pairs_hook=note, parse_int=str, parse_float=str)
    seen: set[str] = set()
    return next((name for name in objects[0] if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _reason(error: Exception) -> str:
    """A decoder's message as "path: expected X, got Y"."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    message = str(error).replace("`", "")
    if not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {message.removeprefix('JSON is malformed: ')}"
    text, _, path = message.partition(" - at ")
    if text.startswith("Object missing required field "):
        return f"{path or '$'}.{text.removeprefix('Object missing required field ')}: required field is missing"
    return f"{path or '$'}: {text[:1].lower()}{text[1:]}"


def _wrong_times(texts: pl.Series) -> pl.Series:
    """Whether each text is no time of the form YYYY-MM-DD HH:MM:SS; null where there is no text."""
    text = pl.col(texts.name)
    time = text.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    wrong = time.is_null() | ~text.str.contains(_TIME_SHAPE) | text.str.starts_with("0000")
    return texts.to_frame().select(text.is_not_null() & wrong).to_series()
