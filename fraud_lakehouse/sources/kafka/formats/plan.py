"""How rows of one schema, read from JSON or Avro, give the values of the declared fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.config import ChangeFormat
from fraud_lakehouse.sources.kafka.formats.columns import ColumnReader
from fraud_lakehouse.sources.kafka.formats.encoding import Encoding, by_modes, by_schema

MISSING: Any = object()
"""The value of a field that a row does not have."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How rows of one schema are read: what takes each field's value out of a row, and what reads a list of them."""

    getters: tuple[Callable[[Any], Any], ...]
    readers: tuple[ColumnReader, ...]


def spelling(fields: Sequence[Field], names: Sequence[str]) -> dict[str, str]:
    """By declared first key of a path, the name that a row has for it: the same, or one of another case.

    A key that the row does not have may come later, in upper case if all names are.
    """
    is_upper = bool(names) and all(name == name.upper() for name in names)
    by_case = {name.casefold(): name for name in reversed([*names])}
    keys = dict.fromkeys(one.path.partition(".")[0] for one in fields)
    return {key: key if key in names else by_case.get(key.casefold(), key.upper() if is_upper else key) for key in keys}


def attributes(fields: Sequence[Field]) -> dict[str, str]:
    """By declared first key of a path, the attribute of a structure that has it."""
    return {key: f"f{number}" for number, key in enumerate(spelling(fields, ()))}


def make_plan(
    fields: Sequence[Field],
    modes: ChangeFormat,
    schemas: Mapping[str, Any] | None,
    names: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Plan:
    """The plan of rows of a schema.

    Args:
        schemas: by name in a row, the schema of its value; None: there is none.
        names: rows are mappings with these names, as of `spelling`; None: structures with `attributes`.
        only: the fields that rows have; others are null. None: all.
    """
    getters: list[Callable[[Any], Any]] = []
    readers = []
    structure = attributes(fields)
    for one in fields:
        first, *inner = one.path.split(".")
        if only is not None and one.name not in only:
            getters.append(_null)
        elif names is None and not inner:
            getters.append(attrgetter(structure[first]))
        elif names is None:
            getters.append(_walk(attrgetter(structure[first]), inner))
        else:
            getters.append(_walk(_item(names[first]), inner))
        name = (names or {}).get(first, first)
        readers.append(ColumnReader(one, _encoding(one, modes, schemas, name, inner)))
    return Plan(tuple(getters), tuple(readers))


def _encoding(
    one: Field, modes: ChangeFormat, schemas: Mapping[str, Any] | None, name: str, inner: Sequence[str]
) -> Encoding:
    if schemas is None:
        return by_modes(one, modes)
    return Encoding(one.unit) if inner else by_schema(one, schemas.get(name), modes)


def _null(_: Any) -> None:
    return None


def _item(name: str) -> Callable[[Any], Any]:
    return lambda row: row.get(name, MISSING)


def _walk(outer: Callable[[Any], Any], inner: Sequence[str]) -> Callable[[Any], Any]:
    if not inner:
        return outer

    def get(row: Any) -> Any:
        value = outer(row)
        for key in inner:
            if isinstance(value, dict):
                value = value.get(key, MISSING)
            elif isinstance(value, list) and key.isdecimal():
                value = value[int(key)] if int(key) < len(value) else MISSING
        return value

    return get
