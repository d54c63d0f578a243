"""Values as the engines read and print them: each function is what sql.py's rendering of the same name computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from fraud_lakehouse.rules.expression import LARGEST, WHOLE_LIMIT, Kind
from fraud_lakehouse.rules.sql import NUMBER_TEXT, TIME_TEXT, WHOLE_TEXT

_NUMBER, _WHOLE, _TIME = re.compile(NUMBER_TEXT), re.compile(WHOLE_TEXT), re.compile(TIME_TEXT)


def as_kind(value: Any, kind: Kind) -> Any:
    """A value as the engines read it from a column of this kind; None where it does not fit."""
    if value is None:
        return None
    try:
        return _READ[kind](value)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None


def text_of_time(moment: datetime) -> str:
    """A time as engines print it: a fraction of a second without zeros at its end."""
    text = moment.isoformat(" ")
    return text.rstrip("0") if moment.microsecond else text


def text_of_any(value: Any) -> str:
    """A value of unknown kind as engines print it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return text_of_time(value) if isinstance(value, datetime) else str(value)


def finite(number: float) -> float | None:
    """The number, null where it is infinite or no number."""
    return number if -LARGEST <= number <= LARGEST else None


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, null beyond."""
    number = int(value)
    return number if -WHOLE_LIMIT <= number < WHOLE_LIMIT else None


def number_of_text(text: str) -> float | None:
    """The number that a text is, null where it is none."""
    return finite(float(text)) if _NUMBER.fullmatch(text) else None


def whole_of_text(text: str) -> int | None:
    """The whole number that a text is, null where it is none."""
    return whole(text) if _WHOLE.fullmatch(text) else None


def time_of_text(text: str) -> datetime | None:
    """The time that a text is, null where it is none."""
    if _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return None
    return None


def _number(value: Any) -> float | None:
    return finite(float(value))


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        return time_of_text(value)
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day) if isinstance(value, date) else None  # noqa: DTZ001
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value


_READ: dict[Kind, Callable[[Any], Any]] = {
    Kind.NUMBER: _number,
    Kind.WHOLE: whole,
    Kind.TEXT: text_of_any,
    Kind.BOOLEAN: bool,
    Kind.TIME: _moment,
    Kind.ANY: lambda value: value,
}
