"""Expressions compiled to Python functions of a row, for use without a database. None is null.

They compute what sql.py's renderings compute, and never raise on a row whose values have the kinds of its columns.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from fraud_lakehouse.rules.expression import LARGEST, Kind, Node
from fraud_lakehouse.rules.networks import contains
from fraud_lakehouse.rules.values import (
    as_kind,
    finite,
    number_of_text,
    text_of_any,
    text_of_time,
    time_of_text,
    whole,
    whole_of_text,
)

Row = Mapping[str, Any]
Compiled = Callable[[Row], Any]


def compile_python(node: Node) -> Compiled:
    """An expression as a function of a row: its columns by name, one that is missing is null."""
    if node.op == "literal":
        return _constant(node.value)
    if node.op == "column":
        return _column(node)
    args = [compile_python(one) for one in node.args]
    if node.op in _SINGLE:
        return _of_one(_SINGLE[node.op], args[0])
    if node.op in _PAIRS:
        constant = node.args[1]
        if constant.op == "literal" and constant.value is not None:
            return _with_constant(_PAIRS[node.op], args[0], constant.value)
        return _of_two(_PAIRS[node.op], args[0], args[1])
    if node.op in _SPECIAL:
        return _SPECIAL[node.op](args)
    return _of_one(_with_value(node), args[0])


def _constant(value: Any) -> Compiled:
    return lambda _: value


def _column(node: Node) -> Compiled:
    name, kind = node.value, node.kind
    expected = {Kind.WHOLE: int, Kind.TEXT: str, Kind.BOOLEAN: bool}.get(kind)
    if kind == Kind.ANY:
        return lambda row: row.get(name)

    def number(row: Row) -> Any:
        value = row.get(name)
        if type(value) is float:
            return value if -LARGEST <= value <= LARGEST else None
        return as_kind(value, kind)

    def other(row: Row) -> Any:
        value = row.get(name)
        return value if type(value) is expected else as_kind(value, kind)

    return number if kind == Kind.NUMBER else other


def _of_one(function: Callable[[Any], Any], of: Compiled) -> Compiled:
    def compute(row: Row) -> Any:
        value = of(row)
        return None if value is None else function(value)

    return compute


def _of_two(function: Callable[[Any, Any], Any], one: Compiled, other: Compiled) -> Compiled:
    def compute(row: Row) -> Any:
        left = one(row)
        if left is None:
            return None
        right = other(row)
        return None if right is None else function(left, right)

    return compute


def _with_constant(function: Callable[[Any, Any], Any], one: Compiled, constant: Any) -> Compiled:
    def compute(row: Row) -> Any:
        left = one(row)
        return None if left is None else function(left, constant)

    return compute


def _limited(number: float) -> float | None:
    return None if math.isnan(number) else max(min(number, LARGEST), -LARGEST)


def _divided(left: float, right: float) -> float | None:
    return left / right if right else None


def _remainder(left: float, right: float) -> float | None:
    if not right:
        return None
    return math.fmod(left, right) if -LARGEST <= left <= LARGEST else math.nan


_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _divided,
    "mod": _remainder,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "starts_with": str.startswith,
    "contains": operator.contains,
}


def _in_simple_case(change: Callable[[str], str]) -> Callable[[str], str]:
    """Lower or upper case, letter by letter: one that becomes several stays as it is."""

    def compute(text: str) -> str:
        if text.isascii():
            return change(text)
        return "".join(new if len(new := change(letter)) == 1 else letter for letter in text)

    return compute


def _away_from_zero(number: float) -> float:
    size = abs(number)
    whole = math.floor(size)
    return math.copysign(whole + 1 if size - whole >= 0.5 else whole, number)


def _rounded(digits: int) -> Callable[[float], float]:
    scale = 10.0**digits

    def compute(number: float) -> float:
        scaled = number * scale
        return _away_from_zero(scaled) / scale if -LARGEST <= scaled <= LARGEST else number

    return compute


_cents = _rounded(2)


_SINGLE: dict[str, Callable[[Any], Any]] = {
    "not": operator.not_,
    "finite": finite,
    "limited": _limited,
    "neg": operator.neg,
    "abs": abs,
    "floor": lambda number: float(math.floor(number)),
    "ceil": lambda number: float(math.ceil(number)),
    "sqrt": lambda number: math.sqrt(number) if number >= 0 else None,
    "ln": lambda number: math.log(number) if number > 0 else None,
    "lower": _in_simple_case(str.lower),
    "upper": _in_simple_case(str.upper),
    "length": len,
    "number_of_whole": float,
    "number_of_boolean": float,
    "number_of_text": number_of_text,
    "whole_of_number": lambda number: whole(_away_from_zero(number)),
    "whole_of_boolean": int,
    "whole_of_text": whole_of_text,
    "text_of_whole": str,
    "text_of_number": lambda number: repr(_cents(number) + 0.0),
    "text_of_boolean": lambda value: "true" if value else "false",
    "text_of_time": text_of_time,
    "text_of_any": text_of_any,
    "boolean_of_whole": bool,
    "boolean_of_number": bool,
    "boolean_of_text": lambda text: {"true": True, "false": False}.get(text.lower()),
    "time_of_text": time_of_text,
}


def _logical(decisive: bool) -> Callable[[list[Compiled]], Compiled]:
    """`and`, which a false value decides, or `or`, which a true one does; else null where one is null."""

    def of(args: list[Compiled]) -> Compiled:
        def compute(row: Row) -> Any:
            found: bool | None = not decisive
            for one in args:
                value = one(row)
                if value is decisive:
                    return decisive
                if value is None:
                    found = None
            return found

        return compute

    return of


def _concat(args: list[Compiled]) -> Compiled:
    def compute(row: Row) -> Any:
        values = [one(row) for one in args]
        return None if None in values else "".join(values)

    return compute


def _between(args: list[Compiled]) -> Compiled:
    of, low, high = args

    def compute(row: Row) -> Any:
        value, least, most = of(row), low(row), high(row)
        if value is None:
            return None
        if (least is not None and value < least) or (most is not None and value > most):
            return False
        return None if least is None or most is None else True

    return compute


def _coalesce(args: list[Compiled]) -> Compiled:
    return lambda row: next((value for one in args if (value := one(row)) is not None), None)


def _most(choose: Callable[..., Any]) -> Callable[[list[Compiled]], Compiled]:
    def of(args: list[Compiled]) -> Compiled:
        return lambda row: choose((value for one in args if (value := one(row)) is not None), default=None)

    return of


def _nullif(args: list[Compiled]) -> Compiled:
    one, other = args

    def compute(row: Row) -> Any:
        value = one(row)
        return None if value is None or value == other(row) else value

    return compute


def _case(args: list[Compiled]) -> Compiled:
    branches, default = list(zip(args[:-1:2], args[1:-1:2], strict=True)), args[-1]

    def compute(row: Row) -> Any:
        for when, then in branches:
            if when(row) is True:
                return then(row)
        return default(row)

    return compute


_SPECIAL: dict[str, Callable[[list[Compiled]], Compiled]] = {
    "and": _logical(False),
    "or": _logical(True),
    "between": _between,
    "concat": _concat,
    "coalesce": _coalesce,
    "greatest": _most(max),
    "least": _most(min),
    "nullif": _nullif,
    "case": _case,
    "is_null": lambda args: lambda row: args[0](row) is None,
    "same": lambda args: lambda row: args[0](row) == args[1](row),
    "differs": lambda args: lambda row: args[0](row) != args[1](row),
}


def _with_value(node: Node) -> Callable[[Any], Any]:
    """The operations that have constants of their own."""
    value = node.value
    if node.op == "round":
        return _rounded(value)
    if node.op == "in":
        return frozenset(value).__contains__
    if node.op == "in_networks":
        return contains(value)
    if node.op == "substr":
        start = value[0] - 1
        return operator.itemgetter(slice(start, start + value[1] if len(value) > 1 else None))
    if node.op == "like":
        pattern = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in value)
        matches = re.compile(pattern, re.DOTALL).fullmatch
        return lambda text: matches(text) is not None
    assert node.op == "extract", node.op
    if value == "dow":
        return lambda moment: moment.isoweekday() % 7
    return operator.attrgetter(value)
