"""JSON values of declared fields into columns: a whole chunk at once where it is proven plain, else one by one.

Plain means: every record is one flat object of exactly the declared fields, each there once and of its type. Whatever
is not plain is read strictly by itself, so that its neighbours never matter. Both ways give the same (tested).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from fraud_lakehouse.pipeline import Field, Node, path_tree
from fraud_lakehouse.sources.kafka.formats.shape import Reader, getter
from fraud_lakehouse.sources.kafka.formats.values import ValueType, shown, value_type

TOMBSTONE = "no value (a tombstone)"
"""`_error` of a record without a value: on a compacted topic, the deletion of its key."""

MAX_RECORD_BYTES = 1024 * 1024
"""Default of FRAUD_MAX_RECORD_BYTES: the longest value that is read."""

_PIECE = 1_000  # records; a chunk with something odd in it is tried again in pieces of these
_AT_ONCE = ("string", "int32", "int64", "double", "boolean")
"""Types that polars' parser reads as strictly as msgspec's, where texts are where they belong."""
_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_ -]+")
_TIME_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-5][0-9]:[0-5][0-9]$"
_SHOWN_NAME = 80  # characters of a key that an error repeats
_ANY_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_WRITER = msgspec.json.Encoder()
_NULL = b"null"


@dataclass
class ReadValues:
    """Values as columns.

    Args:
        frame: the declared fields, one row a value, all null where it could not be read.
        errors: by row, why it could not be read.
        extras: by row, what is not declared as the text of a JSON object.
    """

    frame: pl.DataFrame
    errors: dict[int, str] = field(default_factory=dict)
    extras: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Leaf:
    """A declared field; `get` takes its value, not converted, out of a record that was read."""

    field: Field
    type: ValueType
    get: Callable[[Any], Any]

    @property
    def place(self) -> str:
        """Where it is, as errors name it."""
        keys = self.field.path.split(".")
        return "$" + "".join(f"[{key}]" if key.isdecimal() else f".{key}" for key in keys)


class RecordError(Exception):
    """Why a record cannot be read."""


class JsonDecoder:
    """Reads values of one topic.

    Args:
        fields: what is declared; the order of the columns.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._root = path_tree(fields)
        self._reader = Reader(self._root)
        self._leaves = [_Leaf(one, value_type(one), getter(self._root, one.path)) for one in fields]
        self.schema: dict[str, pl.DataType] = {leaf.field.name: leaf.type.column for leaf in self._leaves}
        """The declared fields as columns."""
        self._keys = {leaf.field.path: leaf.type.column for leaf in self._leaves}
        self._texts = sum(one.type == "string" for one in fields)
        self._is_flat = all(
            one.type in _AT_ONCE and not one.optional and _SIMPLE_KEY.fullmatch(one.path) for one in fields
        )

    def read(self, values: Sequence[bytes | None], most_bytes: int = MAX_RECORD_BYTES) -> ReadValues:
        """Read values strictly, in their order; never raises on their content.

        Args:
            values: the payloads; None is a tombstone.
            most_bytes: a longer value is not looked into.
        """
        frame = self._read_plain(values, most_bytes)
        if frame is not None:
            return ReadValues(frame)
        if len(values) <= _PIECE or not self._is_flat:
            return self._read_each(values, most_bytes)
        read = ReadValues(pl.DataFrame(schema=self.schema))
        frames = []
        for start in range(0, len(values), _PIECE):
            piece = self.read(values[start : start + _PIECE], most_bytes)
            frames.append(piece.frame)
            read.errors |= {start + row: reason for row, reason in piece.errors.items()}
            read.extras |= {start + row: text for row, text in piece.extras.items()}
        read.frame = pl.concat(frames, rechunk=False)
        return read

    def _read_plain(self, values: Sequence[bytes | None], most_bytes: int) -> pl.DataFrame | None:
        """The columns of values that are all plain and good, else None."""
        if not self._is_flat or None in values or not values:
            return None
        lines = b"\n".join(values)  # type: ignore[arg-type]  # no None among them
        if not self._only_declared(lines, len(values)):
            return None
        if not _are_short(lines, most_bytes) and max(map(len, values)) > most_bytes:  # type: ignore[arg-type]
            return None
        try:
            frame = pl.scan_ndjson(io.BytesIO(lines), schema=self._keys).collect()
        except pl.exceptions.PolarsError:
            return None
        if frame.height != len(values) or any(column.null_count() for column in frame.iter_columns()):
            return None
        frame.columns = list(self.schema)
        return None if any(_is_wrong(leaf, frame[leaf.field.name]) for leaf in self._leaves) else frame

    def _only_declared(self, joined: bytes, lines: int) -> bool:
        """Whether lines in which the parser finds all fields hold nothing else, and text where text belongs.

        polars ignores further fields and turns any value into text. N keys a line leave 2 x T of the quotes of a line
        for T texts; that many `":"` (a key and its text) are seen: so no further key, no text elsewhere.
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
        most = 2 * (len(self._leaves) + self._texts) * lines
        if (octets == ord("\n")).sum() != lines - 1 or quotes.sum() != most:
            return False
        if b'": "' in bare[: bare.find(b"\n")]:
            texts = bare.count(b'": "')
        else:
            seen = quotes[:-2] & (octets[1:-1] == ord(":")) & quotes[2:]
            texts = int((seen & ~seen.shift(2, fill_value=False)).sum())  # of `":":"`, a key and the text ":", only one
        return texts == self._texts * lines

    def _read_each(self, values: Sequence[bytes | None], most_bytes: int) -> ReadValues:
        rows: list[Any] = []
        read = ReadValues(pl.DataFrame(schema=self.schema))
        for index, value in enumerate(values):
            try:
                row, extra = self._read_one(value, most_bytes)
            except RecordError as error:
                rows.append(None)
                read.errors[index] = str(error)
            else:
                rows.append(row)
                if extra is not None:
                    read.extras[index] = extra
        columns = []
        for leaf in self._leaves:
            get = leaf.get
            columns.append([None if row is None else get(row) for row in rows])
        wrong: dict[int, str] = {}
        for leaf, column in zip(self._leaves, columns, strict=True):
            _convert(leaf, column, wrong)
        for index in wrong:
            read.extras.pop(index, None)
            for column in columns:
                column[index] = None
        read.errors |= wrong
        read.frame = pl.DataFrame(
            [leaf.type.series(leaf.field.name, column) for leaf, column in zip(self._leaves, columns, strict=True)]
        )
        return read

    def _read_one(self, value: bytes | None, most_bytes: int) -> tuple[Any, str | None]:
        """The record, and what is not declared of it as JSON text.

        Raises:
            RecordError: as "path: expected X, got Y", for instance "$.amt: expected float, got str".
        """
        value = check_value(value, most_bytes)
        try:
            row = self._reader.read(value)
            extra = _undeclared(self._root, value, "$")
            return row, _WRITER.encode(extra).decode() if extra else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(reason_of(error)) from None


def _convert(leaf: _Leaf, column: list[Any], wrong: dict[int, str]) -> None:
    """Turn what was read into values of the column; where it is none, the row and why are added to `wrong`."""
    if leaf.type.json is msgspec.Raw and leaf.field.optional:
        column[:] = [None if raw is None or bytes(raw) == _NULL else raw for raw in column]
    if leaf.type.convert is not None:
        for index, value in enumerate(column):
            if value is None:
                continue
            try:
                column[index] = leaf.type.convert(value)
            except ValueError as error:
                wrong.setdefault(index, f"{leaf.place}: {error}")
    if leaf.field.form is not None:
        for index in _wrong_times(pl.Series("time", column, pl.String)).arg_true().to_list():
            reason = f'{leaf.place}: expected "{leaf.field.form}", got {shown(column[index])}'
            wrong.setdefault(index, reason)


def _is_wrong(leaf: _Leaf, column: pl.Series) -> bool:
    """Whether a column of a type that fits has a value out of its declared range or form."""
    if leaf.field.minimum is not None and (column < leaf.field.minimum).any():
        return True
    if leaf.field.maximum is not None and (column > leaf.field.maximum).any():
        return True
    return leaf.field.form is not None and bool(_wrong_times(column.unique()).any())


def _are_short(lines: bytes, most_bytes: int) -> bool:
    """Whether no line can be longer: the half of one that is would be a whole one of these parts, without its end."""
    part = max(most_bytes // 2, 1)
    return all(lines.find(b"\n", start, start + part) >= 0 for start in range(0, len(lines) - part + 1, part))


def _undeclared(node: Node, value: bytes, place: str) -> dict[str, Any]:
    """What of an object is not declared; of nested objects what is not declared in them, of arrays all.

    Raises:
        RecordError: a key is there twice in an object with declared fields.
    """
    found = _ANY_FIELDS.decode(value)
    if (name := _repeated_key(value, found)) is not None:
        raise RecordError(f"{place}.{name[:_SHOWN_NAME]}: there more than once")
    children = node.children
    others: dict[str, Any] = {name: text for name, text in found.items() if name not in children}
    for name, child in node.inner.items():
        text = bytes(found.get(name, _NULL))
        if text != _NULL and (inner := _undeclared_inside(child, text, f"{place}.{name}")):
            others[name] = inner
    return others


def _undeclared_inside(node: Node, value: bytes, place: str) -> Any:
    """As `_undeclared`, of an object or an array."""
    if not node.is_array:
        return _undeclared(node, value, place)
    elements = _ANY_ELEMENTS.decode(value)
    for key, child in node.inner.items():  # for repeated keys: an array is kept whole, or positions would change
        if int(key) < len(elements) and (element := bytes(elements[int(key)])) != _NULL:
            _undeclared_inside(child, element, f"{place}[{key}]")
    return msgspec.Raw(value)


def _repeated_key(value: bytes, found: dict[str, msgspec.Raw]) -> str | None:
    """A key that the outermost object has twice."""
    # It is in `found` once: what is written again is shorter. Without blanks it is, too, without escapes in keys; these
    # take Python's parser, which is far slower.
    if len(_WRITER.encode(found)) == len(value):
        return None
    compact = msgspec.json.format(value, indent=-1)
    if len(_WRITER.encode(_ANY_FIELDS.decode(compact))) == len(compact):
        return None
    objects: list[list[str]] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        objects[:] = [[name for name, _ in pairs]]  # the outermost comes last

    json.loads(value, object_pairs_hook=note, parse_int=str, parse_float=str)
    seen: set[str] = set()
    return next((name for name in objects[0] if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def check_value(value: bytes | None, most_bytes: int) -> bytes:
    """The value.

    Raises:
        RecordError: there is none, or it is too long.
    """
    if value is None:
        raise RecordError(TOMBSTONE)
    if len(value) > most_bytes:
        raise RecordError(f"longer than FRAUD_MAX_RECORD_BYTES: {len(value)} bytes, at most {most_bytes} are read")
    return value


def reason_of(error: Exception) -> str:
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
