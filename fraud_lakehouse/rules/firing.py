"""Which rules fire on a payment, evaluated for all rules of a stream at once: as SQL, and as Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from fraud_lakehouse.rules.binding import UNKNOWN, StreamRule
from fraud_lakehouse.rules.closures import Compiled, Row, compile_python
from fraud_lakehouse.rules.expression import Kind, Node, literal
from fraud_lakehouse.rules.names import entity_id_of
from fraud_lakehouse.rules.sql import Dialect, rendered, text_literal
from fraud_lakehouse.rules.values import as_kind, text_of_any, text_of_time

FLAGS = {"is_amount_excluded": "amount_excluded", "is_time_excluded": "time_excluded"}
"""Columns of a payment that its evidence repeats where they are true, by the key it has there."""

_NO_NUMBERS = ("nan", "inf", "-inf", "infinity", "-infinity")


def header(rule: StreamRule) -> dict[str, object]:
    """What every firing of a rule repeats of the rule."""
    file = rule.rule
    return {
        "rule": file.name,
        "rule_version": file.full_version,
        "state": file.state,
        "severity": file.severity,
        "weight": file.weight,
        "entity_type": rule.entity,
    }


def entity_id(rule: StreamRule) -> Node:
    """Whom a firing is about, as text."""
    return Node("coalesce", Kind.TEXT, (entity_id_of(rule.keys), literal(UNKNOWN)))


def limited(score: Node) -> Node:
    """A score that is limited to the largest double instead of being null beyond it."""
    return Node("limited", Kind.NUMBER, score.args) if score.op == "finite" else score


def evaluator(rules: Iterable[StreamRule]) -> Callable[[Row], list[dict[str, Any]]]:
    """A function from a row to the firings of these rules on it: what `fired_sql` gives, for use without a database."""
    compiled = [(compile_python(rule.when), _firing(rule)) for rule in rules]
    return lambda row: [firing(row) for when, firing in compiled if when(row) is True]


def _firing(rule: StreamRule) -> Callable[[Row], dict[str, Any]]:
    common, entity, score = header(rule), compile_python(entity_id(rule)), compile_python(limited(rule.score))
    evidence = [(name, _plain(node)) for name, node in (("reason", rule.reason), *rule.evidence)]

    def firing(row: Row) -> dict[str, Any]:
        values = {name: value(row) for name, value in evidence}
        flags = {key: True for column, key in FLAGS.items() if as_kind(row.get(column), Kind.BOOLEAN)}
        return {**common, "entity_id": entity(row), "score": score(row), "evidence": values | flags}

    return firing


def _plain(node: Node) -> Compiled:
    """A value as JSON has it."""
    compiled = compile_python(node)

    def plain(row: Row) -> Any:
        value = compiled(row)
        if isinstance(value, datetime):
            return text_of_time(value)
        if node.kind == Kind.ANY and text_of_any(value).lower() in _NO_NUMBERS:
            return None
        return float(value) if isinstance(value, Decimal) else value

    return plain


def fired_sql(rules: Iterable[StreamRule], dialect: Dialect = "duckdb") -> str:
    """An SQL expression: the firings of these rules on a row, as JSON text; null where none fires.

    The row has the rules' `requests`, `features` and `columns`, `is_amount_excluded` and `is_time_excluded`. The text
    is a list of objects with rule, rule_version, state, severity, weight, entity_type, entity_id, score and evidence
    (an object that begins with the reason).
    """
    objects = [f"case when {rendered(rule.when, dialect)} then {_object(rule, dialect)} end" for rule in rules]
    if not objects:
        return f"cast(null as {'varchar' if dialect == 'duckdb' else 'string'})"
    if dialect == "duckdb":  # nullif would have it planned twice
        return f"'[' || list_aggregate([{', '.join(objects)}], 'string_agg', ',') || ']'"
    return f"'[' || nullif(concat_ws(',', {', '.join(objects)}), '') || ']'"


def fires_sql(rules: Iterable[StreamRule], dialect: Dialect = "duckdb") -> str:
    """An SQL condition: whether any of these rules fires on a row."""
    return " or ".join(f"coalesce({rendered(rule.when, dialect)}, false)" for rule in rules) or "false"


def _object(rule: StreamRule, dialect: Dialect) -> str:
    common = json.dumps(header(rule), separators=(",", ":"), ensure_ascii=False)
    values = [("entity_id", entity_id(rule)), ("score", limited(rule.score))]
    evidence = [("reason", rule.reason), *rule.evidence]
    flags = " || ".join(
        f"case when {column} then ',{json.dumps(key)}:true' else '' end" for column, key in FLAGS.items()
    )
    pieces = [
        text_literal(common[:-1] + ",", dialect),
        f"substr({_open(values, dialect)}, 2)",
        """',"evidence":'""",
        _open(evidence, dialect),
        flags,
        "'}}'",
    ]
    return " || ".join(pieces)


def _open(pairs: Iterable[tuple[str, Node]], dialect: Dialect) -> str:
    """A JSON object as text, without its closing brace."""
    fields = ", ".join(f"{text_literal(name, dialect)}, {_json_value(node, dialect)}" for name, node in pairs)
    if dialect == "duckdb":
        return f"regexp_replace(cast(json_object({fields}) as varchar), '[}}]$', '')"
    return f"regexp_replace(to_json(named_struct({fields}), map('ignoreNullFields', 'false')), '[}}]$', '')"


def _json_value(node: Node, dialect: Dialect) -> str:
    if node.kind == Kind.TIME:
        return rendered(Node("text_of_time", Kind.TEXT, (node,)), dialect)
    value = rendered(node, dialect)
    if node.kind == Kind.ANY:  # JSON has no such numbers
        text = rendered(Node("text_of_any", Kind.TEXT, (node,)), dialect)
        return f"case when lower({text}) not in {_NO_NUMBERS} then {value} end"
    return value
