"""Sampled values of a topic: their format, and the typed fields of JSON objects. Keeps no values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from fraud_lakehouse.discovery.facts import JsonField, Topic

Format = Literal["json", "debezium", "avro", "other"]
_AVRO_HEADER = 5  # bytes before a schema registry's value: a zero, then the schema id
_MOST_FIELDS = 500  # maximum paths to count; a topic with more uses data as keys
_INT64 = 2**63
_LONGEST = 38  # digits of a decimal
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,29}\.\d{1,9}", re.ASCII)
_NAMED_TIME = re.compile(r"(^|_)(at|on|time|timestamp|ts|date|datetime|created|updated|millis|ms|epoch)(_|$)")
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST, _LAST = 946_684_800, 4_102_444_800  # seconds: the years 2000 to 2099
_UNFIT_KEY = re.compile(r'[."\\]')


def words_of(name: str) -> str:
    """A name in snake case: `senderId` is `sender_id`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def topic_of(name: str, partitions: int, values: Sequence[bytes | None]) -> Topic:
    """A summary of sampled values, without nulls (tombstones)."""
    there = [value for value in values if value is not None]
    if not there:
        return Topic(name, partitions, "none")
    read = [_read(value) for value in there]
    counted = Counter(kind for kind, _ in read)
    kind: Format = max(counted, key=lambda one: counted[one])
    records = [record for found, record in read if found == kind and record is not None]
    fields = tuple(_fields(records)) if kind == "json" else ()
    return Topic(name, partitions, kind, len(there), len(there) - counted[kind], fields)


def _read(value: bytes) -> tuple[Format, dict[str, Any] | None]:
    """A value's format, and the decoded object."""
    if value[:1] == b"\0" and len(value) > _AVRO_HEADER:
        return "avro", None
    try:
        record = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "other", None
    if not isinstance(record, dict):
        return "other", None
    inner = record.get("payload") if "schema" in record else record
    if isinstance(inner, dict) and "op" in inner and ("before" in inner or "after" in inner):
        return "debezium", record
    return "json", record


@dataclass
class _Seen:
    """What was found at a path."""

    kinds: set[str] = field(default_factory=set)
    present: int = 0
    values: set[Any] = field(default_factory=set)
    least: float = 0.0
    greatest: float = 0.0
    longest: int = 0


def _fields(records: Sequence[dict[str, Any]]) -> Iterable[JsonField]:
    seen: dict[tuple[str, ...], _Seen] = {}
    for record in records:
        _note(record, (), seen)
    mixed = {path for path, one in seen.items() if "object" in one.kinds and len(one.kinds) > 1}
    for path, one in seen.items():
        if one.kinds == {"object"}:
            continue
        found = _field(path, one, len(records))
        if any(path[:depth] in mixed for depth in range(1, len(path))):
            found = replace(found, type="", unit="", note="its parent is not always an object")
        yield found


def _note(record: dict[str, Any], at: tuple[str, ...], seen: dict[tuple[str, ...], _Seen]) -> None:
    for key, value in record.items():
        path = (*at, key)
        if path not in seen and len(seen) >= _MOST_FIELDS:
            continue
        one = seen.setdefault(path, _Seen())
        if value is None:
            continue
        one.kinds.add(_kind(value))
        if isinstance(value, dict):
            _note(value, path, seen)
            continue
        one.present += 1
        if isinstance(value, int | float):
            one.least = min(one.least, value) if one.values else value
            one.greatest = max(one.greatest, value) if one.values else value
        if not isinstance(value, list):
            one.longest = max(one.longest, len(str(value)))
            one.values.add(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int64" if -_INT64 <= value < _INT64 else "integer"
    if isinstance(value, float):
        return "double"
    if isinstance(value, dict | list):
        return "object" if isinstance(value, dict) else "array"
    if found := _TIME.fullmatch(value):
        return "timestamptz" if found["zone"] else "timestamp"
    if _DATE.fullmatch(value):
        return "date"
    return "decimal" if _DECIMAL.fullmatch(value) else "string"


_TEXTS = {"timestamptz", "timestamp", "date", "decimal", "string"}


def _field(path: tuple[str, ...], seen: _Seen, records: int) -> JsonField:
    kind, note = _type_of(seen)
    unit = ""
    if not all(key and key.isprintable() and not _UNFIT_KEY.search(key) and not key.isdecimal() for key in path):
        kind, note = "", "a path cannot name this key"
    elif kind == "int64" and _NAMED_TIME.search(words_of(path[-1])) and (unit := _unit(seen)):
        kind, note = "timestamptz", f"a number that looks like a time in {unit} since 1970"
    are_flags = kind == "boolean" or (kind == "int64" and seen.values <= {0, 1})
    if 0 < seen.present < records:
        note = f"{note}; " if note else ""
        note += f"{seen.present} of {records} records have it"
    return JsonField(path, kind, unit, seen.present, len(seen.values), are_flags, note)


def _type_of(seen: _Seen) -> tuple[str, str]:
    """The type (empty if none fits all values), and a note."""
    kinds = seen.kinds
    if not kinds:
        return "", "null in all records"
    if len(kinds) == 1:
        [kind] = kinds
        if kind == "array":
            return "", "an array; one element is declared by its position, as in path: items.0.price"
        if kind == "decimal":
            return "decimal(38,9)", "a decimal number in a text"
        if kind == "integer":
            return (f"decimal({_LONGEST},0)" if seen.longest <= _LONGEST else ""), "larger than 64 bits"
        return kind, ""
    if kinds <= _TEXTS:
        return "string", f"texts of several forms: {', '.join(sorted(kinds))}"
    if kinds == {"int64", "double"}:
        return "double", ""
    if kinds == {"int64", "integer"} and seen.longest <= _LONGEST:
        return f"decimal({_LONGEST},0)", "some are larger than 64 bits"
    return "", f"values of several types ({', '.join(sorted(kinds))}), which no declared type can read"


def _unit(seen: _Seen) -> str:
    for unit, size in _UNITS.items():
        if _FIRST * size <= seen.least and seen.greatest < _LAST * size:
            return unit
    return ""
