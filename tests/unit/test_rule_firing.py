"""Which rules fire on a payment, and what a firing says: as SQL, and the same in Python."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.rules import Scope, StreamRule, evaluator, fired_sql, fires_sql, load_rules
from tests.declared import SHIPPED
from tests.rule_scopes import BANK, CARDS, SCOPES, bound

TYPES = {
    "bigint": pl.Int64,
    "double": pl.Float64,
    "varchar": pl.String,
    "boolean": pl.Boolean,
    "timestamp": pl.Datetime("us"),
    "": pl.Int64,
}
NAMED = {name: replace(BANK, name=name) for name in ("account_payments", "transfer_payments")}  # by shipped rules
SHIPPED_RULES = load_rules(SHIPPED, SCOPES | NAMED)


def fired_text(rules: list[StreamRule], scope: Scope, rows: list[dict[str, Any]], **types: Any) -> list[str | None]:
    """What `fired_sql` gives on rows; columns that they lack are null."""
    requested = {one.name: one.sql_type for rule in rules for one in rule.requests}
    columns = {name: TYPES[kind] for name, kind in {**scope.columns, **scope.features, **requested}.items()} | types
    frame = pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], schema=columns)
    with duckdb.connect() as connection:
        connection.register("evaluated", frame.to_arrow())
        return [text for (text,) in connection.sql(f"select {fired_sql(rules)} from evaluated").fetchall()]


def fired(rules: list[StreamRule], scope: Scope, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [json.loads(text) if text is not None else [] for text in fired_text(rules, scope, rows)]


def shipped(name: str, scope: Scope) -> list[StreamRule]:
    return [one for one in SHIPPED_RULES.of_stream(scope.name) if one.rule.name == name]


@pytest.mark.parametrize(
    "name, row, entity_id, score, evidence",
    [
        (
            "amount_out_of_range",
            {"user_id": 7, "amount": -2e12, "is_amount_excluded": True, "is_time_excluded": True, "max_amount": 10**12},
            "7",
            2,
            (
                '{"reason":"amount -2000000000000.0 is beyond 1000000000000 and counts in no feature",'
                '"amount":-2000000000000.0,"max_amount":1000000000000,"amount_excluded":true,"time_excluded":true}'
            ),
        ),
        (
            "amount_out_of_range",
            {"amount": math.nan, "is_amount_excluded": True, "max_amount": 10**12},
            "unknown",
            1,
            (
                '{"reason":"the amount is no number that can be computed with and counts in no feature",'
                '"amount":null,"max_amount":1000000000000,"amount_excluded":true}'
            ),
        ),
        (
            "amount_out_of_range",
            {"user_id": 8, "amount": 1e28, "is_amount_excluded": True, "max_amount": 10**12},
            "8",
            1e16,
            (
                '{"reason":"amount 1e+28 is beyond 1000000000000 and counts in no feature","amount":1e28,'
                '"max_amount":1000000000000,"amount_excluded":true}'
            ),
        ),
        (
            "unknown_user",
            {"user_id": 8, "user_exists": False, "amount": 5.0},
            "8",
            1,
            (
                '{"reason":"user 8 did not exist when the transaction was committed","user_id":8,"user_exists":false,'
                '"amount":5.0}'
            ),
        ),
        (
            "unknown_user",
            {"user_exists": False},
            "unknown",
            1,
            '{"reason":"the transaction names no user","user_id":null,"user_exists":false,"amount":null}',
        ),
        (
            "amount_above_mean",
            {"user_id": 7, "amount": 300.01, "prior_mean": 100.0, "prior_count": 5},
            "7",
            1.0000333333333333,
            (
                '{"reason":"amount 300.01 is 3.0 times the mean 100.0 of 5 earlier transactions","amount":300.01,'
                '"prior_mean":100.0,"prior_count":5,"k":3,"min_earlier":5,"threshold":300.0}'
            ),
        ),
        (
            "amount_below_mean",
            {"user_id": 7, "amount": 0.5, "prior_mean": 100.0, "prior_count": 5},
            "7",
            2,
            (
                '{"reason":"amount 0.5 is below 1.0, 0.01 of the mean 100.0 of 5 earlier transactions","amount":0.5,'
                '"prior_mean":100.0,"prior_count":5,"ratio":0.01,"min_earlier":5,"threshold":1.0}'
            ),
        ),
        (
            "velocity",
            {"user_id": 7, "amount": 2.0, "count_10min": 11, "sum_10min": 500.0},
            "7",
            1.1,
            (
                '{"reason":"11 transactions of together 500.0 within 10 minutes, this one included","count_10min":11,'
                '"sum_10min":500.0,"max_count":10,"max_amount":1000,"amount":2.0,"prior_mean":null,"prior_count":null}'
            ),
        ),
    ],
)
def test_the_evidence_of_the_first_rules_is_what_it_always_was(
    name: str, row: dict[str, Any], entity_id: str, score: float, evidence: str
) -> None:
    rules = shipped(name, BANK)
    (text,) = fired_text(rules, BANK, [row])
    assert text is not None
    (firing,) = json.loads(text)
    assert text.endswith(f',"evidence":{evidence}}}]')
    assert [*firing] == [
        *("rule", "rule_version", "state", "severity", "weight", "entity_type", "entity_id", "score", "evidence")
    ]
    assert (firing["rule"], firing["entity_type"], firing["entity_id"]) == (name, "user", entity_id)
    assert math.isclose(firing["score"], score, rel_tol=1e-12)
    assert evaluator(rules)(row) == [firing]


def test_several_rules_fire_on_one_payment_and_none_on_most() -> None:
    rules = [
        bound(when="amount > 1", name="one"),
        bound(when="amount > 2", name="two", state="shadow"),
        bound(when="amount > null_amount", parameters={"null_amount": 3}, name="three"),
    ]
    got = fired(rules, CARDS, [{"amount": 2.5}, {"amount": 1.0}, {"amount": 9.0}, {}])
    assert [[(one["rule"], one["state"]) for one in firings] for firings in got] == [
        [("one", "live"), ("two", "shadow")],
        [],
        [("one", "live"), ("two", "shadow"), ("three", "live")],
        [],
    ]
    assert fired_text(rules, CARDS, [{"amount": 1.0}]) == [None]
    assert fired_text([], CARDS, [{"amount": 1.0}]) == [None]


def test_the_condition_of_several_rules_is_true_where_one_fires() -> None:
    rules = [bound(when="amount > 9", name="one"), bound(when="prior_mean > 0", name="two")]
    with duckdb.connect() as connection:
        connection.execute(
            "create view evaluated as select unnest([10.0, 3.0, null]::double[]) as amount, null as prior_mean"
        )
        assert connection.sql(f"select {fires_sql(rules)} from evaluated").fetchall() == [(True,), (False,), (False,)]
        assert connection.sql(f"select {fires_sql([])} from evaluated limit 1").fetchall() == [(False,)]


def test_an_entity_of_several_keys_is_unknown_where_one_is_null() -> None:
    rules = [bound(entity="user_merchant")]
    rows = [{"amount": 2.0, "user_id": 1, "merchant": "a|b"}, {"amount": 2.0, "user_id": 1}]
    assert [one["entity_id"] for (one,) in fired(rules, CARDS, rows)] == ["1|a|b", "unknown"]
    assert [one["entity_id"] for row in rows for one in evaluator(rules)(row)] == ["1|a|b", "unknown"]


def test_a_score_is_at_most_the_largest_double_and_may_be_null() -> None:
    rules = [bound(score="amount / prior_mean"), bound(score="0 - amount * prior_mean", name="other")]
    rows = [{"amount": 1e300, "prior_mean": 1e-300}, {"amount": 2.0}, {"amount": 1e300, "prior_mean": 1e300}]
    got = [[one["score"] for one in firings] for firings in fired(rules, CARDS, rows)]
    assert got == [[1.7976931348623157e308, -1.0], [None, None], [1.0, -1.7976931348623157e308]]
    assert [[one["score"] for one in evaluator(rules)(row)] for row in rows] == got


def test_placeholders_are_expressions_and_null_prints_unknown() -> None:
    rules = [
        bound(reason="{round(amount / prior_mean, 1)} times, {count_10min} of {category}; {k}", parameters={"k": 0.001})
    ]
    rows = [{"amount": 10.0, "prior_mean": 3.0, "count_10min": 4}, {"amount": 2.0, "category": "it's {x}\\"}]
    reasons = ["3.3 times, 4 of unknown; 0.001", "unknown times, unknown of it's {x}\\; 0.001"]
    assert [one["evidence"]["reason"] for (one,) in fired(rules, CARDS, rows)] == reasons
    assert [one["evidence"]["reason"] for row in rows for one in evaluator(rules)(row)] == reasons


def test_hostile_texts_stay_texts() -> None:
    rules = [
        bound(
            name="quote", parameters={"note": "it's \"}'\\"}, reason="don't {category}", evidence=["note", "category"]
        )
    ]
    row = {"amount": 2.0, "category": "a\"b\\c}'\n"}
    ((firing,),) = fired(rules, CARDS, [row])
    assert firing["evidence"] == {
        "reason": f"don't {row['category']}",
        "note": "it's \"}'\\",
        "category": row["category"],
    }
    assert evaluator(rules)(row) == [firing]


def test_a_column_of_unknown_type_is_evidence_as_it_is() -> None:
    rules = [bound(BANK, streams=["bank"], evidence=["user_id"])]
    for value, kind, expected in [(8, pl.Int64, 8), ("x", pl.String, "x"), (math.nan, pl.Float64, None)]:
        (text,) = fired_text(rules, BANK, [{"amount": 2.0, "user_id": value}], user_id=kind)
        assert text is not None
        assert json.loads(text)[0]["evidence"]["user_id"] == expected
        assert evaluator(rules)({"amount": 2.0, "user_id": value})[0]["evidence"]["user_id"] == expected


amounts = st.one_of(st.none(), st.sampled_from([0.0, 1.0, -5.0, 1e28, math.nan, math.inf]), st.floats(-1e4, 1e4))
counts = st.one_of(st.none(), st.integers(0, 30))
payments = st.fixed_dictionaries(
    {
        "user_id": st.one_of(st.none(), st.integers(-3, 3)),
        "amount": amounts,
        "prior_mean": amounts,
        "sum_10min": amounts,
        "prior_count": counts,
        "count_10min": counts,
        "user_exists": st.one_of(st.none(), st.booleans()),
        "max_amount": st.just(1000),
        "is_amount_excluded": st.one_of(st.none(), st.booleans()),
        "is_time_excluded": st.one_of(st.none(), st.booleans()),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(payments, min_size=1, max_size=20))
def test_sql_and_python_fire_the_same(rows: list[dict[str, Any]]) -> None:
    rules = [*SHIPPED_RULES.of_stream("bank")]
    evaluate = evaluator(rules)
    for row, sql in zip(rows, fired(rules, BANK, rows), strict=True):
        python = evaluate(row)
        assert [one["rule"] for one in python] == [one["rule"] for one in sql]
        for one, other in zip(python, sql, strict=True):
            assert [*one["evidence"]] == [*other["evidence"]]
            assert one | {"score": 0} == other | {"score": 0}
            assert one["score"] == other["score"] or math.isclose(one["score"], other["score"], rel_tol=1e-9)
