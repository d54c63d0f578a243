"""Adds the measures and tables of the catalogue's file to the streams."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.entries import ALL, AMOUNT, FAST_PATH, FIRST, CatalogueFile, Entry
from fraud_lakehouse.features.streams import Measure, PaymentStream, Table

FAST_PATH_FEATURES = ["prior_mean", "prior_count", "count_10min", "sum_10min"]
"""The table that rules read."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def measured_streams(streams: Mapping[str, PaymentStream], file: CatalogueFile, name: str) -> dict[str, PaymentStream]:
    """The streams with their measures and tables.

    Args:
        name: of the file, for messages.

    Raises:
        TransformError: the file names an unknown stream, or an entity has a name reserved in entries.
    """
    for part, known in (("measures", {*streams, ALL}), ("tables", {*streams})):
        for stream in getattr(file, part):
            if stream not in known:
                raise TransformError(
                    f"{name}, {part}: unknown stream {stream!r}", f"use one of {', '.join(sorted(known))}"
                )
    for stream in streams.values():
        for entity in (ALL, FIRST):
            if entity in stream.entities:
                raise TransformError(
                    f"streams.yml, {stream.name}: the entity name {entity!r} is reserved in {name}",
                    "give the entity another name",
                )
    return {
        stream.name: stream.model_copy(update={"measures": _measures(stream, file), "tables": _tables(stream, file)})
        for stream in streams.values()
    }


def amount_measure(stream: PaymentStream) -> str:
    """The measure of the stream's amount, named like its column."""
    name = stream.amount.lower()
    return name if _NAME.fullmatch(name) else AMOUNT


def entry_of(stream: PaymentStream, entry: Entry) -> Entry:
    """An entry applied to one stream: placeholders are replaced by the stream's names."""
    entities = [
        name
        for one in _list(entry.entity)
        for name in (list(stream.entities) if one == ALL else [stream.entity] if one == FIRST else [one])
    ]
    changes: dict[str, Any] = {"entity": entities}
    if AMOUNT not in stream.measures:
        measures = _list(entry.measure)
        changes["measure"] = [amount_measure(stream) if measure == AMOUNT else measure for measure in measures]
    if entry.filter is not None:
        changes["filter"] = _filled(entry.filter, stream)
    if entry.table == FAST_PATH:
        changes["table"] = stream.features
    if entry.past == FAST_PATH:
        changes["past"] = stream.tables[stream.features].past
    return entry.model_copy(update=changes)


def _measures(stream: PaymentStream, file: CatalogueFile) -> dict[str, Measure]:
    of_stream, amount = file.measures.get(stream.name, {}), amount_measure(stream)
    own = Measure(expression=stream.amount, unit="currency units", decimals=4, about="amount")
    common = {
        name: measure.model_copy(update={"expression": _filled(measure.expression, stream)})
        for name, measure in file.measures.get(ALL, {}).items()
    }
    return {amount: own} | common | of_stream


def _filled(expression: str, stream: PaymentStream) -> str:
    return expression.replace("{time}", stream.time).replace("{amount}", stream.amount)


def _tables(stream: PaymentStream, file: CatalogueFile) -> dict[str, Table]:
    fast_path = Table(
        past="arrived" if stream.kind == "events" else "committed",
        key=stream.entities[stream.entity].key,
        must_have=FAST_PATH_FEATURES,
    )
    return {**file.tables.get(stream.name, {}), stream.features: fast_path}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
