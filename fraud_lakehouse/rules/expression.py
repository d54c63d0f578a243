"""An expression as a tree of typed nodes, which sql.py renders and closures.py compiles.

Whatever the engine: null means what SQL says, and arithmetic is in doubles. What is not finite is null wherever it is
used other than as an operand. Whole numbers stay whole until they are computed with, so that long card numbers compare
exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LARGEST = 1.7976931348623157e308
"""The largest double that is finite."""
WHOLE_LIMIT = 2**63
"""Whole numbers are those of 64 bits: from -WHOLE_LIMIT to WHOLE_LIMIT - 1."""


class Kind(StrEnum):
    """What a value is. `ANY`: the column's type is not known (a table that is not captured yet)."""

    WHOLE = "whole number"
    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "true or false"
    TIME = "time"
    ANY = "value of unknown type"
    NULL = "null"


ARITHMETIC = ("add", "sub", "mul", "div", "mod")
_COPIES = {
    "finite": (2,),
    "limited": (3,),
    "nullif": (2,),
    "div": (1, 2),
    "mod": (1, 2),
    "sqrt": (2,),
    "ln": (2,),
    "number_of_text": (2,),
    "boolean_of_text": (2,),
}
"""How often sql.py's renderings have each operand, where that is not once."""
NUMERIC = (Kind.WHOLE, Kind.NUMBER)
_KINDS = (
    (re.compile(r"u?(tiny|small)int|integer|uinteger|int|int32|int64|bigint|long"), Kind.WHOLE),
    (re.compile(r"double|float|real|decimal.*|numeric.*|u?hugeint|ubigint"), Kind.NUMBER),
    (re.compile(r"varchar|string|text|uuid"), Kind.TEXT),
    (re.compile(r"boolean|bool"), Kind.BOOLEAN),
    (re.compile(r"timestamp.*|date"), Kind.TIME),
)


def kind_of(sql_type: str) -> Kind:
    """The kind of a column with this DuckDB type; that of a type without one here is its text."""
    other = Kind.TEXT if sql_type else Kind.ANY
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(sql_type.lower())), other)


@dataclass(frozen=True)
class Node:
    """One operation.

    Args:
        op: what it does; sql.py and closures.py have an entry for each.
        value: of `literal` the value, of `column` its name, of `in` the values, of `like` the pattern, of `round` the
            digits, of `substr` start and length, of `in_networks` the networks.
        sql_type: of `column` its DuckDB type.
    """

    op: str
    kind: Kind
    args: tuple[Node, ...] = ()
    value: Any = None
    sql_type: str = ""

    def nodes(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for one in self.args:
            yield from one.nodes()


def literal(value: Any) -> Node:
    """A constant: null, a number, a text, true or false, or a time without zone."""
    if value is None:
        return Node("literal", Kind.NULL)
    if isinstance(value, bool):
        return Node("literal", Kind.BOOLEAN, value=value)
    if isinstance(value, int) and -WHOLE_LIMIT <= value < WHOLE_LIMIT:
        return Node("literal", Kind.WHOLE, value=value)
    if isinstance(value, int | float):
        return Node("literal", Kind.NUMBER, value=float(value))
    return Node("literal", Kind.TEXT if isinstance(value, str) else Kind.TIME, value=value)


def column(name: str, sql_type: str) -> Node:
    """A column of the row."""
    return Node("column", kind_of(sql_type), value=name, sql_type=sql_type.lower())


def finite_or_null(node: Node) -> Node:
    """The value, null where arithmetic has made it infinite or no number."""
    inner = node
    while inner.op in ("neg", "abs"):
        (inner,) = inner.args
    return Node("finite", Kind.NUMBER, (node,)) if inner.op in ARITHMETIC else node


def cost(node: Node) -> int:
    """How many operations an engine plans for an expression: DuckDB's nullif, for one, repeats its operand."""
    copies = _COPIES.get(node.op, ())
    return 1 + sum(cost(one) * (copies[index] if index < len(copies) else 1) for index, one in enumerate(node.args))


_CONVERSIONS: dict[tuple[Kind, Kind], str] = {
    (Kind.WHOLE, Kind.NUMBER): "number_of_whole",
    (Kind.BOOLEAN, Kind.NUMBER): "number_of_boolean",
    (Kind.TEXT, Kind.NUMBER): "number_of_text",
    (Kind.NUMBER, Kind.WHOLE): "whole_of_number",
    (Kind.BOOLEAN, Kind.WHOLE): "whole_of_boolean",
    (Kind.TEXT, Kind.WHOLE): "whole_of_text",
    (Kind.WHOLE, Kind.TEXT): "text_of_whole",
    (Kind.NUMBER, Kind.TEXT): "text_of_number",
    (Kind.BOOLEAN, Kind.TEXT): "text_of_boolean",
    (Kind.TIME, Kind.TEXT): "text_of_time",
    (Kind.ANY, Kind.TEXT): "text_of_any",
    (Kind.WHOLE, Kind.BOOLEAN): "boolean_of_whole",
    (Kind.NUMBER, Kind.BOOLEAN): "boolean_of_number",
    (Kind.TEXT, Kind.BOOLEAN): "boolean_of_text",
    (Kind.TEXT, Kind.TIME): "time_of_text",
}
_IMPLICIT = {(Kind.WHOLE, Kind.NUMBER)}


def converted(node: Node, kind: Kind) -> Node:
    """The value as another kind, null where it does not fit; a text of a number has at most two decimals.

    Raises:
        KeyError: there is no such conversion.
    """
    node = finite_or_null(node)
    if node.kind == kind:
        return node
    if node.kind == Kind.NULL:
        return Node("literal", kind)
    if node.op == "literal" and kind == Kind.TEXT and node.kind == Kind.NUMBER:
        return Node("literal", kind, value=repr(node.value))
    if node.op == "literal" and (node.kind, kind) in _IMPLICIT:
        return Node("literal", kind, value=float(node.value))
    if node.kind == Kind.ANY and kind != Kind.TEXT:
        return converted(converted(node, Kind.TEXT), kind)
    return Node(_CONVERSIONS[node.kind, kind], kind, (node,))


def implied(node: Node, kind: Kind) -> Node | None:
    """The value as this kind where that needs no cast; None where it does."""
    if node.kind in (kind, Kind.NULL, Kind.ANY) or (node.kind, kind) in _IMPLICIT:
        return converted(node, kind)
    return None


def common_kind(nodes: Sequence[Node]) -> Kind | None:
    """The kind that all these values can be compared as; None where there is none."""
    kinds = {node.kind for node in nodes} - {Kind.NULL}
    known = kinds - {Kind.ANY}
    if known and known <= set(NUMERIC):
        return Kind.WHOLE if kinds == {Kind.WHOLE} else Kind.NUMBER
    if len(known) > 1:
        return None
    return next(iter(known), Kind.TEXT if kinds else Kind.NULL)
