"""Filters of features: a condition over the columns of a row; rows for which it is false or null do not count.

Models know no filters: a feature with a filter aggregates its own measure, which is null if the row does not count.
transform/binding.py checks that the condition fits the stream's rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.entries import DELAYS, Entry
from fraud_lakehouse.features.needs import columns_of, is_of_one_row
from fraud_lakehouse.features.streams import Measure, PaymentStream

if TYPE_CHECKING:
    from fraud_lakehouse.features.catalogue import Feature


def check_filter(stream: PaymentStream, entry: Entry) -> None:
    """Check that a filter belongs to an aggregate and uses only what a single row knows at its time.

    Raises:
        TransformError: says what was expected.
    """
    assert entry.filter is not None
    if entry.expression is not None:
        raise TransformError(
            "it has a filter, but an expression instead of an aggregate", "give the filter to the features it names"
        )
    try:
        columns = columns_of(entry.filter)
    except TransformError as error:
        raise TransformError(f"its filter {error.problem}", error.fix) from None
    if not is_of_one_row(entry.filter):
        raise TransformError(
            f"its filter {entry.filter!r} has a subquery or a window",
            "compare columns of the row with each other or with constants",
        )
    names = entry.measure if isinstance(entry.measure, list) else [entry.measure or ""]
    for measure in map(stream.measures.get, names):
        if stream.label in columns and (measure is None or measure.delay is None):
            raise TransformError(
                f"its filter names {stream.label}, the label, which is known only {DELAYS['label_delay']} later",
                "name a measure that has this delay, or leave the label out of the filter",
            )


def filtered_measure(stream: PaymentStream, feature: Feature) -> tuple[str, Measure]:
    """The measure that a feature with a filter aggregates, and its name; without a measure, 1 if the row counts."""
    what = stream.measures[feature.measure] if feature.measure is not None else None
    expression = f"case when ({feature.filter}) then {f'({what.expression})' if what else '1'} end"
    name = f"{feature.measure or 'row'}_where_{hashlib.sha256(expression.encode()).hexdigest()[:12]}"
    if what is not None:
        return name, what.model_copy(update={"expression": expression})
    return name, Measure(expression=expression, unit=f"{stream.event}s", about=stream.event, decimals=0)
