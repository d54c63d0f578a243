"""Types of declared fields: the column of each, what JSON may have for it, and how that becomes the column's value.

Nothing is rounded or guessed: a value that its column cannot hold exactly is an error. Only times finer than a
microsecond are cut to microseconds.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import polars as pl

from fraud_lakehouse.pipeline import Field

_BITS = {"int32": 32, "int64": 64}
_COLUMNS: dict[str, pl.DataType] = {
    "string": pl.String(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "timestamp": pl.Datetime("us"),
    "timestamptz": pl.Datetime("us", "UTC"),
    "date": pl.Date(),
    "time": pl.String(),
    "binary": pl.Binary(),
    "json": pl.String(),
}
_PLAIN: dict[str, type] = {"string": str, "double": float, "boolean": bool}
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}
"""Microseconds of a unit; of nanoseconds a thousand are one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_END = (datetime(9999, 12, 31, tzinfo=UTC) + timedelta(days=1, microseconds=-1) - _EPOCH) // _MICROSECOND
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?:(:\d\d)(?:[.,](\d{1,9}))?)?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK = re.compile(r"([01]\d|2[0-4]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d(:?\d\d)?)?", re.ASCII)
_NUMBER = re.compile(rb'(-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,6})?)|"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,6})?)"')
_SHOWN = 80  # characters of a wrong value that an error repeats


@dataclass(frozen=True)
class ValueType:
    """How values of one field are read.

    Args:
        column: the column's type.
        json: the type that msgspec reads it as.
        convert: the column's value of what was read; raises ValueError with "expected X, got Y". None: it is the value.
            Times are counted in microseconds since 1970.
        least, greatest: of integers.
    """

    column: pl.DataType
    json: Any
    convert: Callable[[Any], Any] | None = None
    least: int | None = None
    greatest: int | None = None

    def series(self, name: str, values: list[Any]) -> pl.Series:
        """Values that were read and converted, as a column."""
        if isinstance(self.column, pl.Datetime):
            return pl.Series(name, values, pl.Int64).cast(self.column)
        return pl.Series(name, values, self.column)


def value_type(field: Field) -> ValueType:
    """The type of a declared field."""
    column = column_type(field.type)
    if field.type in _BITS:
        end: int = 2 ** (_BITS[field.type] - 1)
        least = -end if field.minimum is None else max(field.minimum, -end)
        greatest = end - 1 if field.maximum is None else min(field.maximum, end - 1)
        return ValueType(column, Annotated[int, msgspec.Meta(ge=least, le=greatest)], None, least, greatest)
    if field.type in _PLAIN:
        return ValueType(column, _PLAIN[field.type])
    if isinstance(column, pl.Decimal):
        return ValueType(column, msgspec.Raw, lambda raw: _decimal(raw, column))
    if field.type == "date":
        return ValueType(column, str, _date)
    if field.type == "time":
        return ValueType(column, str, time_of_day)
    if field.type == "binary":
        return ValueType(column, str, _binary)
    if field.type == "json":
        return ValueType(column, msgspec.Raw, _json)
    if field.unit is not None:
        unit = field.unit
        return ValueType(column, Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], lambda at: _count(at, unit))
    has_zone = field.type == "timestamptz"
    return ValueType(column, str, lambda text: microseconds_of(text, has_zone=has_zone))


def column_type(declared: str) -> pl.DataType:
    """The column of a declared type."""
    if declared.startswith("decimal"):
        precision, scale = declared.removeprefix("decimal(").removesuffix(")").split(",")
        return pl.Decimal(int(precision), int(scale))
    return _COLUMNS[declared]


def shown(text: str) -> str:
    """A wrong value as an error repeats it."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _decimal(raw: msgspec.Raw, kind: pl.Decimal) -> Decimal:
    text = bytes(raw)
    found = _NUMBER.fullmatch(text)
    expected = f"expected decimal({kind.precision},{kind.scale})"
    if found is None:
        raise ValueError(f"{expected}, got {shown(text.decode(errors='backslashreplace'))}")
    number = exact_decimal(Decimal((found[1] or found[2]).decode()), kind)
    if number is None:
        raise ValueError(f"{expected}, got {shown(text.decode())}")
    return number


def exact_decimal(number: Decimal, kind: pl.Decimal) -> Decimal | None:
    """The number without zeros at its end; None where the column cannot hold it exactly."""
    if not number:
        return Decimal(0)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if -exponent - zeros > kind.scale or number.adjusted() >= (kind.precision or 0) - kind.scale:
        return None
    return Decimal((sign, digits[: len(digits) - zeros], exponent + zeros))


def _json(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    if text == "null":
        raise ValueError("expected a value, got null")
    return text


def time_of_day(text: str) -> str:
    """A time of day, perhaps with a zone.

    Raises:
        ValueError: it is none.
    """
    if _CLOCK.fullmatch(text):
        return text
    raise ValueError(f"expected a time of day such as 12:30:00, got {shown(text)}")


def microseconds_of(text: str, *, has_zone: bool) -> int:
    """A time as microseconds since 1970, in UTC where it has a zone.

    Raises:
        ValueError: it is none, or has a zone where none is expected, or the other way round.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a time such as 2024-01-31T12:00:00, got {shown(text)}")
    day, minute, second, fraction, zone = found.groups()
    if has_zone and zone is None:
        raise ValueError(f"expected a time with a zone (timestamptz), got {shown(text)}")
    if zone is not None and not has_zone:
        raise ValueError(f"expected a time without a zone (timestamp), got {shown(text)}")
    try:
        moment = datetime.fromisoformat(f"{day} {minute}{second or ':00'}").replace(tzinfo=_zone(zone) if zone else UTC)
    except ValueError as error:
        raise ValueError(f"expected a time, got {shown(text)} ({error})") from None
    since = (moment - _EPOCH) // _MICROSECOND
    return within_years(since + int((fraction or "")[:6].ljust(6, "0")), text)


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[3:].removeprefix(":") or 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _count(number: int, unit: str) -> int:
    return within_years(number // 1_000 if unit == "ns" else number * UNITS[unit], f"{number} {unit}")


def within_years(microseconds: int, text: str) -> int:
    """Microseconds since 1970 that are a time of the years 1 to 9999.

    Raises:
        ValueError: they are not; it repeats the text.
    """
    if not _FIRST <= microseconds <= _END:
        raise ValueError(f"expected a time of the years 1 to 9999, got {shown(text)}")
    return microseconds


def _date(text: str) -> date:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"expected a date such as 2024-01-31, got {shown(text)}")


def _binary(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"expected bytes in base64, got {shown(text)}") from None
