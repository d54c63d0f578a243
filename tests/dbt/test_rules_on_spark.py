"""Rules as Apache Spark computes them are what Python computes: every operation, and the shipped rules."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import pytest

from fraud_lakehouse.rules import evaluator, fired_sql, load_rules
from fraud_lakehouse.rules.closures import compile_python
from fraud_lakehouse.rules.sql import spark_sql
from tests.declared import SHIPPED
from tests.rule_expression_cases import COLUMNS, EXPRESSIONS, ROWS, checked
from tests.rule_scopes import BANK, SCOPES
from tests.spark import Spark

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.timeout(900)]  # Spark is fetched once
KINDS = {"varchar": "string", "timestamp": "timestamp_ntz"}
SCHEMA = ", ".join(f"{name} {KINDS.get(kind, kind)}" for name, kind in COLUMNS.items())


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == (str(other) if isinstance(other, datetime) else other))


def test_spark_computes_what_python_does(spark: Spark) -> None:
    spark.view("evaluated", [{"id": place, **row} for place, row in enumerate(ROWS)], f"id int, {SCHEMA}")
    nodes = {text: checked(text) for text in EXPRESSIONS}
    columns = ", ".join(f"{spark_sql(node)} as c{place}" for place, node in enumerate(nodes.values()))
    got = spark.query(f"select {columns} from evaluated order by id")
    different = [
        f"{text} on {row}: Spark {found[f'c{place}']!r}, Python {computed!r}"
        for place, (text, node) in enumerate(nodes.items())
        for row, found in zip(ROWS, got, strict=True)
        if not alike(found[f"c{place}"], computed := compile_python(node)(row))
    ]
    assert not different, "\n".join(different[:20])


def test_spark_fires_what_python_does(spark: Spark) -> None:
    rules = load_rules(SHIPPED, SCOPES).of_stream("bank")
    rows: list[dict[str, Any]] = [
        {"user_id": 7, "amount": 300.01, "prior_mean": 100.0, "prior_count": 5, "user_exists": True},
        {"user_id": 8, "amount": -2e12, "is_amount_excluded": True, "is_time_excluded": True, "max_amount": 10**12},
        {
            "amount": 0.5,
            "prior_mean": 100.0,
            "prior_count": 5,
            "user_exists": False,
            "count_10min": 11,
            "sum_10min": 5.0,
        },
        {"user_id": 9, "amount": 1.0},
    ]
    requested = {one.name: one.sql_type for rule in rules for one in rule.requests}
    columns = {**BANK.columns, **BANK.features, **requested, "user_id": "bigint"}
    schema = ", ".join(f"{name} {KINDS.get(kind, kind)}" for name, kind in columns.items())
    spark.view("evaluated", [{"id": place, **row} for place, row in enumerate(rows)], f"id int, {schema}")
    got = spark.query(f"select {fired_sql(rules, 'spark')} as firings from evaluated order by id")
    python = [evaluator(rules)(row) for row in rows]
    assert [json.loads(one["firings"] or "[]") for one in got] == python
    assert [[one["rule"] for one in firings] for firings in python] == [
        ["amount_above_mean"],
        ["amount_out_of_range"],
        ["amount_below_mean", "unknown_user", "velocity"],
        [],
    ]
