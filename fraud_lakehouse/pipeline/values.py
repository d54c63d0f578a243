"""Kinds of values that several entries have, and the base of all entries."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fraud_lakehouse.pipeline.mistakes import shown

NAME = r"^[a-z][a-z0-9_]*$"
COLUMN = r"^[A-Za-z][A-Za-z0-9_]*$"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONNECTION = re.compile(r"=|://|\s")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(second|minute|hour|day)s?")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_LONGEST = 100 * 366 * 86_400


class Entry(BaseModel):
    """What an entry of a file holds. A field's description says what is expected of its value."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _variable(value: Any) -> str:
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    found = shown(value) if not isinstance(value, str) else "a value that is no name of a variable (not repeated here)"
    if isinstance(value, str) and _CONNECTION.search(value):
        found = "what looks like a connection string (not repeated here: secrets do not belong in this file)"
    raise ValueError(
        f"found {found}, expected the name of the environment variable that has the value, such as FRAUD_POSTGRES_DSN"
    )


def _seconds(value: Any) -> float:
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and len(value) < 30 and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"found {shown(value)}, expected seconds from 0 on, or a text such as 30 minutes or 2 hours")
    return seconds


Variable = Annotated[str, BeforeValidator(_variable), Field(description="the name of an environment variable")]
"""The name of an environment variable."""

Seconds = Annotated[float, BeforeValidator(_seconds)]
"""A duration, written as a number of seconds or as a text such as "30 minutes"."""

Column = Annotated[str, Field(pattern=COLUMN, max_length=128)]
"""The name of a column; the lake's own begin with _."""


def with_names(values: Any, single: str) -> Any:
    """The entries of a mapping, each with its key as `name`; a plain value or a list is the value of `single`."""
    if not isinstance(values, dict):
        return values
    named: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, BaseModel):
            named[name] = value
        else:
            named[name] = {**(value if isinstance(value, dict) else {single: value}), "name": name}
    return named
