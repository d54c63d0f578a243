"""The rules that ship: their examples, in Python and in DuckDB."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from fraud_lakehouse.cli.rules import checked_rules
from fraud_lakehouse.rules import StreamRule, bind, evaluator, fired_sql
from fraud_lakehouse.rules.rule import Example
from fraud_lakehouse.settings import Settings
from tests.declared import SHIPPED

RULES, MISTAKES = checked_rules(Settings(), SHIPPED)
ON_STREAMS = {f"{name}-{one.scope.name}": one for name, bound in RULES.bound.items() for one in bound}
EXAMPLES = {
    f"{name}-{index}": (rule, example)
    for name, rule in ON_STREAMS.items()
    for index, example in enumerate(rule.rule.examples)
}

PARAMETERS = [(bound[0], parameter) for bound in RULES.bound.values() for parameter in bound[0].rule.parameters]


def row_of(rule: StreamRule, example: Example) -> dict[str, Any]:
    """The values of an example by column; the others that the rule sees are null."""
    row: dict[str, Any] = dict.fromkeys(rule.seen)
    for name, value in example.given.items():
        if name == "entity_id":
            row |= zip(rule.keys, str(value).split("|"), strict=True)
        else:
            row[str(rule.names[name].value)] = value
    return row


def fired_in_duckdb(rule: StreamRule, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The firings on one row whose columns have the types that the rule sees."""
    types = {**rule.features, **rule.columns} | {request.name: request.sql_type for request in rule.requests}
    types |= {"is_amount_excluded": "boolean", "is_time_excluded": "boolean"}
    columns = ", ".join(f'cast(? as {types[name] or "varchar"}) as "{name}"' for name in row)
    with duckdb.connect() as connection:
        found = connection.execute(f"select {fired_sql([rule])} from (select {columns})", [*row.values()]).fetchone()
    assert found is not None
    return json.loads(found[0]) if found[0] is not None else []


def test_every_shipped_rule_is_without_mistakes() -> None:
    assert MISTAKES == []
    assert [*RULES.rules] == sorted(path.stem for path in (SHIPPED / "rules").glob("*.yml"))
    assert len(RULES.rules) >= 20


@pytest.mark.parametrize("name", [*RULES.rules])
def test_every_shipped_rule_has_examples_that_fire_and_that_do_not(name: str) -> None:
    examples = RULES.rules[name].examples
    assert len(examples) >= 3
    assert {example.fires for example in examples} == {True, False}


@pytest.mark.parametrize("name", [*RULES.rules])
def test_every_shipped_rule_has_a_source_and_shows_its_parameters(name: str) -> None:
    rule = RULES.rules[name]
    assert rule.source and rule.weight > 0 and rule.is_evaluated
    numbers = {name for name, value in rule.parameters.items() if not isinstance(value, str)}
    assert numbers <= {term.name for term in rule.evidence}


@pytest.mark.parametrize(
    "rule, parameter", PARAMETERS, ids=[f"{rule.rule.name}-{parameter}" for rule, parameter in PARAMETERS]
)
def test_examples_are_at_the_threshold(rule: StreamRule, parameter: str) -> None:
    """With a parameter a little smaller, and with it a little larger, some example is no longer true.

    Of a list of networks: with all networks, and with none that counts.
    """
    value = rule.rule.parameters[parameter]
    if isinstance(value, str):
        others: tuple[object, ...] = ("0.0.0.0/0, ::/0", "255.255.255.255")
    else:
        others = (value - 1, value + 1) if isinstance(value, int) else (value * 0.75, value * 1.25)
    for changed in others:
        parameters = rule.rule.parameters | {parameter: changed}
        other = bind(rule.rule.model_copy(update={"parameters": parameters}), rule.scope)
        assert isinstance(other, StreamRule)
        fires = [bool(evaluator([other])(row_of(rule, example))) for example in rule.rule.examples]
        assert fires != [example.fires for example in rule.rule.examples], f"{changed} passes all examples"


@pytest.mark.parametrize("rule, example", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_gives_the_same_in_duckdb_as_in_python(rule: StreamRule, example: Example) -> None:
    row = row_of(rule, example)
    found = fired_in_duckdb(rule, row)
    assert bool(found) == example.fires
    assert found == evaluator([rule])(row)
