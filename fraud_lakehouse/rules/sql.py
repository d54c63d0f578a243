"""Expressions as SQL of DuckDB and of Spark. No rendering can raise when it runs: what is undefined is null.

Numbers are doubles; a column that is not finite is null. How often a rendering repeats an operand is limited when the
rule is loaded (`cost`), since DuckDB plans every copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from fraud_lakehouse.rules.expression import LARGEST, Kind, Node
from fraud_lakehouse.rules.networks import networks_sql
from fraud_lakehouse.sql_text import literal as duckdb_text
from fraud_lakehouse.sql_text import quoted as duckdb_quoted

Dialect = Literal["duckdb", "spark"]
NUMBER_TEXT = r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?$"
"""The texts that are numbers; no others are, whatever an engine would accept."""
WHOLE_TEXT = r"^[+-]?[0-9]{1,19}$"
TIME_TEXT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?)?$"
_TYPES = {
    "duckdb": {Kind.WHOLE: "bigint", Kind.NUMBER: "double", Kind.TEXT: "varchar", Kind.BOOLEAN: "boolean"},
    "spark": {Kind.WHOLE: "bigint", Kind.NUMBER: "double", Kind.TEXT: "string", Kind.BOOLEAN: "boolean"},
}
_TIME = {"duckdb": "timestamp", "spark": "timestamp_ntz"}
_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "eq": "=",
    "ne": "<>",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "same": "is not distinct from",
    "differs": "is distinct from",
    "and": "and",
    "or": "or",
    "concat": "||",
}
_CALLS = {"abs", "greatest", "least", "coalesce", "nullif", "lower", "upper", "length", "contains"}
_CASTS = {
    "number_of_whole": Kind.NUMBER,
    "number_of_boolean": Kind.NUMBER,
    "whole_of_boolean": Kind.WHOLE,
    "text_of_whole": Kind.TEXT,
    "text_of_boolean": Kind.TEXT,
    "text_of_time": Kind.TEXT,
    "text_of_any": Kind.TEXT,
}


def duckdb_sql(node: Node) -> str:
    """An expression as DuckDB's SQL."""
    return _render(node, "duckdb")


def spark_sql(node: Node) -> str:
    """An expression as Spark's SQL (ANSI mode or not); the session's time zone is UTC."""
    return _render(node, "spark")


def rendered(node: Node, dialect: Dialect) -> str:
    """An expression as SQL of a dialect."""
    return _render(node, dialect)


def quoted(name: str, dialect: Dialect) -> str:
    """An identifier."""
    return duckdb_quoted(name) if dialect == "duckdb" else "`" + name.replace("`", "``") + "`"


def text_literal(text: str, dialect: Dialect) -> str:
    """A string literal."""
    if dialect == "duckdb":
        return duckdb_text(text)
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _constant(value: object, kind: Kind, dialect: Dialect) -> str:
    if value is None:
        types = _TYPES[dialect] | {Kind.TIME: _TIME[dialect]}
        return f"cast(null as {types[kind]})" if kind in types else "null"
    if kind == Kind.NUMBER:
        text = repr(float(str(value)))
        return (
            f"({text if 'e' in text else text + 'e0'})"
            if text.startswith("-")
            else text
            if "e" in text
            else f"{text}e0"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return (
            f"cast({text_literal(str(value), dialect)} as bigint)"
            if value == -(2**63)
            else f"({value})"
            if value < 0
            else str(value)
        )
    if isinstance(value, datetime):
        return f"{_TIME[dialect]} {text_literal(value.isoformat(' '), dialect)}"
    return text_literal(str(value), dialect)


def _column(node: Node, dialect: Dialect) -> str:
    name = quoted(node.value, dialect)
    if node.kind == Kind.NUMBER:
        as_double = name if node.sql_type == "double" else f"cast({name} as double)"
        return _finite(as_double, dialect)
    if node.kind == Kind.TIME and node.sql_type != "timestamp":
        if dialect == "duckdb" and ("tz" in node.sql_type or "zone" in node.sql_type):
            return f"timezone('UTC', {name})"
        return f"cast({name} as {_TIME[dialect]})"
    if node.kind == Kind.WHOLE and node.sql_type != "bigint":
        return f"cast({name} as bigint)"
    if node.kind == Kind.TEXT and node.sql_type != "varchar":
        return f"cast({name} as {_TYPES[dialect][Kind.TEXT]})"
    return name


def _render(node: Node, dialect: Dialect) -> str:
    op = node.op
    if op == "literal":
        return _constant(node.value, node.kind, dialect)
    if op == "column":
        return _column(node, dialect)
    args = [_render(one, dialect) for one in node.args]
    if op in _INFIX:
        return f"({f' {_INFIX[op]} '.join(args)})"
    if op in _CALLS:
        return f"{op}({', '.join(args)})" if len(args) > 1 or op not in ("greatest", "least", "coalesce") else args[0]
    if op in _CASTS:
        return f"cast({args[0]} as {_TYPES[dialect][_CASTS[op]]})"
    if op == "case":
        return _case(args)
    if op == "between":
        return f"({args[0]} between {args[1]} and {args[2]})"
    if op in ("div", "mod"):
        return f"({args[0]} {'/' if op == 'div' else '%'} nullif({args[1]}, 0e0))"
    if op == "in":
        values = ", ".join(_constant(one, node.args[0].kind, dialect) for one in node.value)
        return f"({args[0]} in ({values}))"
    if op == "like":
        pattern = node.value if dialect == "duckdb" else node.value.replace("\\", "\\\\")
        return f"({args[0]} like {text_literal(pattern, dialect)})"
    if op == "substr":
        return f"substr({', '.join([args[0], *map(str, node.value)])})"
    if op == "in_networks":
        return networks_sql(args[0], node.value, dialect)
    (value, *more) = args
    duckdb = dialect == "duckdb"
    templates: dict[str, str] = {
        "finite": _finite(value, dialect),
        "limited": f"case when not isnan({value}) then greatest(least({value}, {LARGEST}), -{LARGEST}) end",
        "is_null": f"({value} is null)",
        "not": f"(not {value})",
        "neg": f"(-{value})",
        "sqrt": f"case when {value} >= 0e0 then sqrt({value}) end",
        "ln": f"case when {value} > 0e0 then ln({value}) end",
        "starts_with": f"{'starts_with' if duckdb else 'startswith'}({', '.join([value, *more])})",
        "boolean_of_whole": f"({value} <> 0)",
        "boolean_of_number": f"({value} <> 0e0)",
        "boolean_of_text": f"case lower({value}) when 'true' then true when 'false' then false end",
    }
    return templates.get(op) or _dispatched(node, value, dialect)


def _finite(number: str, dialect: Dialect) -> str:
    """A double, null where it is infinite or no number."""
    if dialect == "duckdb":  # no comparison: statistics of a Parquet file leave NaN out, and it trusts them
        return f"case when isfinite({number}) then {number} end"
    return f"case when abs({number}) <= {LARGEST} then {number} end"


def _case(args: Sequence[str]) -> str:
    branches = " ".join(f"when {when} then {then}" for when, then in zip(args[:-1:2], args[1:-1:2], strict=True))
    return f"(case {branches} else {args[-1]} end)"


def _dispatched(node: Node, value: str, dialect: Dialect) -> str:
    """The operations that engines spell differently or compute differently."""
    op, digits = node.op, node.value
    duckdb = dialect == "duckdb"
    if op in ("floor", "ceil"):
        return (
            f"{op}({value})"
            if duckdb
            else f"case when abs({value}) < 9e15 then cast({op}({value}) as double) else {value} end"
        )
    if op == "round":
        return _rounded(value, digits, dialect)
    if op == "extract":
        if duckdb:
            return f"cast(extract({node.value} from {value}) as bigint)"  # of a constant null it is a double
        number = f"dayofweek({value}) - 1" if node.value == "dow" else f"{node.value}({value})"
        return f"cast({number} as bigint)"
    if op == "text_of_number":
        return _text_of_number(value, dialect)
    if op == "whole_of_number":
        rounded = _rounded(value, 0, dialect)
        return f"try_cast({rounded if duckdb else f'nullif({rounded}, {2.0**63!r})'} as bigint)"
    if op in ("number_of_text", "whole_of_text"):
        pattern = text_literal(NUMBER_TEXT if op == "number_of_text" else WHOLE_TEXT, dialect)
        extracted = f"regexp_extract({value}, {pattern}{'' if duckdb else ', 0'})"
        if op == "whole_of_text":
            return f"try_cast({extracted} as bigint)"
        number = f"try_cast({extracted} as double)"
        return _finite(number, dialect)
    assert op == "time_of_text", op
    extracted = f"regexp_extract({value}, {text_literal(TIME_TEXT, dialect)}{'' if duckdb else ', 0'})"
    return f"try_cast({extracted} as {_TIME[dialect]})"


def _rounded(value: str, digits: int, dialect: Dialect) -> str:
    """Half away from zero, as DuckDB does it: of the value times a power of ten; unchanged where that is too large."""
    if dialect == "duckdb":
        return f"round({value}, {digits})"
    if not digits:
        return f"round({value})"
    scaled = f"round({value} * 1e{digits}) / 1e{digits}"
    return f"coalesce({_finite(scaled, dialect)}, {value})"


def _text_of_number(value: str, dialect: Dialect) -> str:
    """At most two decimals, at least one; from 1e16 on with an exponent (Java before 19 prints a digit more then).

    Zero has no sign.
    """
    rounded = _rounded(value, 2, dialect)
    if dialect == "duckdb":
        return f"cast({rounded} + 0e0 as varchar)"
    plain = f"regexp_replace(cast(cast({rounded} as decimal(38, 2)) as string), '0$', '')"
    large = f"replace(regexp_replace(cast({value} as string), '[.]0E', 'E'), 'E', 'e+')"
    return f"case when abs({value}) < 1e16 then {plain} else {large} end"
