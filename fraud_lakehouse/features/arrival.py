"""Features computed once, when their row arrives, for rules: only what was known by then counts.

Processing-time windows (`arrived`) follow the order of arrival. Commit-time windows (`committed`) follow a database's
commits; its ledger of versions reverts what was changed. This module has their wording and limits; checks.py the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.aggregates import of_rows

if TYPE_CHECKING:
    from fraud_lakehouse.features.aggregates import Aggregate
    from fraud_lakehouse.features.streams import PaymentStream
    from fraud_lakehouse.features.window import Window

ARRIVAL = ("arrived", "committed")
ARRIVAL_AGGREGATES = ("count", "sum", "mean")

COUNTED = {
    "arrived": (
        "event time in [t - {window}, t], of what had arrived by then: the {event} itself counts, and of equal time "
        "those that arrived before it"
    ),
    "committed": (
        "event time in [t - {window}, t], by the ledger up to that commit: the {event} itself counts, what was taken "
        "back by then does not"
    ),
}
"""Wording for the rows that count in a window."""

EVER = {
    "arrived": (
        "event time before t, however long ago, of what had arrived by then: the {event} itself and those of equal "
        "time do not count"
    ),
    "committed": (
        "all that the table had just before that commit, whatever their event time: the {event}'s own version does not "
        "count"
    ),
}
"""Wording for the rows that count without a window."""


def known_on_arrival(name: str, kind: Aggregate, measure: str | None, window: Window | None) -> Aggregate:
    """The aggregate as these tables compute it, with a window or without; a count may also count all rows.

    Counts are bigint and empty sums 0, as rules expect.

    Raises:
        TransformError: these tables do not compute it.
    """
    if name not in ARRIVAL_AGGREGATES:
        raise TransformError(
            f"the aggregate {name} is not computed when a row arrives", f"use one of {', '.join(ARRIVAL_AGGREGATES)}"
        )
    kind = replace(kind, windowed=window is not None, empty="null" if name == "mean" else "0")
    if name != "count":
        return kind
    kind = replace(kind, data_type="bigint")
    return kind if measure is not None else of_rows(kind)


def check_ledger(
    stream: PaymentStream, table: str, measure: str | None, condition: str | None, window: Window | None
) -> None:
    """Check that a ledger can compute the feature.

    Raises:
        TransformError: it cannot; names what it can.
    """
    if stream.tables[table].past != "committed":
        return
    if condition is not None:
        raise TransformError(
            f"the totals of {table} come from its ledger, which adds up all rows: it cannot filter",
            f"leave the filter out, or leave the table out: {stream.vectors} computes filters",
        )
    if measure is None and window is None:
        raise TransformError(
            f"without a window, {table} counts only {stream.event}s with a value", "give it a measure or a window"
        )
    if measure is not None and (expression := stream.measures[measure].expression) != stream.amount:
        fits = [name for name, one in stream.measures.items() if one.expression == stream.amount]
        raise TransformError(
            f"the measure {measure} is {expression!r}, and the ledger of {table} adds up {stream.amount} alone",
            f"use {' or '.join(fits) or 'a measure that is it'}",
        )
