"""Which columns of the rows a set of features needs, and what is stored and computed for each entity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.engine.arrays import (
    ALL,
    COUNT,
    OLD_COUNT,
    OLD_LAST,
    OLD_SQUARE,
    OLD_SUM,
    SOURCE,
    SQUARE,
    SUM,
    Plan,
)
from fraud_lakehouse.features.engine.compiled import Array
from fraud_lakehouse.features.engine.feature import AGGREGATES, EARLIER, TOTALS, EngineFeature


@dataclass(frozen=True)
class Measures:
    """The measures by needed column: units_of_<measure>, value_<measure> as number and as text."""

    units: tuple[str, ...]
    values: tuple[str, ...]
    texts: tuple[str, ...]
    keeps_texts: bool
    """Whether features need the texts themselves, not only their numbers."""

    @staticmethod
    def of(features: Sequence[EngineFeature]) -> Measures:
        """The measures that these features need."""
        measured = [feature for feature in features if feature.measure is not None]
        texts = [feature for feature in measured if feature.is_text]
        numbers = [feature for feature in measured if not feature.is_text]
        return Measures(
            _names(feature for feature in numbers if feature.kind in (*TOTALS, *EARLIER)),
            _names(feature for feature in numbers if feature.kind not in (*TOTALS, *EARLIER)),
            _names(texts),
            any(feature.kind in ("first", "last") for feature in texts),
        )

    def source(self, feature: EngineFeature) -> int:
        """The source that shows whether a row has the measure."""
        if feature.measure is None:
            return ALL
        return -1 - self.texts.index(feature.measure) if feature.is_text else self.units.index(feature.measure)

    def name(self, source: int) -> str | None:
        """The measure of a source; None for all rows."""
        if source == ALL:
            return None
        return self.units[source] if source >= 0 else self.texts[-1 - source]

    def column(self, feature: EngineFeature) -> int:
        """The column with the measure's values."""
        assert feature.measure is not None
        return -1 - self.texts.index(feature.measure) if feature.is_text else self.values.index(feature.measure)


def _names(features: Iterable[EngineFeature]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(feature.measure for feature in features if feature.measure is not None))


def plan_of(
    features: Sequence[EngineFeature], measures: Measures, units: Mapping[str, int], *, is_changes: bool
) -> Plan:
    """The plan for the features of one entity. Unneeded columns of totals are -1.

    Raises:
        TransformError: the scale of a measure is missing.
    """
    windows = sorted({feature.seconds for feature in features if feature.seconds is not None})
    sources = list(
        dict.fromkeys(measures.source(feature) for feature in features if feature.kind in (*TOTALS, *EARLIER))
    )
    totals = np.full((len(sources), 8), -1, np.int64)
    totals[:, SOURCE] = sources
    old_columns = 0
    described = np.zeros((len(features), 5), np.int64)
    for number, feature in enumerate(features):
        window = -1 if feature.seconds is None else windows.index(feature.seconds)
        kind = AGGREGATES.index(feature.kind)
        if feature.kind not in (*TOTALS, *EARLIER):
            percent = feature.percent if feature.kind == "percentile" else 0
            described[number] = kind, window, feature.current, measures.column(feature), percent
            continue
        total = sources.index(measures.source(feature))
        described[number] = kind, window, feature.current, total, feature.sum_of_nothing is None
        kept = totals[total]
        wanted = []
        if feature.kind in ("sum", "mean", "stddev"):
            _column(totals, total, SUM)
            wanted.append(OLD_SUM)
        if feature.kind == "stddev":
            _column(totals, total, SQUARE)
        if feature.kind in EARLIER:
            wanted = [OLD_LAST]
        else:
            wanted.append(OLD_COUNT)
        if feature.seconds is None:
            for column in wanted:
                if kept[column] < 0:
                    kept[column] = old_columns
                    old_columns += 1
            if feature.kind == "stddev":
                _column(totals, total, OLD_SQUARE)
    return Plan(
        described,
        np.array([_unit(feature, units) for feature in features], np.float64),
        np.array([seconds * 1_000_000 for seconds in windows], np.int64),
        totals,
        is_changes,
    )


def _column(totals: Array, total: int, column: int) -> None:
    """Allocate a column for the total, unless it has one."""
    if totals[total, column] < 0:
        totals[total, column] = totals[:, column].max() + 1


def _unit(feature: EngineFeature, units: Mapping[str, int]) -> int:
    if feature.kind not in ("sum", "mean", "stddev"):
        return 1
    assert feature.measure is not None
    if feature.measure not in units:
        raise TransformError(
            f"feature {feature.name}: how many units of {feature.measure} make 1 is not given",
            f"give it to the engine: units={{'{feature.measure}': 1_000_000}}",
        )
    return units[feature.measure]


def width(totals: Array, column: int) -> int:
    """The number of columns of this kind in the totals."""
    return int(totals[:, column].max(initial=-1)) + 1


def old_width(totals: Array) -> int:
    """The number of columns in the totals of rows not in a block."""
    return int(totals[:, [OLD_COUNT, OLD_SUM, OLD_LAST]].max(initial=-1)) + 1


def without_counts(totals: Array) -> list[int]:
    """The totals that assume a value in every row."""
    return [number for number, total in enumerate(totals) if total[COUNT] < 0 and total[SOURCE] != ALL]
