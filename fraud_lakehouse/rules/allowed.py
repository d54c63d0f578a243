"""What the expressions of rules may say: operators and functions as sqlglot parses them, by what they become."""

from __future__ import annotations

from sqlglot import exp

from fraud_lakehouse.rules.expression import Kind

LONGEST = 4000  # characters of an expression
DEEPEST = 40  # levels; and, or and || of any length are one
MOST_DIGITS = 10
MOST_OPERATIONS = 1000
FUNCTIONS = (
    "abs round floor ceil sqrt ln greatest least coalesce nullif lower upper length substr starts_with contains"
    " extract hour if cast in_networks"
).split()
CASTS = {
    "DOUBLE": Kind.NUMBER,
    "BIGINT": Kind.WHOLE,
    "TEXT": Kind.TEXT,
    "VARCHAR": Kind.TEXT,
    "BOOLEAN": Kind.BOOLEAN,
}
COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "eq",
    exp.NEQ: "ne",
    exp.LT: "lt",
    exp.LTE: "le",
    exp.GT: "gt",
    exp.GTE: "ge",
    exp.NullSafeEQ: "same",
    exp.NullSafeNEQ: "differs",
}
ARITHMETIC: dict[type[exp.Expr], str] = {exp.Add: "add", exp.Sub: "sub", exp.Mul: "mul", exp.Div: "div", exp.Mod: "mod"}
OF_NUMBER: dict[type[exp.Expr], str] = {
    exp.Floor: "floor",
    exp.Ceil: "ceil",
    exp.Sqrt: "sqrt",
    exp.Ln: "ln",
}
OF_TEXT: dict[type[exp.Expr], tuple[str, Kind]] = {
    exp.Lower: ("lower", Kind.TEXT),
    exp.Upper: ("upper", Kind.TEXT),
    exp.Length: ("length", Kind.WHOLE),
}
TWO_TEXTS: dict[type[exp.Expr], str] = {exp.StartsWith: "starts_with", exp.Contains: "contains"}
EXTRACTED = ("hour", "dow", "day", "month")
FLAGS = {"safe", "typed", "ignore_nulls", "truncate_", "_type"}
"""What sqlglot notes of a dialect, and nobody wrote."""
HINTS: tuple[tuple[tuple[type[exp.Expr], ...], str, str], ...] = (
    ((exp.Window,), "a window", "a feature: declare it under `features`"),
    ((exp.AggFunc,), "an aggregate", "a feature: declare it under `features`, or write one such as user_count_10min"),
    ((exp.Subquery, exp.Select, exp.Exists, exp.Any), "a subquery", "a feature: declare it under `features`"),
    ((exp.Star,), "a star", "names of columns"),
    ((exp.ILike,), "ilike", "lower(…) like '…'"),
    ((exp.IntDiv,), "//", "floor(a / b)"),
    ((exp.Pow,), "a power", "a product, such as x * x"),
    ((exp.Escape,), "like … escape", "like without escape, starts_with or contains"),
    ((exp.Alias,), "a name for a result", "one expression"),
    ((exp.Interval,), "an interval", "a feature such as user_seconds_since_last"),
)


def known_keys(kind: type[exp.Expr]) -> set[str]:
    """The arguments of a node that are understood here."""
    if issubclass(kind, exp.Case):
        return {"this", "ifs", "default"}
    if issubclass(kind, exp.Cast):
        return {"this", "to"}
    extra: dict[type[exp.Expr], set[str]] = {
        exp.If: {"true", "false"},
        exp.Between: {"low", "high"},
        exp.In: {"expressions"},
        exp.Like: {"negate"},
        exp.Round: {"decimals"},
        exp.Substring: {"start", "length"},
        exp.Coalesce: {"expressions"},
        exp.Greatest: {"expressions"},
        exp.Least: {"expressions"},
        exp.Literal: {"is_string"},
        exp.Anonymous: {"expressions"},
    }
    return {"this", "expression"} | extra.get(kind, set())
