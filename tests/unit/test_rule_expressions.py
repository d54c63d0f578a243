"""Expressions of rules: DuckDB and Python agree on every value; what cannot be computed correctly is refused."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.rules.closures import compile_python
from fraud_lakehouse.rules.expression import Kind
from fraud_lakehouse.rules.sql import duckdb_sql
from fraud_lakehouse.rules.syntax import Problem, parse, typed
from tests.rule_expression_cases import COLUMNS, EXPRESSIONS, NUMBERS, ROWS, WHOLES, WORDS, checked, resolve, same

OF_KIND = {
    Kind.WHOLE: ["w1", "w2"],
    Kind.NUMBER: ["n1", "n2"],
    Kind.TEXT: ["s1", "s2"],
    Kind.BOOLEAN: ["b1", "b2"],
    Kind.TIME: ["t1", "t2"],
}

numbers = st.one_of(st.sampled_from(NUMBERS), st.floats(-1e6, 1e6), st.floats(allow_nan=False, allow_infinity=False))
wholes = st.one_of(st.sampled_from(WHOLES), st.integers(-100, 100))
texts = st.one_of(st.sampled_from(WORDS), st.text("aAbZé%_ 01.\\'", max_size=6))
times = st.datetimes(*map(datetime.fromisoformat, ("1900-01-01", "2100-01-01")))
rows = st.fixed_dictionaries(
    {
        name: st.one_of(
            st.none(),
            {"bigint": wholes, "double": numbers, "varchar": texts, "boolean": st.booleans(), "timestamp": times}[kind],
        )
        for name, kind in COLUMNS.items()
    }
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


LITERALS: dict[Kind, st.SearchStrategy[str]] = {
    Kind.WHOLE: wholes.filter(lambda number: number != -(2**63)).map(str),
    Kind.NUMBER: numbers.map(lambda number: repr(number) if abs(number) < 1e308 else "1.5"),
    Kind.TEXT: texts.map(quoted),
    Kind.BOOLEAN: st.sampled_from(["true", "false"]),
    Kind.TIME: times.map(lambda time: f"timestamp '{time.isoformat(' ')}'"),
}


@functools.cache
def expressions(kind: Kind, depth: int = 3) -> st.SearchStrategy[str]:
    """SQL of this kind, by the grammar that rules have."""
    leaf = st.one_of(st.sampled_from(OF_KIND[kind]), LITERALS[kind])
    if not depth:
        return leaf

    def of(wanted: Kind) -> st.SearchStrategy[str]:
        return st.deferred(lambda: expressions(wanted, depth - 1))

    def form(template: str, *kinds: Kind) -> st.SearchStrategy[str]:
        return st.tuples(*map(of, kinds)).map(lambda parts: template.format(*parts))

    number, whole, text, true, time = Kind.NUMBER, Kind.WHOLE, Kind.TEXT, Kind.BOOLEAN, Kind.TIME
    alike = [
        form("coalesce({}, {})", kind, kind),
        form("nullif({}, {})", kind, kind),
        form("case when {} then {} else {} end", true, kind, kind),
        form("case when {} then {} end", true, kind),
        form("if({}, {}, {})", true, kind, kind),
    ]
    if kind != true:
        alike += [form("greatest({}, {})", kind, kind), form("least({}, {}, {})", kind, kind, kind)]
    own: dict[Kind, list[st.SearchStrategy[str]]] = {
        number: [
            *(
                form(f"({{}}) {op} ({{}})", one, other)
                for op in "+-*/%"
                for one, other in ((number, number), (whole, number))
            ),
            *(form(f"{name}({{}})", number) for name in ("abs", "floor", "ceil", "sqrt", "ln", "round", "-")),
            form("round({}, 2)", number),
            form("abs({})", whole),
            *(form("cast({} as double)", one) for one in (whole, text, true)),
        ],
        whole: [
            form("length({})", text),
            *(form("cast({} as bigint)", one) for one in (number, text, true)),
            *(form(f"extract({part} from {{}})", time) for part in ("hour", "dow", "day", "month")),
            form("hour({})", time),
        ],
        text: [
            form("({} || {})", text, text),
            form("({} || {})", text, whole),
            form("lower({})", text),
            form("upper({})", text),
            form("substr({}, 2)", text),
            form("substr({}, 1, 3)", text),
            *(form("cast({} as varchar)", one) for one in (whole, number, true, time)),
        ],
        true: [
            *(form(f"({{}} {op} {{}})", one, one) for op in ("=", "<>") for one in OF_KIND),
            *(form(f"({{}} {op} {{}})", one, one) for op in ("<", "<=", ">", ">=") for one in OF_KIND if one != true),
            *(form(f"({{}} is {op} from {{}})", one, one) for op in ("distinct", "not distinct") for one in OF_KIND),
            *(form(f"({{}} {op} {{}})", whole, number) for op in ("=", "<")),
            *(form("({} is null)", one) for one in OF_KIND),
            form("({} and {})", true, true),
            form("({} or {} or {})", true, true, true),
            form("(not {})", true),
            form("({} between {} and {})", number, whole, number),
            form("({} not between {} and {})", text, text, text),
            st.tuples(of(whole), LITERALS[whole], LITERALS[whole]).map(lambda parts: "({} in ({}, {}))".format(*parts)),
            st.tuples(of(text), LITERALS[text]).map(lambda parts: "({} not in ({}))".format(*parts)),
            st.tuples(of(text), LITERALS[text]).map(lambda parts: "({} like {})".format(*parts)),
            form("starts_with({}, {})", text, text),
            form("contains({}, {})", text, text),
            *(form("cast({} as boolean)", one) for one in (whole, number, text)),
        ],
        time: [],
    }
    return st.one_of(leaf, *alike, *own[kind])


any_expressions = st.one_of(*(expressions(kind) for kind in OF_KIND))


def table(values: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    schema = dict(
        zip(["bigint", "double", "varchar", "boolean"], [pl.Int64, pl.Float64, pl.String, pl.Boolean], strict=True)
    )
    schema["timestamp"] = pl.Datetime("us")
    connection = duckdb.connect()
    frame = pl.DataFrame(values, schema={name: schema[kind] for name, kind in COLUMNS.items()})
    connection.register("evaluated", frame.to_arrow())
    return connection


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_operation_is_the_same_in_duckdb_and_python(text: str) -> None:
    node = checked(text)
    compute = compile_python(node)
    with table(ROWS) as connection:
        got = connection.sql(f"select {duckdb_sql(node)} from evaluated").fetchall()
    for row, (value,) in zip(ROWS, got, strict=True):
        assert same(value, compute(row)), f"{row}: DuckDB {value!r}, Python {compute(row)!r}"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(any_expressions, min_size=1, max_size=6), st.lists(rows, min_size=1, max_size=4))
def test_duckdb_and_python_compute_the_same(texts: list[str], values: list[dict[str, Any]]) -> None:
    nodes = [checked(text) for text in texts]
    with table(values) as connection:
        got = connection.sql(f"select {', '.join(map(duckdb_sql, nodes))} from evaluated").fetchall()
    for row, found in zip(values, got, strict=True):
        for text, node, value in zip(texts, nodes, found, strict=True):
            computed = compile_python(node)(row)
            assert same(value, computed), f"{text}: DuckDB {value!r}, Python {computed!r}"


REFUSED = [
    ("sum(n1) > 1", "`SUM(n1)` is an aggregate, which a rule cannot compute, expected a feature"),
    ("count(*) > 1", "is an aggregate"),
    ("sum(n1) over () > 1", "is a window"),
    ("n1 > (select 1)", "is a subquery"),
    ("exists(select 1)", "is a subquery"),
    ("w1 in (select 1)", "is not allowed"),
    ("foo(n1) > 1", "unknown function 'foo', expected one of abs, round"),
    ("coalesc(n1, 1) > 1", "did you mean coalesce?"),
    ("s1 ilike 'a%'", "is ilike, which a rule cannot compute, expected lower(…) like '…'"),
    ("w1 // 2 > 1", "expected floor(a / b)"),
    ("n1 ** 2 > 1", "expected a product"),
    ("n1 > 1 as x", "expected one expression"),
    ("n1 > 1; n2 > 1", "found 2 expressions"),
    ("n1 >", "is no SQL expression"),
    ("b1 is true", "expected `= true`"),
    ("n1 = null", "is never true, expected `is null`"),
    ("b1 < b2", "orders true and false"),
    ("s1 > 1", "puts a text with a whole number together, expected values of one kind; use cast"),
    ("n1 + s1 > 1", "`s1` is a text, expected a number; use cast(… as double)"),
    ("t1 > '2024-01-01'", "puts a time with a text together"),
    ("t1 > timestamp 'tomorrow'", "found the time 'tomorrow'"),
    ("n1", "`n1` is a number, expected a true or false; write a comparison"),
    ("cast(t1 as bigint) > 1", "turns a time into a whole number"),
    ("cast(n1 as decimal(10, 2)) > 1", "cannot cast to decimal(10, 2), expected double, bigint, varchar or boolean"),
    ("s1 like s2", "has no constant pattern"),
    ("s1 like 'a!%' escape '!'", "expected like without escape"),
    ("w1 in (1, w2)", "compares with what is no constant"),
    ("round(n1, w1) > 1", "rounds to what is no number of decimals, expected 0 to 10"),
    ("substr(s1, 0) = 'a'", "needs constant bounds"),
    ("extract(year from t1) > 1", "cannot extract 'year', expected one of hour, dow, day, month"),
    ("n3 > 1", "n3 is unknown"),
    ("n1 > 1e999", "is too large"),
    ("evaluated.n1 > 1", "is not allowed"),
    ("* > 1", ""),
    ("abs(abs(" * 30 + "n1" + "))" * 30 + " > 1", "more than 40 levels"),
    ("round(n1 + " * 12 + "n2" + ")" * 12 + " > 1", "more than 1000 operations"),
    ("n1 > 1 or " * 1000 + "b1", "characters, expected at most"),
]


@pytest.mark.parametrize("text, problem", REFUSED)
def test_what_a_rule_cannot_compute_is_refused(text: str, problem: str) -> None:
    tree = parse(text)
    problems = [tree] if isinstance(tree, Problem) else typed(tree, resolve, Kind.BOOLEAN)[1]
    assert any(problem in one.text for one in problems), problems


def test_all_problems_of_an_expression_are_found() -> None:
    tree = parse("n3 > 1 and n4 < 2 and s1 > 3")
    assert not isinstance(tree, Problem)
    assert len(typed(tree, resolve, Kind.BOOLEAN)[1]) == 3


def test_long_chains_are_one_level() -> None:
    checked(" or ".join(f"n1 = {number}" for number in range(200)), Kind.BOOLEAN)
    checked(" || ".join(["s1"] * 200), Kind.TEXT)
