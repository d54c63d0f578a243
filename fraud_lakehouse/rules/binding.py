"""A rule on one stream: its expressions typed, its names resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fraud_lakehouse.features.requested import FeatureRequest
from fraud_lakehouse.pipeline.mistakes import Location
from fraud_lakehouse.rules.expression import Kind, Node, converted, literal
from fraud_lakehouse.rules.names import Names
from fraud_lakehouse.rules.rule import Rule
from fraud_lakehouse.rules.scope import Scope
from fraud_lakehouse.rules.syntax import Problem, Resolve, parse, typed

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
UNKNOWN = "unknown"
"""What a null prints as in reasons, and as an alert's entity."""


@dataclass(frozen=True)
class StreamRule:
    """A rule on one stream.

    Args:
        requests: what it needs of the feature engine; their names are columns of the row that it is evaluated on.
        features: the features of the catalogue it uses, with their types; likewise columns of the row.
        columns: the payment's own columns it uses, with their types.
        names: what the names of the rule stand for.
        keys: the key columns of whom its alerts are about.
        score: not yet limited to the largest double.
    """

    rule: Rule
    scope: Scope
    requests: tuple[FeatureRequest, ...]
    features: Mapping[str, str]
    columns: Mapping[str, str]
    names: Mapping[str, Node]
    entity: str
    keys: tuple[str, ...]
    when: Node
    score: Node
    reason: Node
    evidence: tuple[tuple[str, Node], ...]

    @property
    def seen(self) -> set[str]:
        """The columns of the row that it is evaluated on."""
        flags = {"is_amount_excluded", "is_time_excluded"}
        return {*(request.name for request in self.requests), *self.features, *self.columns, *self.keys, *flags}


Problems = list[tuple[Location, Problem]]
"""What is wrong, each with the key of the file where it is."""


def bind(rule: Rule, scope: Scope) -> StreamRule | Problems:
    """A rule on a stream, or everything that is wrong with it there."""
    names, problems = Names(rule, scope), Problems()
    problems += names.collisions()
    keys = names.columns_of_entity()
    if isinstance(keys, Problem):
        problems.append((("entity",), keys))
        keys = ()
    for name in rule.features:
        found = names.resolve(name)
        if isinstance(found, Problem):
            problems.append((("features", name), found))

    def expression(at: Location, text: str, kind: Kind | None = None) -> Node:
        tree = parse(text)
        if isinstance(tree, Problem):
            problems.append((at, tree))
            return literal(None)
        node, found = typed(tree, _once(names.resolve, rule), kind)
        problems.extend((at, one) for one in found)
        return node

    when = expression(("when",), rule.when, Kind.BOOLEAN)
    score = expression(("score",), rule.score, Kind.NUMBER)
    reason = _reason(rule.reason, expression, problems)
    evidence = tuple(
        (term.name, expression(("evidence", index), term.expression)) for index, term in enumerate(rule.evidence)
    )
    if problems:
        return problems
    columns = names.columns | {key: scope.columns.get(key, "") for key in keys}
    return StreamRule(
        rule=rule,
        scope=scope,
        requests=tuple(names.requests.values()),
        features=names.features,
        columns=columns,
        names=names.resolved(),
        entity=names.entity,
        keys=keys,
        when=when,
        score=score,
        reason=reason,
        evidence=evidence,
    )


def _once(resolve: Resolve, rule: Rule) -> Resolve:
    """Resolve names; what is wrong with a feature that the rule declares is reported where it is declared."""

    def found(name: str) -> Node | Problem:
        node = resolve(name)
        return Node("literal", Kind.ANY) if name in rule.features and isinstance(node, Problem) else node

    return found


def _reason(text: str, expression: Callable[[Location, str], Node], problems: Problems) -> Node:
    """The reason as a text: each placeholder is an expression, and prints `unknown` where it is null."""
    parts: list[Node] = []
    position = 0
    for found in _PLACEHOLDER.finditer(text):
        parts += [literal(text[position : found.start()]), _printed(expression(("reason",), found[1]))]
        position = found.end()
    parts.append(literal(text[position:]))
    if any("{" in one.value or "}" in one.value for one in parts if one.op == "literal" and isinstance(one.value, str)):
        problems.append((("reason",), Problem("a brace without its pair, expected {expression}")))
    kept = tuple(one for one in parts if one.value != "" or one.op != "literal")
    return Node("concat", Kind.TEXT, kept) if len(kept) > 1 else kept[0]


def _printed(node: Node) -> Node:
    return Node("coalesce", Kind.TEXT, (converted(node, Kind.TEXT), literal(UNKNOWN)))
