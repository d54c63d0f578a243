"""The aggregates that features may use: their type, unit, requirements and wording."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fraud_lakehouse.errors import TransformError


@dataclass(frozen=True)
class Aggregate:
    """One aggregate.

    Args:
        data_type: DuckDB type of the feature's column.
        words: the beginning of the feature's definition; `{measure}` and `{event}` are filled in.
        unit: the feature's unit; None: the measure's own.
        measured: whether it needs a measure.
        windowed: whether it needs a window; False: it covers all earlier rows.
        numeric: whether its measure must be a number.
        empty: the value if no row counts.
    """

    data_type: str
    words: str
    unit: str | None = None
    measured: bool = True
    windowed: bool = True
    numeric: bool = True
    empty: str = "null"


AGGREGATES = {
    "count": Aggregate("integer", "Number of {event}s with {measure}", unit="{event}s", empty="0"),
    "sum": Aggregate("double", "Sum of {measure}"),
    "mean": Aggregate("double", "Mean of {measure}"),
    "stddev": Aggregate("double", "Sample standard deviation of {measure} (null below two)"),
    "min": Aggregate("double", "Smallest {measure}"),
    "max": Aggregate("double", "Largest {measure}"),
    "median": Aggregate("double", "Median of {measure}"),
    "mad": Aggregate("double", "Median absolute deviation from the median of {measure}"),
    "distinct": Aggregate("integer", "Number of different values of {measure}", numeric=False, empty="0"),
    "first": Aggregate("double", "Earliest {measure} (of equal times the smallest)"),
    "last": Aggregate("double", "Latest {measure} (of equal times the largest)"),
    "seconds_since_last": Aggregate(
        "double", "Seconds since the latest earlier {event}", unit="seconds", measured=False, windowed=False
    ),
    "is_first": Aggregate(
        "boolean", "Whether there is no earlier {event}", unit="true or false", measured=False, windowed=False
    ),
}
_PERCENTILE = "percentile_"


def of_rows(count: Aggregate) -> Aggregate:
    """The aggregate count, applied to all rows regardless of their values."""
    return replace(count, measured=False, words="Number of {event}s")


def aggregate(name: str) -> Aggregate:
    """The aggregate of this name; `percentile_95` is the interpolated value that 95 % do not exceed.

    Raises:
        TransformError: there is none.
    """
    if name in AGGREGATES:
        return AGGREGATES[name]
    rank = name.removeprefix(_PERCENTILE)
    if name.startswith(_PERCENTILE) and rank.isdecimal() and 0 < int(rank) < 100:
        return Aggregate("double", f"{int(rank)}th percentile of {{measure}}")
    raise TransformError(
        f"unknown aggregate {name!r}", f"use one of {', '.join(AGGREGATES)}, or percentile_1 to percentile_99"
    )
