"""Readers of the declared values of a JSON record, by the tree of the fields' paths.

They give the values, or an error that names the place. What of a record is not declared is `json.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from fraud_lakehouse.pipeline import Node
from fraud_lakehouse.sources.kafka.formats.values import value_type


class Reader:
    """Reads JSON of a tree of paths into an object with the attributes f0, f1 … for its keys; an array into a tuple.

    A tuple has the declared elements only.
    """

    def __init__(self, node: Node) -> None:
        self._is_optional = node.is_optional
        self._decoder = msgspec.json.Decoder(_type_of(node))
        self._elements: list[tuple[int, Reader]] | None = None
        self._arrays: list[tuple[list[str], str, Reader]] = []
        if node.is_array:
            self._elements = [(int(key), Reader(child)) for key, child in node.children.items()]
        else:
            self._arrays = list(_arrays_in(node))

    def read(self, value: bytes | msgspec.Raw) -> Any:
        """The values of a record.

        Raises:
            msgspec.MsgspecError: what is wrong, with its place.
        """
        found = self._decoder.decode(value)
        if self._elements is not None:
            return None if found is None else tuple(_element(found, *one) for one in self._elements)
        for steps, at, reader in self._arrays:
            holder = found
            for step in steps[:-1]:
                holder = None if holder is None else getattr(holder, step)
            raw = None if holder is None else getattr(holder, steps[-1])
            if raw is not None:
                setattr(holder, steps[-1], _inside(at, reader, raw))
        return found


def getter(root: Node, path: str) -> Callable[[Any], Any]:
    """What takes the value at a path out of what a reader of the tree has read; None where the record lacks it."""
    steps: list[str | int] = []
    node, is_always_there = root, True
    for key in path.split("."):
        number = list(node.children).index(key)
        steps.append(number if node.is_array else f"f{number}")
        is_always_there &= not node.is_array and (node is root or not node.is_optional)
        node = node.children[key]
    if is_always_there:
        return attrgetter(".".join(map(str, steps)))

    def get(found: Any) -> Any:
        for step in steps:
            if found is None:
                return None
            found = found[step] if isinstance(step, int) else getattr(found, step)
        return found

    return get


def _type_of(node: Node) -> Any:
    """What msgspec reads a node as, `None` included where it may be null."""
    if node.declared is not None:
        kind = value_type(node.declared).json
        return kind | None if node.is_optional and kind is not msgspec.Raw else kind
    if node.is_array:
        kind = list[msgspec.Raw]
    else:
        fields: list[Any] = []
        for name, child in zip(_names(node), node.children.values(), strict=True):
            inner = msgspec.Raw if child.is_array else _type_of(child)
            fields.append((name, inner, None) if child.is_optional else (name, inner))
        keys = dict(zip(_names(node), node.children, strict=True))
        kind = msgspec.defstruct("Record", fields, rename=keys, kw_only=True, gc=False)
    return kind | None if node.is_optional else kind


def _names(node: Node) -> list[str]:
    return [f"f{number}" for number in range(len(node.children))]


def _arrays_in(node: Node) -> Iterator[tuple[list[str], str, Reader]]:
    """The arrays that are in no other one: the attributes that lead to each, its path, and its reader."""
    for name, (key, child) in zip(_names(node), node.children.items(), strict=True):
        if child.is_array:
            yield [name], f".{key}", Reader(child)
        else:
            for steps, at, reader in _arrays_in(child):
                yield [name, *steps], f".{key}{at}", reader


def _element(elements: Sequence[msgspec.Raw], position: int, reader: Reader) -> Any:
    if position < len(elements):
        return _inside(f"[{position}]", reader, elements[position])
    if reader._is_optional:
        return None
    raise msgspec.ValidationError(f"Expected `array` of length >= {position + 1}, got {len(elements)}")


def _inside(at: str, reader: Reader, raw: msgspec.Raw) -> Any:
    """What the reader gives; its errors name the place from the outside."""
    try:
        return reader.read(raw)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).partition(" - at ")
        raise msgspec.ValidationError(f"{text} - at `${at}{inner.strip('`').removeprefix('$')}`") from None
