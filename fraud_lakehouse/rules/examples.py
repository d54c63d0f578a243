"""The examples of rule files, run on the rule's first stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fraud_lakehouse.pipeline import Mistake
from fraud_lakehouse.pipeline.mistakes import nearest, shown
from fraud_lakehouse.rules.binding import StreamRule
from fraud_lakehouse.rules.expression import Kind, Node
from fraud_lakehouse.rules.firing import evaluator
from fraud_lakehouse.rules.loading import FOLDER, Rules
from fraud_lakehouse.rules.rule import Example
from fraud_lakehouse.rules.values import as_kind

_TYPES: dict[Kind, tuple[type, ...]] = {
    Kind.WHOLE: (int,),
    Kind.NUMBER: (int, float),
    Kind.TEXT: (str, int),
    Kind.BOOLEAN: (bool,),
    Kind.TIME: (str, datetime),
}


def run_examples(rules: Rules, name: str | None = None) -> list[Mistake]:
    """What the rules do otherwise than their examples say, by file and line.

    Args:
        name: of one rule; None: of all.
    """
    mistakes = []
    for rule_name, bound in rules.bound.items():
        if name not in (None, rule_name):
            continue
        lines = rules.example_lines[rule_name]
        for index, example in enumerate(bound[0].rule.examples):
            for problem in _problems(bound[0], example):
                where = f"examples[{index}]: {problem}"
                mistakes.append(Mistake(f"{FOLDER}/{rule_name}.yml", lines[index], where))
    return sorted(mistakes)


def _problems(rule: StreamRule, example: Example) -> Iterator[str]:
    row: dict[str, Any] = {}
    is_given = True
    for name, value in example.given.items():
        problem = _give(row, rule, name, value)
        if problem is not None:
            is_given = False
            yield problem
    if not is_given:
        return
    fired = evaluator([rule])(row)
    if bool(fired) != example.fires:
        expected = "fires" if example.fires else "does not fire"
        yield f"the rule {'fires' if fired else 'does not fire'}, expected that it {expected}"
    elif fired:
        score, reason = fired[0]["score"], fired[0]["evidence"]["reason"]
        if example.score is not None and not (score is not None and math.isclose(score, example.score, rel_tol=1e-9)):
            yield f"the score is {'null' if score is None else repr(score)}, expected {example.score!r}"
        if example.reason is not None and reason != example.reason:
            yield f"the reason is {reason!r}, expected {example.reason!r}"


def _give(row: dict[str, Any], rule: StreamRule, name: str, value: Any) -> str | None:
    """Put a given value into the row; what is wrong with it, if something is."""
    if name == "entity_id":
        parts = str(value).split("|", len(rule.keys) - 1) if value is not None else []
        row.update(zip(rule.keys, parts, strict=False))
        return None
    node = rule.names.get(name)
    if node is None and name in rule.keys:
        node = Node("column", Kind.ANY, value=name)
    if node is None or node.op != "column":
        names = [one for one, found in rule.names.items() if found.op == "column"]
        valid = [*dict.fromkeys([*names, *rule.keys, "entity_id"])]
        what = "is a parameter" if node is not None else "is no name that the rule uses"
        return f"{name} {what}, expected one of {', '.join(valid)}{nearest(name, valid) if node is None else ''}"
    types = _TYPES.get(node.kind, (object,))
    if value is not None and (
        not isinstance(value, types)
        or (isinstance(value, bool) and bool not in types and object not in types)
        or as_kind(value, node.kind) is None
    ):
        return f"{name}: found {shown(value)}, expected a {node.kind}"
    row[node.value] = value
    return None
