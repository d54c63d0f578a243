"""Checks a catalogue by itself: its streams, and its features against each other; errors give names.

transform/binding.py checks that models have the tables and columns it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.arrival import ARRIVAL
from fraud_lakehouse.features.entries import DELAYS, STEPPED
from fraud_lakehouse.features.needs import columns_of
from fraud_lakehouse.features.streams import Measure, Past, PaymentStream, Table
from fraud_lakehouse.features.window import Window

if TYPE_CHECKING:
    from fraud_lakehouse.features.aggregates import Aggregate
    from fraud_lakehouse.features.catalogue import Feature

DELAYED_AGGREGATES = ("count", "sum", "mean")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = (
    *("event_time", "is_evaluated", "version", "known_at", "is_deleted", "window_start", "window_end"),
    *("is_amount_excluded", "is_time_excluded"),
)


def check_streams(streams: Mapping[str, PaymentStream], file: str) -> None:
    """Check that columns can be named after entities and measures, and computed from them.

    Raises:
        TransformError: names the stream and the part.
    """
    for name, stream in streams.items():
        parts = [("entity", one) for one in stream.entities] + [("measure", one) for one in stream.measures]
        for kind, part in parts:
            if not _NAME.fullmatch(part):
                raise TransformError(
                    f"{file}, {kind} {part!r} of {name!r}: not a column name", "use lower case letters, digits and _"
                )
        if stream.vectors in stream.tables:
            raise TransformError(
                f"{file}, stream {name!r}: {stream.vectors} is listed in its tables", "remove it there"
            )
        for table, declared in stream.tables.items():
            _check_step(declared, f"{file}, table {table!r} of {name!r}")
        for measure, described in stream.measures.items():
            _check_measure(stream, measure, described, f"{file}, measure {measure!r} of {name!r}")


def _check_measure(stream: PaymentStream, name: str, measure: Measure, where: str) -> None:
    try:
        columns_of(measure.expression)
    except TransformError as error:
        raise TransformError(f"{where}: {error.problem}", error.fix) from None
    is_the_column = measure.expression == name and measure.decimals is None
    if name in _RESERVED or (name in _columns(stream) and not is_the_column):
        raise TransformError(f"{where}: the vectors have a column of that name already", "rename the measure")
    if measure.delay is None:
        return
    if measure.delay not in DELAYS:
        raise TransformError(f"{where}: unknown delay {measure.delay!r}", f"use one of {', '.join(DELAYS)}")
    if measure.decimals is None:
        raise TransformError(f"{where}: it has a delay but no decimals", "give it decimals; 0: whole numbers")


def _check_step(table: Table, where: str) -> None:
    if (table.past in STEPPED) != (table.step is not None):
        raise TransformError(
            f"{where}: windows of past: {table.past} {'need a' if table.past in STEPPED else 'have no'} step",
            'give it one, such as "1 hour"' if table.past in STEPPED else "leave it out",
        )
    if table.step is not None:
        try:
            Window.parse(table.step)
        except TransformError as error:
            raise TransformError(f"{where}, step: {error.problem}", error.fix) from None


def check_measured(
    stream: PaymentStream, aggregate: str | None, kind: Aggregate | None, measure: str | None, past: Past
) -> None:
    """Check that an aggregate has a measure that suits it.

    Raises:
        TransformError: says what was expected.
    """
    what = stream.measures[measure] if measure is not None else None
    if kind is not None and kind.measured != (what is not None):
        raise TransformError(
            f"the aggregate {aggregate} {'needs a' if kind.measured else 'takes no'} measure",
            f"name one of {', '.join(stream.measures)}" if kind.measured else "leave it out",
        )
    if kind is not None and what is not None and kind.numeric and what.decimals is None:
        raise TransformError(
            f"the measure {measure} has no decimals, so it is not a number, which {aggregate} needs",
            "give it decimals (0: whole numbers), or count its different values with distinct",
        )
    if what is None or what.delay is None:
        return
    if aggregate not in DELAYED_AGGREGATES:
        raise TransformError(
            f"the measure {measure} is known after its delay, which {aggregate or 'an expression'} does not support",
            f"use one of {', '.join(DELAYED_AGGREGATES)}, or a measure without delay",
        )
    if past != "strict":
        raise TransformError(f"the measure {measure} has a delay, not supported by past: {past}", "use past: strict")


def check_place(stream: PaymentStream, table: str, entity: str, past: Past, *, is_windowed_aggregate: bool) -> None:
    """Check that the entry's table computes such features.

    Raises:
        TransformError: it does not; names the features it has.
    """
    if table == stream.vectors:
        if past != "strict":
            fits = [name for name, one in stream.tables.items() if one.past == past]
            raise TransformError(
                f"past: {past} is not computed in {table}, whose features are strictly past",
                f"use past: strict{', or table: ' + ' or '.join(fits) if fits else ''}",
            )
        return
    if table not in stream.tables:
        known = ", ".join([stream.vectors, *stream.tables])
        raise TransformError(f"no model computes features in the table {table!r}", f"use one of {known}")
    declared = stream.tables[table]
    if past != declared.past:
        raise TransformError(f"past: {past} is not computed in {table}", f"use past: {declared.past}")
    if not is_windowed_aggregate:
        over, needed = (" over a window", "an aggregate and a window") if past not in ARRIVAL else ("", "an aggregate")
        raise TransformError(f"{table} has only aggregates{over}", f"give it {needed}, or leave {table} out")
    if stream.entities[entity].key != declared.key:
        fits = [name for name, one in stream.entities.items() if one.key == declared.key]
        raise TransformError(
            f"{table} has rows by {', '.join(declared.key)}, the entity {entity} has another key",
            f"use {' or '.join(fits) or 'an entity with that key'}",
        )


def check_tables(features: Iterable[Feature], streams: Mapping[str, PaymentStream], file: str) -> None:
    """Check that a table has the features that others rely on, and that its windows have one size.

    Tables with processing-time or commit-time windows may have several sizes.

    Raises:
        TransformError: names the table and the feature.
    """
    for stream in streams.values():
        for table, declared in stream.tables.items():
            own = [feature for feature in features if feature.table == table]
            for feature in own:
                if declared.past not in ARRIVAL and feature.seconds != own[0].seconds:
                    where = f"{file}, feature {feature.name!r}"
                    raise TransformError(
                        f"{where}: its window is {feature.window}, but {own[0].window} in {table}",
                        f"all features of {table} need the same window",
                    )
                # otherwise windows overlap by a fraction of a step, and some rows are in fewer windows than others
                if feature.seconds is not None and feature.step_seconds and feature.seconds % feature.step_seconds:
                    raise TransformError(
                        f"{file}, table {table!r}: its step is {declared.step}, its windows are {feature.window}",
                        "give a step of which the window is a multiple",
                    )
            for name in declared.must_have:
                if name not in {feature.name for feature in own}:
                    raise TransformError(
                        f"{file}: {table} has no feature {name!r}, which others rely on", "give an entry that name"
                    )


def check_names(features: Iterable[Feature], streams: Mapping[str, PaymentStream], file: str) -> None:
    """Check that a feature's name is a valid column name that is not taken.

    Raises:
        TransformError: names the feature.
    """
    seen: set[tuple[str, str]] = set()
    for feature in features:
        where, stream = f"{file}, feature {feature.name!r}", streams[feature.stream]
        if not _NAME.fullmatch(feature.name):
            raise TransformError(f"{where}: not a column name", "use lower case letters, digits and _")
        totals = [f"{kind}_of_{measure}" for kind in ("units", "square") for measure in stream.measures]
        if feature.name in (*_RESERVED, *_columns(stream), *stream.measures, *totals):
            raise TransformError(f"{where}: {feature.table} has a column of that name already", "rename the feature")
        if (feature.table, feature.name) in seen:
            raise TransformError(
                f"{file}: {feature.table} has two features named {feature.name!r}",
                "rename one, or put what distinguishes them into the name: {entity}, {measure}, {aggregate}, {window}",
            )
        seen.add((feature.table, feature.name))


def _columns(stream: PaymentStream) -> list[str]:
    """The columns of a stream's rows that accompany its features."""
    return [stream.id, stream.time, *(column for entity in stream.entities.values() for column in entity.key)]
