"""A rule as its file has it, without any stream."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.aggregates import AGGREGATES
from fraud_lakehouse.features.aggregates import aggregate as aggregate_of
from fraud_lakehouse.features.window import Window
from fraud_lakehouse.pipeline.mistakes import nearest, one_of, shown
from fraud_lakehouse.pipeline.values import NAME, Entry, Seconds, with_names

ALL = "all"
STATES = ("draft", "shadow", "live", "retired")
SEVERITIES = ("low", "medium", "high", "critical")
EVALUATED = ("live", "shadow")
"""States in which a rule is evaluated."""
Name = Annotated[str, Field(pattern=NAME, max_length=60, description="a name of a-z, 0-9 and _, a letter first")]
Expression = Annotated[str, Field(min_length=1, description="an SQL expression over features and columns")]


def _expression(value: Any) -> Any:
    """An expression that reads as a number or as true or false is meant as SQL."""
    return str(value).lower() if isinstance(value, bool | int | float) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class DeclaredFeature(Entry):
    """A feature that a rule declares for itself.

    With a window, event time in [t - window, t] counts, the payment itself included; with `current: false` in
    [t - window, t). Without one all earlier payments count.
    """

    name: Name
    aggregate: str = Field(description=f"one of {', '.join(AGGREGATES)}, or percentile_1 to percentile_99")
    measure: str | None = Field(None, min_length=1, description="a measure of the stream, amount or an own column")
    window: str | None = Field(None, description='a size such as "10 minutes"')
    entity: str | None = Field(None, description="an entity of the stream")
    current: Annotated[bool, Strict()] | None = Field(None, description="true or false")
    filter: Annotated[Expression | None, BeforeValidator(_expression)] = None

    @property
    def seconds(self) -> int | None:
        """The window's length."""
        return Window.parse(self.window).seconds if self.window is not None else None

    @field_validator("aggregate")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            aggregate_of(value)
        except TransformError:
            known = [*AGGREGATES, "percentile_95"]
            raise ValueError(
                f"found {shown(value)}, expected one of {', '.join(known)}{nearest(value, known)}"
            ) from None
        return value

    @field_validator("window")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        try:
            Window.parse(value or "1 second")
        except TransformError:
            raise ValueError(f'found {shown(value)}, expected a size such as "10 minutes" or "30 days"') from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> DeclaredFeature:
        kind = aggregate_of(self.aggregate)
        if kind.measured and self.measure is None and self.aggregate != "count":
            raise ValueError(
                f"the aggregate {self.aggregate} has no measure, expected `measure: amount` or another one"
            )
        if not kind.measured and self.measure is not None:
            raise ValueError(f"the aggregate {self.aggregate} has a measure, expected none")
        if not kind.windowed and self.window is not None:
            raise ValueError(f"the aggregate {self.aggregate} has a window, expected none")
        if self.window is None and self.current:
            raise ValueError("found `current: true` without a window, expected a window, or `current` left out")
        return self


class Example(Entry):
    """Values of some names, and what the rule then does; names without a value are null."""

    given: dict[str, Any] = Field(description="a mapping of names to values")
    fires: Annotated[bool, Strict()] = Field(description="true or false")
    score: Annotated[float, Strict()] | None = Field(None, description="a number")
    reason: str | None = Field(None, description="a text")


class Term(Entry):
    """One value of the evidence: a name, or a name for an expression."""

    name: Name
    expression: Expression


def _terms(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    terms = []
    for one in value:
        if isinstance(one, str):
            terms.append({"name": one, "expression": one})
        elif isinstance(one, dict) and len(one) == 1:
            ((name, expression),) = one.items()
            terms.append({"name": name, "expression": _expression(expression)})
        else:
            raise ValueError(
                f"found {shown(one)}, expected names, or a name with an expression such as threshold: 3 * mean"
            )
    return terms


class Rule(Entry):
    """One rule: the file `<name>.yml`.

    Args:
        streams: names of streams, or "all".
        kinds: with "all", only streams of these kinds.
        entity: whom its alerts are about; None: the stream's first entity.
        on: `arrival`: evaluated when a payment arrives; `vectors`: when its feature vectors are built.
        weight: points towards the payment's risk.
        cooldown: seconds in which later firings on the entity notify nobody.
    """

    name: Name
    description: str = Field(min_length=1, description="a sentence that says when the rule fires")
    streams: tuple[str, ...] = Field(min_length=1, description="a list of streams, or all")
    except_: tuple[str, ...] = Field((), alias="except", description="a list of streams")
    kinds: tuple[Literal["events", "changes"], ...] = Field((), description="a list of events and changes")
    entity: str | None = Field(None, description="an entity of the streams")
    state: Literal["draft", "shadow", "live", "retired"] = "draft"
    severity: Literal["low", "medium", "high", "critical"] = Field(description=f"one of {', '.join(SEVERITIES)}")
    weight: Annotated[int, Strict()] = Field(0, ge=0, le=100, description="a whole number from 0 to 100")
    version: Annotated[int, Strict()] = Field(1, ge=1, description="a whole number from 1 on")
    on: Literal["arrival", "vectors"] = "arrival"
    parameters: dict[Name, Any] = Field(default_factory=dict, description="a mapping of names to numbers or texts")
    features: dict[str, DeclaredFeature] = Field(default_factory=dict, description="a mapping of names to features")
    when: Annotated[Expression, BeforeValidator(_expression)]
    score: Annotated[Expression, BeforeValidator(_expression)] = "1"
    reason: str = Field(min_length=1, description="a text with {expressions} in it")
    evidence: Annotated[tuple[Term, ...], BeforeValidator(_terms)] = Field((), description="a list of names")
    cooldown: Seconds | None = None
    examples: tuple[Example, ...] = Field((), description="a list of examples, each with given and fires")
    source: str | None = Field(None, min_length=1, description="a text: where the idea comes from")

    @property
    def is_evaluated(self) -> bool:
        """Whether it is live or a shadow."""
        return self.state in EVALUATED

    @property
    def full_version(self) -> str:
        """`<version>-<hash>`: the hash is of what decides when it fires and how far."""
        decisive = {
            "when": self.when.split(),
            "score": self.score.split(),
            "parameters": self.parameters,
            "features": {name: one.model_dump(exclude={"name"}) for name, one in self.features.items()},
            "entity": self.entity,
            "on": self.on,
        }
        text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
        return f"{self.version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @field_validator("streams", "except_", "kinds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _one_or_more(value)

    @field_validator("state", "severity", "on", mode="before")
    @classmethod
    def _known(cls, value: Any, info: Any) -> str:
        valid = {"state": STATES, "severity": SEVERITIES, "on": ("arrival", "vectors")}
        return one_of(value, valid[info.field_name], "one of")

    @field_validator("parameters")
    @classmethod
    def _constants(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError(f"{name}: found {shown(value)}, expected a number or a text")  # noqa: TRY004  # pydantic's
        return values

    @field_validator("features", mode="before")
    @classmethod
    def _named_features(cls, values: Any) -> Any:
        return with_names(values, "aggregate")

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.except_ and self.streams != (ALL,):
            raise ValueError("found `except` with a list of streams, expected it only with `streams: all`")
        if ALL in self.streams and len(self.streams) > 1:
            raise ValueError("found all among other streams, expected `streams: all` alone")
        for name in self.parameters:
            if name in self.features:
                raise ValueError(f"{name} is a parameter and a feature, expected two names")
        twice = [term.name for term in self.evidence if [one.name for one in self.evidence].count(term.name) > 1]
        if twice or "reason" in [one.name for one in self.evidence]:
            raise ValueError(f"the evidence has {twice[0] if twice else 'reason'} twice, expected each name once")
        return self
