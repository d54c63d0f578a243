"""A feature of the engine, and the supported combinations of aggregate, window and measure."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from fraud_lakehouse.errors import TransformError

TOTALS = ("count", "sum", "mean", "stddev")
"""Differences of running totals: their cost does not depend on the rows in the window."""
VALUES = ("min", "max", "median", "mad", "percentile", "distinct", "first", "last")
"""Computed from the values in the window: their cost grows with its rows."""
EARLIER = ("seconds_since_last", "is_first")
"""About the latest earlier row; they have no window."""
AGGREGATES = (*TOTALS, *VALUES, *EARLIER)
OF_TEXT = ("count", "distinct", "first", "last", *EARLIER)
"""Aggregates supported for text measures."""


@dataclass(frozen=True)
class EngineFeature:
    """One feature: an aggregate of a measure over the earlier rows with the same key.

    Args:
        name: the output column.
        entity: rows with the same value in column key_<entity> belong together.
        aggregate: one of AGGREGATES; percentile_N is the interpolated value that N % do not exceed.
        measure: counted and summed from column units_of_<measure>, otherwise read from value_<measure>.
            None: all rows count (count, seconds_since_last, is_first).
        seconds: length of the window. None: all earlier rows (TOTALS and EARLIER).
        current: the window is [t - seconds, t] and the row itself counts; otherwise [t - seconds, t). Without a
            window the row itself never counts.
        is_text: the measure's values are text; it has no scaled integers.
        sum_of_nothing: the sum if no row has a value: 0, or as in SQL null (None).
    """

    name: str
    entity: str
    aggregate: str
    measure: str | None
    seconds: int | None
    current: bool
    is_text: bool = False
    sum_of_nothing: float | None = 0.0

    @property
    def kind(self) -> str:
        """The aggregate without its percentage."""
        return "percentile" if self.aggregate.startswith("percentile_") else self.aggregate

    @property
    def percent(self) -> int:
        """The percentage of a percentile."""
        return int(self.aggregate.removeprefix("percentile_"))

    def check(self) -> None:
        """Check that the feature is supported.

        Raises:
            TransformError: it is not.
        """
        if self.kind not in AGGREGATES:
            nearest = get_close_matches(self.aggregate, AGGREGATES, 1)
            raise TransformError(
                f"feature {self.name}: unknown aggregate {self.aggregate!r}",
                f"use {nearest[0] if nearest else ', '.join(AGGREGATES)}",
            )
        percent = self.aggregate.removeprefix("percentile_")
        if self.kind == "percentile" and not (percent.isdecimal() and 0 < int(percent) < 100):
            raise TransformError(
                f"feature {self.name}: unknown aggregate {self.aggregate!r}", "use percentile_1 to percentile_99"
            )
        if self.measure is None and self.kind not in ("count", *EARLIER):
            raise TransformError(f"feature {self.name}: {self.aggregate} needs a measure", "name a measure")
        if self.is_text and self.kind not in OF_TEXT:
            raise TransformError(
                f"feature {self.name}: {self.aggregate} needs numbers, and {self.measure} is text",
                f"use one of {', '.join(OF_TEXT)}",
            )
        if self.seconds is None and self.kind in VALUES:
            raise TransformError(
                f"feature {self.name}: {self.aggregate} needs a window, because only rows in windows are kept",
                f"give it a window, or use one of {', '.join((*TOTALS, *EARLIER))}",
            )
        if self.seconds is not None and self.kind in EARLIER:
            raise TransformError(f"feature {self.name}: {self.aggregate} has no window", "leave the window out")
        if self.seconds is not None and not 0 < self.seconds <= 100 * 366 * 86_400:
            raise TransformError(
                f"feature {self.name}: a window of {self.seconds} seconds", "use 1 second to 100 years"
            )
