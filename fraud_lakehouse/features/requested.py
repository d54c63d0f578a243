"""What the feature engine must compute for a stream, and the columns it needs of each payment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import sqlglot
from sqlglot import exp

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.arrival import ARRIVAL
from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.engine import EngineFeature
from fraud_lakehouse.features.entries import AMOUNT
from fraud_lakehouse.features.measured import amount_measure
from fraud_lakehouse.features.needs import columns_of
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.sql_text import quoted

NO_TIME = -(2**62)
"""Replaces a missing event time, in microseconds."""
LARGEST_EXACT_AMOUNT = 9e12
"""The largest amount that sums represent exactly (dbt_project/macros/excluded.sql)."""
UNITS = 1_000_000
"""Scaled integers per 1: sums are exact to six decimals."""
_OF_VALUES = ("min", "max", "median", "mad", "first", "last", "distinct")
_WHOLE = ("tinyint", "smallint", "integer", "bigint")
_NUMBERS = (*_WHOLE, "double", "float", "decimal")


@dataclass(frozen=True)
class FeatureRequest:
    """A feature of each payment as of its arrival.

    Args:
        name: its column; equal requests have equal names.
        entity: whose payments count.
        aggregate: as in aggregates.py.
        measure: what is aggregated: a measure of the stream, `amount` (whatever its column's name) or the stream's own
            column; None: payments.
        seconds: of the window that ends at the payment's event time; None: all earlier payments.
        current: whether the window is [t - window, t], including the payment; False: [t - window, t).
        filter: DuckDB SQL over own columns, `amount` and `event_time`; past payments for which it is not true do not
            count. None: all count.
        sql_type: the type of its values.
        sum_is_0: whether an empty sum is 0, as in tables of the fast path; else null.
    """

    name: str
    entity: str
    aggregate: str
    measure: str | None
    seconds: int | None
    current: bool
    filter: str | None
    sql_type: str
    sum_is_0: bool = False


@dataclass(frozen=True)
class EngineInput:
    """Features of one stream in the engine's terms, and the columns that its rows must have (name -> SQL)."""

    kind: Literal["events", "changes"] = "events"
    features: Sequence[EngineFeature] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, int] = field(default_factory=dict)
    named: str = ""
    """What is selected of a row before these columns: its own, and those of every stream that rules can use."""

    @property
    def longest(self) -> int:
        """The longest window, in seconds."""
        return max((feature.seconds or 0 for feature in self.features), default=0)


def of_catalogue(catalogue: Catalogue, stream: PaymentStream) -> list[FeatureRequest]:
    """The catalogue's features of the stream's fast path."""
    return [of_feature(feature) for feature in catalogue.of_table(stream.features)]


def feature_type(feature: EngineFeature) -> pa.DataType:
    """The type of a feature's column."""
    if feature.aggregate in ("count", "distinct"):
        return pa.int64()
    if feature.aggregate == "is_first":
        return pa.bool_()
    return pa.string() if feature.is_text and feature.aggregate in ("first", "last") else pa.float64()


def of_feature(feature: Feature) -> FeatureRequest:
    """A feature of the catalogue, as of the arrival of a payment."""
    current = feature.past in ARRIVAL and feature.seconds is not None
    return FeatureRequest(
        feature.name,
        feature.entity,
        str(feature.aggregate),
        feature.measure,
        feature.seconds,
        current,
        feature.filter,
        feature.data_type,
        sum_is_0=feature.past in ARRIVAL,
    )


def engine_input(stream: PaymentStream, requests: Iterable[FeatureRequest]) -> EngineInput:
    """What the engine needs to compute these features.

    Raises:
        TransformError: a request names an entity or a column that the stream does not have.
    """
    features: list[EngineFeature] = []
    time = quoted(stream.time)
    # without a time an event has no key, so it counts only itself
    moment = f"coalesce(epoch_us({time}), {NO_TIME})" if stream.kind == "events" else f"epoch_us({time})"
    columns = {"_at": f"case when is_time_excluded is not true then {moment} end"}
    units: dict[str, int] = {}
    for request in requests:
        if request.entity not in stream.entities:
            raise TransformError(
                f"the feature {request.name} uses the entity {request.entity!r}, which {stream.name} does not have",
                f"use one of {', '.join(stream.entities)}",
            )
        key = _key(stream, stream.entities[request.entity].key)
        columns[f"key_{request.entity}"] = (
            f"case when {time} is not null then {key} end" if stream.kind == "events" else key
        )
        measure, is_text = None, False
        if request.measure is not None or request.filter is not None:
            expression, is_text = _measured(stream, request)
            measure = _name_of(request)
            if is_text or request.aggregate in _OF_VALUES or request.aggregate.startswith("percentile_"):
                columns[f"value_{measure}"] = expression if is_text else f"cast({expression} as double)"
            else:
                columns[f"units_of_{measure}"] = _units(expression)
                units[measure] = UNITS
        features.append(
            EngineFeature(
                request.name,
                request.entity,
                request.aggregate,
                measure,
                request.seconds,
                request.current,
                is_text,
                sum_of_nothing=0.0 if request.sum_is_0 else None,
            )
        )
    if stream.kind == "changes":
        columns["_weight"] = "weight"
    return EngineInput(stream.kind, features, columns, units, _named(stream))


def _named(stream: PaymentStream) -> str:
    """A row's own columns, and amount, event_time and user_id under these names."""
    keys = [column for entity in stream.entities.values() for column in entity.key]
    own = {*stream.fields, *keys, stream.id, stream.time, stream.amount, *([stream.label] if stream.label else [])}
    wanted = {"amount": stream.amount, "event_time": stream.time}
    wanted = {name: quoted(column) for name, column in wanted.items() if name != column}
    wanted |= {} if "user_id" in own else {"user_id": "cast(null as bigint)"}
    replaced = ", ".join(f"{sql} as {name}" for name, sql in wanted.items() if name in own)
    further = "".join(f", {sql} as {name}" for name, sql in wanted.items() if name not in own)
    return f"*{f' replace ({replaced})' if replaced else ''}{further}"


def _measured(stream: PaymentStream, request: FeatureRequest) -> tuple[str, bool]:
    """The SQL of what is aggregated, null if the row does not count; and whether it is text."""
    expression, is_text = "1", False
    if request.measure is not None:
        named = amount_measure(stream) if request.measure == AMOUNT else request.measure
        declared = stream.measures.get(named)
        expression = declared.expression if declared is not None else quoted(request.measure)
        is_text = declared is None and not _is_number(stream, request.measure)
        if declared is not None and declared.decimals is None:
            is_text = not _is_number(stream, declared.expression)
        if is_text:
            expression = f"cast({expression} as varchar)"
    if request.measure is not None:
        expression = counted(stream, expression)
    if request.filter is not None:
        expression = f"case when ({_condition(stream, request.filter)}) then {expression} end"
    return expression, is_text


def _condition(stream: PaymentStream, text: str) -> str:
    """A filter, in which an excluded amount is null."""
    own = counted(stream, quoted(stream.amount))

    def replaced(node: exp.Expr) -> exp.Expr:
        is_amount = isinstance(node, exp.Column) and node.name in (AMOUNT, stream.amount)
        return exp.paren(sqlglot.parse_one(own, dialect="duckdb")) if is_amount else node

    return sqlglot.parse_one(text, dialect="duckdb").transform(replaced).sql(dialect="duckdb")


def counted(stream: PaymentStream, expression: str) -> str:
    """An expression over a row, null if the row's amount or time is excluded."""
    if stream.amount not in columns_of(expression):
        return expression
    condition = "is_amount_excluded is not true and is_time_excluded is not true"
    return f"case when {condition} and abs({quoted(stream.amount)}) <= {LARGEST_EXACT_AMOUNT:.0f} then {expression} end"


def _is_number(stream: PaymentStream, column: str) -> bool:
    return column == stream.amount or stream.fields.get(column, "varchar").startswith(_NUMBERS)


def _units(expression: str) -> str:
    return f"try_cast(try_cast({expression} as decimal(19, 6)) * {UNITS} as bigint)"


def _name_of(request: FeatureRequest) -> str:
    """The engine's name of a measure."""
    if request.filter is None:
        return str(request.measure)
    digest = hashlib.sha256(request.filter.encode()).hexdigest()[:8]
    return f"{request.measure or 'row'}_where_{digest}"


def _key(stream: PaymentStream, key: Sequence[str]) -> str:
    if len(key) == 1:
        kind = stream.fields.get(key[0], "bigint" if stream.kind == "changes" else "varchar")
        return f"cast({quoted(key[0])} as {'bigint' if kind in _WHOLE else 'varchar'})"
    complete = " and ".join(f"{quoted(column)} is not null" for column in key)
    # the separator keeps joined keys distinct
    joined = " || chr(31) || ".join(f"cast({quoted(column)} as varchar)" for column in key)
    return f"case when {complete} then {joined} end"
