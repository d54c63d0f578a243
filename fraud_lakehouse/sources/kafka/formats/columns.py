"""Values that a change event or Avro has for one field into a typed column: all at once where they are plain.

Nothing is rounded or guessed, as in `values.py`; here a value's writing (`encoding.py`) is known besides its type.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from binascii import a2b_base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.formats.encoding import Encoding
from fraud_lakehouse.sources.kafka.formats.values import (
    UNITS,
    exact_decimal,
    microseconds_of,
    shown,
    time_of_day,
    value_type,
    within_years,
)

UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium writes for a large value that an update left as it was."""

_MARKS = frozenset((UNAVAILABLE, UNAVAILABLE.encode()))
_MARKS_IN_TEXT = _MARKS | {"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", UNAVAILABLE.encode().hex()}
_LARGE = ("string", "binary", "json")
_DAY = timedelta(days=1)
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 from 1970-01-01
_ZONED = r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}(\.[0-9]{1,6})?Z$"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_HEX = re.compile(r"([0-9a-fA-F]{2})*")
_JSON = msgspec.json.Encoder(decimal_format="number")


@dataclass
class ReadColumn:
    """Values as a column.

    Args:
        wrong: by row, "expected X, got Y"; the column is null there.
        unchanged: the rows whose value was left out since it did not change; the column is null there, too.
    """

    series: pl.Series
    wrong: dict[int, str] = field(default_factory=dict)
    unchanged: list[int] = field(default_factory=list)


class ColumnReader:
    """Reads the values of one declared field.

    Args:
        encoding: how they are written.
    """

    def __init__(self, declared: Field, encoding: Encoding) -> None:
        self._field = declared
        self._encoding = encoding
        self._type = value_type(declared)
        kind = declared.type.partition("(")[0]
        self._one: Callable[[Any], Any] = getattr(self, f"_{kind}")

    def read(self, values: list[Any]) -> ReadColumn:
        """The column of values, None among them.

        Args:
            values: as a parser of JSON (decimals for numbers with a point) or Avro gives them; changed in place.
        """
        name, kinds = self._field.name, set(map(type, values)) - {NoneType}
        if not kinds:
            return ReadColumn(pl.Series(name, [None], self._type.column).new_from_index(0, len(values)))
        unchanged = self._without_marks(values) if self._field.type in _LARGE or bytes in kinds else []
        if len(kinds) == 1 and (series := self._at_once(values, kinds.pop())) is not None:
            return ReadColumn(series.alias(name), {}, unchanged)
        wrong: dict[int, str] = {}
        for row, value in enumerate(values):
            if value is not None:
                try:
                    values[row] = self._one(value)
                except (ValueError, OverflowError, RecursionError) as error:
                    values[row] = None
                    wrong[row] = str(error)
        return ReadColumn(self._type.series(name, values), wrong, unchanged)

    def _without_marks(self, values: list[Any]) -> list[int]:
        """Make the values null that were left out; their rows."""
        marks = _MARKS_IN_TEXT if self._field.type == "binary" else _MARKS
        if not any(mark in values for mark in marks) and [UNAVAILABLE] not in values:
            return []
        rows = [
            row for row, value in enumerate(values) if value == [UNAVAILABLE] or (_is_text(value) and value in marks)
        ]
        for row in rows:
            values[row] = None
        return rows

    def _at_once(self, values: list[Any], kind: type) -> pl.Series | None:
        """The column, where all values are of one Python type and plain; else None."""
        declared, column = self._field.type, self._type.column
        if (declared, kind) in {("string", str), ("boolean", bool), ("binary", bytes)}:
            return pl.Series(values, dtype=column)
        if kind is int and declared in ("int32", "int64", "timestamp", "timestamptz", "date"):
            return self._integers(values)
        if kind is str and declared == "timestamptz":
            texts = pl.Series(values, dtype=pl.String)
            if texts.str.contains(_ZONED).all():
                times = texts.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", strict=False)
                if times.null_count() == texts.null_count():
                    return times.dt.replace_time_zone("UTC")
            return None
        if isinstance(column, pl.Decimal):
            return self._decimals(values, kind, column)
        return None

    def _integers(self, values: list[Any]) -> pl.Series | None:
        declared, present = self._field.type, [value for value in values if value is not None]
        least, greatest = min(present), max(present)
        if declared in ("int32", "int64"):
            assert self._type.least is not None and self._type.greatest is not None
            if least < self._type.least or greatest > self._type.greatest:
                return None
            return pl.Series(values, dtype=self._type.column)
        unit = self._encoding.unit
        if declared == "date":
            if unit != "d" or least < _FIRST_DAY or greatest > _LAST_DAY:
                return None
            return pl.Series(values, dtype=pl.Int32).cast(pl.Date)
        if unit not in ("ms", "us"):
            return None
        factor = UNITS[unit]
        try:
            within_years(least * factor, "")
            within_years(greatest * factor, "")
        except ValueError:
            return None
        return (pl.Series(values, dtype=pl.Int64) * factor).cast(self._type.column)

    def _decimals(self, values: list[Any], kind: type, column: pl.Decimal) -> pl.Series | None:
        scale, precision = column.scale, column.precision or 38
        if self._encoding.scale is None:
            if kind is not str:
                return None
            texts = pl.Series(values, dtype=pl.String)
            whole = max(precision - scale, 1)
            fraction = rf"(\.[0-9]{{1,{scale}}})?" if scale else ""
            fits = texts.str.contains(rf"^-?[0-9]{{1,{whole}}}{fraction}$").all() and precision > scale
            return texts.cast(column) if fits else None
        if self._encoding.scale != scale or kind not in (str, bytes):
            return None
        try:
            data = [b"\0" if value is None else _data(value) for value in values]
        except ValueError:
            return None
        unscaled = [int.from_bytes(one, "big", signed=True) for one in data]
        if b"" in data or max(map(abs, unscaled)) >= 10 ** min(precision, 18):
            return None
        halves = np.zeros((len(values), 2), np.int64)
        halves[:, 0] = unscaled
        halves[:, 1] = halves[:, 0] >> 63
        numbers = pa.Array.from_buffers(
            pa.decimal128(precision, scale), len(values), [None, pa.py_buffer(halves.tobytes())]
        )
        series = pl.Series(pl.from_arrow(numbers))
        if None in values:
            series = series.set(pl.Series([value is None for value in values]), None)
        return series

    def _number(self, value: Any) -> Decimal | int:
        """The exact number that a value is.

        Raises:
            ValueError: it is none.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        scale = self._encoding.scale
        try:
            if isinstance(value, dict) and value.keys() == {"scale", "value"}:  # VariableScaleDecimal
                return _scaled(value["value"], int(value["scale"]))
            if isinstance(value, bytes) or (isinstance(value, str) and scale is not None):
                if scale is None:
                    raise self._unexpected(value)
                return _scaled(value, scale)
            if isinstance(value, float):
                value = repr(value)
            if isinstance(value, Decimal) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
                return Decimal(value)
        except (ArithmeticError, TypeError, ValueError):
            pass
        raise self._unexpected(value)

    def _unexpected(self, value: Any) -> ValueError:
        written = "" if self._encoding.scale is None or not isinstance(value, str) else " in base64 (decimals: precise)"
        return ValueError(f"expected {self._field.type}{written}, got {_shown(value)}")

    def _decimal(self, value: Any) -> Decimal:
        assert isinstance(self._type.column, pl.Decimal)
        number = exact_decimal(Decimal(self._number(value)), self._type.column)
        if number is None:
            raise self._unexpected(value)
        return number

    def _int64(self, value: Any) -> int:
        number = self._number(value)
        if isinstance(number, Decimal):
            if number.adjusted() > 20 or number != number.to_integral_value():
                raise self._unexpected(value)
            number = int(number)
        assert self._type.least is not None and self._type.greatest is not None
        if not self._type.least <= number <= self._type.greatest:
            raise ValueError(
                f"expected {self._field.type} from {self._type.least} to {self._type.greatest}, got {number}"
            )
        return number

    _int32 = _int64

    def _double(self, value: Any) -> float:
        if isinstance(value, float):
            return value
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        number = float(self._number(value))
        if number in (float("inf"), float("-inf")):
            raise self._unexpected(value)
        return number

    def _boolean(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, int | Decimal | float | dict) and (number := self._number(value)) in (0, 1):  # NUMBER(1)
            return bool(number)
        raise self._unexpected(value)

    def _string(self, value: Any) -> str:
        if isinstance(value, str) and self._encoding.scale is None:
            text = value
        elif isinstance(value, dict | str | bytes):  # a decimal that no declared type can take
            text = format(Decimal(self._number(value)), "f")
        else:
            raise self._unexpected(value)
        if self._field.form is not None:
            microseconds_of(text, has_zone=False)
            if len(text) != len(self._field.form):
                raise ValueError(f'expected "{self._field.form}", got {shown(text)}')
        return text

    def _json(self, value: Any) -> str:
        return _JSON.encode(value).decode()

    def _timestamp(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            unit = self._encoding.unit
            if unit not in UNITS:
                raise ValueError(f"expected a time, got the number {value} without a unit (unit: s, ms, us or ns)")
            return within_years(value // 1_000 if unit == "ns" else value * UNITS[unit], f"{value} {unit}")
        if not isinstance(value, str):
            raise self._unexpected(value)
        if self._field.type == "timestamp":
            return microseconds_of(value.removesuffix("Z"), has_zone=False)  # the Z of isostring says nothing
        return microseconds_of(value, has_zone=True)

    _timestamptz = _timestamp

    def _date(self, value: Any) -> date:
        if isinstance(value, int) and not isinstance(value, bool) and self._encoding.unit == "d":
            if not _FIRST_DAY <= value <= _LAST_DAY:
                raise ValueError(f"expected a date of the years 1 to 9999, got {value} days")
            return date(1970, 1, 1) + value * _DAY
        if not isinstance(value, str):
            raise self._unexpected(value)
        assert self._type.convert is not None
        found: date = self._type.convert(value.removesuffix("Z"))
        return found

    def _time(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and self._encoding.unit in UNITS:
            unit = self._encoding.unit
            since = value // 1_000 if unit == "ns" else value * UNITS[unit]
            if not 0 <= since <= 86_400_000_000:
                raise ValueError(f"expected a time of day, got {value} {unit}")
            seconds, fraction = divmod(since, 1_000_000)
            minutes, second = divmod(seconds, 60)
            text = f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"
            return f"{text}.{fraction:06}" if fraction else text
        if isinstance(value, str):
            return time_of_day(value)
        raise self._unexpected(value)

    def _binary(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        written = self._encoding.binary
        try:
            if isinstance(value, str) and written == "hex":
                if _HEX.fullmatch(value):
                    return bytes.fromhex(value)
            elif isinstance(value, str) and written == "base64-url-safe":
                return urlsafe_b64decode(value + "=" * (-len(value) % 4))
            elif isinstance(value, str):
                return a2b_base64(value, strict_mode=True)
        except ValueError:
            pass
        name = "base64" if written == "bytes" else written
        raise ValueError(f"expected bytes in {name}, got {_shown(value)}")


def _scaled(value: str | bytes, scale: int) -> Decimal:
    """An unscaled big-endian integer, in base64 where it is a text, divided by 10 ** scale; -0 and blanks are none.

    Raises:
        ValueError: it is no base64, or absurdly long.
    """
    data = _data(value)
    if not data or len(data) > 1_000 or abs(scale) > 10_000:
        raise ValueError
    number = int.from_bytes(data, "big", signed=True)
    return Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale))


def _data(value: str | bytes) -> bytes:
    return a2b_base64(value, strict_mode=True) if isinstance(value, str) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    """A wrong value as an error repeats it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return shown(str(value)).strip("'")
    names: dict[Any, str] = {dict: "an object", list: "an array", bytes: "bytes", bool: "a boolean"}
    return names.get(type(value), type(value).__name__)
