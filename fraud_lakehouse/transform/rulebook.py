"""The rules of a project's streams, as a model's SQL needs them: features, columns and expressions.

Rule files are not part of the compiled project: they are read again when one changes, so that a rule applies from the
next build on. The columns that rules need are stored with a payment's other features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp

from fraud_lakehouse.features.needs import columns_of
from fraud_lakehouse.features.requested import (
    EngineInput,
    counted,
    engine_input,
    of_catalogue,
    of_feature,
)
from fraud_lakehouse.rules import Rules, load_rules, rules_folder, scopes_of
from fraud_lakehouse.rules.scope import FACTS
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.project_files import Stamp, stamp_of
from fraud_lakehouse.transform.scored import feature_column

if TYPE_CHECKING:
    from fraud_lakehouse.features.catalogue import Catalogue, Feature
    from fraud_lakehouse.features.streams import PaymentStream
    from fraud_lakehouse.rules import StreamRule
    from fraud_lakehouse.transform.scan import Columns
    from fraud_lakehouse.transform.table_cache import Key

ANY = "any"
"""Matches both states of rules: live and shadow."""
log = logging.getLogger(__name__)
NAMED = frozenset({*FACTS, "amount", "event_time", "user_id"})
"""Columns of every stream that rules can use, whatever the stream calls its own."""


def further_columns(stream: str) -> str:
    """The placeholder in a model's SQL for columns that a stream's rules need and its features' table lacks."""
    return f"lake_further_{stream}"


@dataclass(frozen=True)
class _Needed:
    """What the rules of one stream need.

    Args:
        engine: what the engine computes, for the catalogue too.
        read: columns of a payment that the columns below are computed from.
        columns: further columns of the table of features: name -> SQL.
        types: their types.
    """

    engine: EngineInput
    read: Sequence[str]
    columns: Mapping[str, str]
    types: Mapping[str, str]


class RuleBook:
    """The rules of the streams of one project at a time (`use`).

    Args:
        folder: the pipeline folder; None: no rules.
        max_amount: the limit of amounts for streams without their own.
    """

    def __init__(self, folder: Path | None = None, max_amount: float = 0.0) -> None:
        self._folder = folder
        self._max_amount = max_amount
        self._catalogue: Catalogue | None = None
        self._stamp: Stamp | None = None
        self._rules = Rules(Path(), is_own=False)
        self._needed: dict[str, _Needed] = {}

    @property
    def mistakes(self) -> dict[str, str]:
        """Errors in rules that are not evaluated as their files say, by the rule's name."""
        in_force = dict.fromkeys(self._rules.rules, " (the previous version stays in force)")
        return {name: problem + in_force.get(name, "") for name, problem in self._rules.problems.items()}

    def use(self, catalogue: Catalogue | None) -> None:
        """Use the streams and features of this catalogue from now on."""
        if catalogue != self._catalogue:
            self._rules = Rules(Path(), is_own=False)
        self._catalogue = catalogue
        self._stamp = None
        self._needed.clear()
        self.refresh()

    def refresh(self) -> None:
        """Read the rules again if a file changed. Called at the start of a build, which then uses one set of rules."""
        if self._folder is None or self._catalogue is None:
            self._rules = Rules(Path(), is_own=False)
            self._needed.clear()
            return
        folder, _ = rules_folder(self._folder)
        try:
            stamp = stamp_of(folder)
        except FileNotFoundError:
            return  # a file disappeared meanwhile: the next build reads it
        if stamp == self._stamp and stamp.is_synced:
            return
        before = self.mistakes
        rules = load_rules(self._folder, scopes_of(self._catalogue, self._max_amount)).with_former(self._rules)
        if rules != self._rules:
            self._rules = rules
            self._needed.clear()
        self._stamp = stamp
        for name, mistake in self.mistakes.items():
            if before.get(name) != mistake:
                log.error("rule %s: %s", name, mistake)

    def of_stream(self, name: str) -> tuple[EngineInput, Sequence[str]]:
        """What the engine must compute for a stream's payments, and the columns of a payment that rules need."""
        needed = self._of(name)
        return needed.engine, needed.read

    def further_columns(self, name: str) -> str:
        """SQL of the further columns of a stream's table of features, to follow other columns."""
        return "".join(f", {sql} as {quoted(column)}" for column, sql in self._of(name).columns.items())

    def rules(self, stream: str, state: str, on: str) -> list[StreamRule]:
        """The rules of a stream in one state (ANY: live or shadow)."""
        return [rule for rule in self._rules.of_stream(stream, on) if state in (ANY, rule.rule.state)]

    def columns_of(self, key: Key) -> Columns:
        """Name and type of the columns that rules add to a table of features."""
        streams = self._catalogue.streams.values() if self._catalogue is not None else ()
        for stream in streams:
            if key == ("gold", stream.features):
                return list(self._of(stream.name).types.items())
        return []

    def _of(self, name: str) -> _Needed:
        assert self._catalogue is not None
        if name not in self._needed:
            stream = self._catalogue.streams[name]
            self._needed[name] = _needed(stream, self._catalogue, self._rules.of_stream(name))
        return self._needed[name]


def _needed(stream: PaymentStream, catalogue: Catalogue, rules: Sequence[StreamRule]) -> _Needed:
    requests = {request.name: request for request in of_catalogue(catalogue, stream)}
    stored = set(requests)
    known = {feature.name: feature for feature in catalogue.of_table(stream.vectors)}
    columns: dict[str, str] = {}
    types: dict[str, str] = {}
    read: dict[str, None] = {}

    for rule in rules:
        for one in rule.requests:
            requests.setdefault(one.name, one)
            columns[one.name] = quoted(feature_column(one.name))
            types[one.name] = one.sql_type
        for name, kind in rule.features.items():
            if name in stored:
                continue
            feature, types[name] = known[name], kind
            if feature.expression is None:
                requests.setdefault(name, of_feature(feature))
                columns[name] = quoted(feature_column(name))
            else:
                columns[name], used, of_payment = _derived(stream, feature, known)
                for other in used:
                    requests.setdefault(other.name, of_feature(other))
                read |= dict.fromkeys(of_payment)
        for name, kind in rule.columns.items():
            if name not in NAMED and name not in stream.entities[stream.entity].key:
                columns[name], types[name] = quoted(name), kind
                read[name] = None
    return _Needed(engine_input(stream, requests.values()), list(read), columns, types)


def _derived(
    stream: PaymentStream, feature: Feature, known: Mapping[str, Feature]
) -> tuple[str, list[Feature], set[str]]:
    """SQL of a feature computed from others; the features and payment columns that it needs."""
    used: list[Feature] = []
    of_payment: set[str] = set()

    def replaced(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        if node.name in known:
            used.append(known[node.name])
            return exp.column(feature_column(node.name), quoted=True)
        measure = stream.measures[node.name].expression
        of_payment.update(columns_of(measure))
        return exp.paren(sqlglot.parse_one(counted(stream, measure), dialect="duckdb"))

    tree = sqlglot.parse_one(str(feature.expression), dialect="duckdb").transform(replaced)
    return tree.sql(dialect="duckdb"), used, of_payment
