"""What a name in a rule's expressions stands for on one stream, and which features the rule thereby needs.

Names are found in this order: the rule's parameters, its own features, the catalogue's features, the naming scheme
(`card_amount_sum_1h`, `card_count_5min`, `card_distinct_category_60s`, `user_seconds_since_last`), the columns.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fraud_lakehouse.features.aggregates import AGGREGATES
from fraud_lakehouse.features.aggregates import aggregate as aggregate_of
from fraud_lakehouse.features.requested import FeatureRequest
from fraud_lakehouse.pipeline.mistakes import Location, nearest
from fraud_lakehouse.rules.expression import NUMERIC, Kind, Node, column, kind_of, literal
from fraud_lakehouse.rules.rule import ALL, DeclaredFeature, Rule
from fraud_lakehouse.rules.scope import FACTS, Scope
from fraud_lakehouse.rules.sql import duckdb_sql
from fraud_lakehouse.rules.syntax import Problem, parse, typed

WINDOWS = {
    "60s": 60,
    "5min": 300,
    "10min": 600,
    "1h": 3_600,
    "6h": 21_600,
    "24h": 86_400,
    "7d": 604_800,
    "30d": 2_592_000,
}
"""The windows of the naming scheme, in seconds."""
AMOUNT = "amount"
WITH_CURRENT = "_with_current"
_SHORT = {seconds: name for name, seconds in WINDOWS.items()}
_OF_ALL = [name for name, kind in AGGREGATES.items() if not kind.windowed]
_MEASURED = re.compile(
    rf"(\w+?)_({'|'.join(name for name, kind in AGGREGATES.items() if kind.measured)}|percentile_[1-9]\d?)"
)


class Names:
    """The names of one rule on one stream. What has been resolved is in `requests`, `features` and `columns`."""

    def __init__(self, rule: Rule, scope: Scope) -> None:
        self._rule, self._scope = rule, scope
        self.entity = rule.entity or scope.entity
        self.requests: dict[str, FeatureRequest] = {}
        self.features: dict[str, str] = {}
        self.columns: dict[str, str] = {}
        self._resolved: dict[str, Node] = {}

    def resolve(self, name: str) -> Node | Problem:
        """What a name stands for: a constant, or a column of the row."""
        if name not in self._resolved:
            found = self._found(name)
            if isinstance(found, Problem):
                return found
            self._resolved[name] = found
        return self._resolved[name]

    def resolved(self) -> dict[str, Node]:
        """The names that were used, with what they stand for."""
        return dict(self._resolved)

    def columns_of_entity(self) -> tuple[str, ...] | Problem:
        """The key columns of whom the rule's alerts are about."""
        return self._keys(self.entity)

    def collisions(self) -> list[tuple[Location, Problem]]:
        """Names that the rule gives, and that mean something else already."""
        rule, scope = self._rule, self._scope
        problems: list[tuple[Location, Problem]] = []
        for what, key in (("parameter", "parameters"), ("feature", "features")):
            for name in getattr(rule, key):
                other = None
                if name in scope.features or (rule.on == "vectors" and name in scope.vectors):
                    other = "a feature of the catalogue"
                elif name in scope.columns and name not in FACTS and self._is_strict(name):
                    other = "a column"
                elif self._by_scheme(name) is not None:
                    other = "a feature by its form"
                if other is not None:
                    problem = Problem(f"the {what} {name} is also {other} of {scope.name}, expected another name")
                    problems.append(((key, name), problem))
        return problems

    def _is_strict(self, name: str) -> bool:
        return self._rule.streams != (ALL,) or name in (AMOUNT, "event_time")

    def _found(self, name: str) -> Node | Problem:
        rule, scope = self._rule, self._scope
        if name in rule.parameters:
            return literal(rule.parameters[name])
        if name in rule.features:
            return self._declared(name, rule.features[name])
        known = scope.vectors if rule.on == "vectors" else scope.features
        if name in known:
            self.features[name] = known[name]
            return column(name, known[name])
        if name in scope.delayed:
            return Problem(
                f"{name} waits for labels, which are not known when a payment of {scope.name} arrives, expected"
                " another feature, or `on: vectors`: it is evaluated once the vectors are built"
            )
        if name in ("entity_type", "entity_id", "stream"):
            return self._about(name)
        if rule.on == "arrival" and (request := self._by_scheme(name)) is not None:
            return self._requested(request)
        if name == scope.label:
            return Problem(
                f"{name} is the label of {scope.name}, which is not known when a rule is evaluated, expected another"
                " column, or with `on: vectors` a feature of labels"
            )
        if name in scope.columns:
            self.columns[name] = scope.columns[name]
            return column(name, scope.columns[name])
        valid = [*rule.parameters, *rule.features, *known, *scope.columns]
        likely = nearest(name, valid) or nearest(name, self._scheme())
        return Problem(f"{name} is no parameter, feature or column of {scope.name}{likely}", is_name=True)

    def _about(self, name: str) -> Node | Problem:
        """The entity of the rule's alerts: its kind, and its key as text; or the stream's name."""
        if name != "entity_id":
            return literal(self.entity if name == "entity_type" else self._scope.name)
        keys = self._keys(self.entity)
        if isinstance(keys, Problem):
            return keys
        self.columns |= {key: self._scope.columns.get(key, "") for key in keys}
        return entity_id_of(keys)

    def _keys(self, entity: str) -> tuple[str, ...] | Problem:
        entities = self._scope.entities
        if entity in entities:
            return entities[entity]
        return Problem(
            f"{entity!r} is no entity of {self._scope.name}, expected one of {', '.join(entities)}"
            f"{nearest(entity, entities)}",
            is_name=True,
        )

    def _declared(self, name: str, feature: DeclaredFeature) -> Node | Problem:
        """A feature of the rule's `features`."""
        if self._rule.on == "vectors":
            return Problem("`on: vectors` reads what is stored, expected no `features`, or `on: arrival`")
        entity = feature.entity or self.entity
        keys = self._keys(entity)
        if isinstance(keys, Problem):
            return Problem(f"the feature {name}: {keys.text}", is_name=True)
        condition = self._filter(name, feature.filter) if feature.filter is not None else None
        if isinstance(condition, Problem):
            return condition
        measure = self._measure(feature.measure, feature.aggregate) if feature.measure is not None else None
        if isinstance(measure, Problem):
            return Problem(f"the feature {name}: {measure.text}", measure.is_name)
        window = feature.seconds
        current = window is not None and feature.current is not False
        return self._requested(_request(entity, feature.aggregate, measure, window, condition, current=current))

    def _filter(self, name: str, text: str) -> str | Problem:
        """The condition of a feature, in DuckDB's SQL; it sees constants and the columns of the past payment."""
        tree = parse(text)
        if isinstance(tree, Problem):
            return Problem(f"the filter of {name}: {tree.text}")

        def resolve(used: str) -> Node | Problem:
            if used in self._rule.parameters:
                return literal(self._rule.parameters[used])
            if used in self._scope.columns and used not in FACTS and used != self._scope.label:
                return column(used, self._scope.columns[used])
            own = [one for one in self._scope.columns if one not in FACTS and one != self._scope.label]
            why = "the label, which is not known yet" if used == self._scope.label else "no column"
            return Problem(
                f"{used} is {why} of {self._scope.name}{nearest(used, own)}", is_name=used != self._scope.label
            )

        node, problems = typed(tree, resolve, Kind.BOOLEAN)
        if problems:
            return Problem(f"the filter of {name}: {problems[0].text}", all(one.is_name for one in problems))
        return duckdb_sql(node)

    def _measure(self, name: str, aggregate: str) -> str | Problem:
        """The measure under the name that the engine knows it by."""
        scope = self._scope
        if name in scope.delayed_measures or name == scope.label:
            return Problem(
                f"{name} is known only when labels are, expected another measure, or `on: vectors` with a feature of"
                " the catalogue that waits for them"
            )
        is_number = name in (AMOUNT, scope.amount) or scope.measures.get(name)
        if is_number is None:
            if name not in scope.columns or name in FACTS:
                valid = [*scope.measures, AMOUNT, *(one for one in scope.columns if one not in FACTS)]
                return Problem(f"{name} is no measure or column of {scope.name}{nearest(name, valid)}", is_name=True)
            is_number = kind_of(scope.columns[name]) in (*NUMERIC, Kind.ANY)
        if aggregate_of(aggregate).numeric and aggregate != "count" and not is_number:
            return Problem(f"the aggregate {aggregate} needs numbers, and {name} is none, expected count or distinct")
        return AMOUNT if name == scope.amount else name

    def _by_scheme(self, name: str) -> FeatureRequest | None:
        """The feature that a name describes by its form; None where it has no such form on this stream."""
        current = name.endswith(WITH_CURRENT)
        name = name.removesuffix(WITH_CURRENT)
        for entity in self._scope.entities:
            feature = name.removeprefix(f"{entity}_")
            if feature == name:
                continue
            if feature in _OF_ALL and not current:
                return _request(entity, feature, None, None, None, current=False)
            what, _, window = feature.rpartition("_")
            if window not in WINDOWS:
                continue
            found = self._windowed(what)
            if found is not None:
                return _request(entity, *found, WINDOWS[window], None, current=current)
        return None

    def _windowed(self, what: str) -> tuple[str, str | None] | None:
        """Aggregate and measure of the middle of a name, such as `amount_sum`, `count` or `distinct_category`."""
        if what == "count":
            return "count", None
        column_name = what.removeprefix("distinct_")
        if column_name != what:
            options = [("distinct", one) for one in (column_name, column_name.removesuffix("s"))]
        else:
            found = _MEASURED.fullmatch(what)
            options = [(found[2], found[1])] if found is not None else []
        for aggregate, measure in options:
            known = self._measure(measure, aggregate)
            if isinstance(known, str):
                return aggregate, known
        return None

    def _scheme(self) -> Iterator[str]:
        """Names of the scheme, for suggestions."""
        scope = self._scope
        measures = [
            name for name, is_number in scope.measures.items() if is_number and name not in scope.delayed_measures
        ]
        named = [
            f"{one}_{kind}"
            for one in dict.fromkeys([AMOUNT, *measures])
            for kind in ("count", "sum", "mean", "max", "min")
        ]
        own = [f"distinct_{one}" for one in scope.columns if one not in FACTS]
        for entity in scope.entities:
            yield from (f"{entity}_{one}" for one in _OF_ALL)
            yield from (
                f"{entity}_{what}_{window}" for what, window in itertools.product(["count", *named, *own], WINDOWS)
            )

    def _requested(self, request: FeatureRequest) -> Node:
        while request.name in self._scope.features or request.name in self._scope.columns:
            request = replace(request, name=f"{request.name}_")  # a column of another meaning has this name
        self.requests[request.name] = request
        return column(request.name, request.sql_type)


def entity_id_of(keys: Sequence[str]) -> Node:
    """An entity's keys as text, joined by |; null where one is."""
    parts: list[Node] = []
    for key in keys:
        parts += [literal("|"), Node("text_of_any", Kind.TEXT, (Node("column", Kind.ANY, value=key),))]
    return parts[1] if len(parts) == 2 else Node("concat", Kind.TEXT, tuple(parts[1:]))


def _request(
    entity: str, aggregate: str, measure: str | None, seconds: int | None, condition: str | None, *, current: bool
) -> FeatureRequest:
    kind = aggregate_of(aggregate)
    words = [entity, *([aggregate, measure] if aggregate == "distinct" else [measure, aggregate])]
    name = "_".join(one for one in words if one is not None)
    if kind.windowed:
        name += f"_{_SHORT.get(seconds, f'{seconds}s')}" if seconds is not None else "_ever"
    if condition is not None:
        name += f"_where_{hashlib.sha256(condition.encode()).hexdigest()[:8]}"
    name += WITH_CURRENT if current else ""
    whole = "bigint" if kind.data_type == "integer" else kind.data_type
    return FeatureRequest(name, entity, aggregate, measure, seconds, current, condition, whole)
