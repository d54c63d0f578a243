"""Features that are told when their row arrives and never again, for rules: what counts is what was known by then.

`arrived` goes by the order in which rows arrive, `committed` by the commits of a database, whose ledger of versions
takes back what was changed. Here is how such features are put and what they cannot be; checks.py has the rest.
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
"""Which rows count in a window."""

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
"""Which rows count without a window."""


def told_on_arrival(name: str, kind: Aggregate, measure: str | None, window: Window | None) -> Aggregate:
    """The aggregate as such tables have it: with a window or without, and a count also of rows whatever their values.

    Counts are bigint and sums of nothing 0, as rules read them.

    Raises:
        TransformError: they do not have it.
    """
    if name not in ARRIVAL_AGGREGATES:
        raise TransformError(
            f"the aggregate {name} is not told when a row arrives", f"use one of {', '.join(ARRIVAL_AGGREGATES)}"
        )
    kind = replace(kind, windowed=window is not None, empty="null" if name == "mean" else "0")
    if name != "count":
        return kind
    kind = replace(kind, data_type="bigint")
    return kind if measure is not None else of_rows(kind)


def check_ledger(
    stream: PaymentStream, table: str, measure: str | None, condition: str | None, window: Window | None
) -> None:
    """Refuse what a ledger cannot tell.

    Raises:
        TransformError: says what it can.
    """
    if stream.tables[table].past != "committed":
        return
    if condition is not None:
        raise TransformError(
            f"the totals of {table} come from its ledger, which adds up all rows: it computes no filter",
            f"leave the filter out, or leave the table out: {stream.vectors} computes filters",
        )
    if measure is None and window is None:
        raise TransformError(
            f"{table} knows of all earlier {stream.event}s only those with a value", "give it a measure or a window"
        )
    if measure is not None and (expression := stream.measures[measure].expression) != stream.amount:
        fits = [name for name, one in stream.measures.items() if one.expression == stream.amount]
        raise TransformError(
            f"the measure {measure} is {expression!r}, and the ledger of {table} adds up {stream.amount} alone",
            f"use {' or '.join(fits) or 'a measure that is it'}",
        )
