"""Computes the features of a row from its key's block. Arrays: arrays.py."""

from __future__ import annotations

import math

import numpy as np

from fraud_lakehouse.features.engine.arrays import (
    COLUMN,
    COUNT,
    CURRENT,
    EMPTY,
    KIND,
    LENGTH,
    NONE,
    OLD_COUNT,
    OLD_LAST,
    OLD_SQUARE,
    OLD_SUM,
    PERCENT,
    SOURCE,
    SQUARE,
    START,
    SUM,
    WINDOW,
    Blocks,
    Plan,
    Rows,
)
from fraud_lakehouse.features.engine.blocks import first_from, has
from fraud_lakehouse.features.engine.compiled import Array, Word, inner
from fraud_lakehouse.features.engine.feature import AGGREGATES
from fraud_lakehouse.features.engine.values import of_values, outermost
from fraud_lakehouse.features.engine.wide import deviation, minus, plus, product

_COUNT, _SUM, _MEAN, _STDDEV = (AGGREGATES.index(name) for name in ("count", "sum", "mean", "stddev"))
_FIRST, _LAST = (AGGREGATES.index(name) for name in ("first", "last"))
_SINCE, _IS_FIRST = (AGGREGATES.index(name) for name in ("seconds_since_last", "is_first"))
_LIMIT = 9.0e18
"""Larger sums might not fit in 64 bits."""


@inner
def evaluate(
    blocks: Blocks,
    rows: Rows,
    plan: Plan,
    slot: Word,
    row: Word,
    place: Word,
    lows: Array,
    computed: Array,
    number: Word,
) -> None:
    """Compute the features of a row at `place` of its block; -1: no time. `lows` gets its windows' starts."""
    start, length, at = np.int64(blocks.slots[slot, START]), blocks.slots[slot, LENGTH], rows.at[row]
    has_place = slot > 0 and place >= 0
    before = first_from(blocks.ids, rows.at, start, place, at) if has_place else 0
    low = before
    for window in range(len(lows)):
        span = plan.windows[window]
        low = first_from(blocks.ids, rows.at, start, low, max(at, NONE + span) - span)
        lows[window] = low
    for feature in range(len(plan.features)):
        kind, window = plan.features[feature, KIND], plan.features[feature, WINDOW]
        column = plan.features[feature, COLUMN]
        begin, end, old, own = np.int64(0), before, slot if has_place else 0, -1
        if window >= 0:
            begin, end, old = lows[window], place + 1 if plan.features[feature, CURRENT] else before, 0
        elif plan.is_changes:
            end, old, own = length, slot, row if place >= 0 else -1
        begin, end = start + begin, start + end
        if kind <= _STDDEV:
            value = _total(blocks, rows, plan, feature, slot, begin, end, old, own)
        elif kind == _FIRST or kind == _LAST:  # noqa: PLR1714, SIM109 machine code
            value = outermost(blocks.ids, rows, column, begin, end, kind == _LAST)
        elif kind < _SINCE:
            value = of_values(blocks.ids, rows, column, begin, end, kind, plan.features[feature, PERCENT])
        elif has_place:
            value = _since(blocks, rows, plan, column, slot, start, start + before, at)
            if kind == _IS_FIRST:
                value = 1.0 if math.isnan(value) else 0.0
        else:
            value = math.nan
        computed[feature, number] = value


@inner
def _total(  # noqa: PLR0912 one function: calls with all arrays cost more than the sums
    blocks: Blocks, rows: Rows, plan: Plan, feature: Word, slot: Word, begin: Word, end: Word, old: Word, own: Word
) -> float:
    """A feature from the totals of positions and of the `old` slot, without the `own` row (0, -1: none)."""
    start, total = np.int64(blocks.slots[slot, START]), plan.features[feature, COLUMN]
    kind, source, column = plan.features[feature, KIND], plan.totals[total, SOURCE], plan.totals[total, COUNT]
    if own >= 0 and not has(rows, source, own):
        own = -1
    n = np.int64(end - begin) - (own >= 0)
    if column >= 0 and end > begin:
        n = np.int64(blocks.counts[end - 1, column]) - (own >= 0)
        if begin > start:
            n -= blocks.counts[begin - 1, column]
    if old:
        n += blocks.old[old, plan.totals[total, OLD_COUNT]]
    if kind == _COUNT:
        return float(n)
    column = plan.totals[total, SUM]
    if blocks.magnitudes[slot, column] >= _LIMIT and (
        old or _magnitude(blocks.ids, rows, source, begin, end) >= _LIMIT
    ):
        return math.nan
    added = np.int64(0)
    if end > begin:
        added = blocks.sums[end - 1, column] - (blocks.sums[begin - 1, column] if begin > start else 0)
    if own >= 0:
        added -= rows.units[source, own]
    if old:
        added += blocks.old[old, plan.totals[total, OLD_SUM]]
    if kind == _SUM and (n > 0 or not plan.features[feature, EMPTY]):
        return float(added / plan.units[feature])
    if n < (2 if kind == _STDDEV else 1):
        return math.nan
    if kind == _MEAN:
        return float(added / plan.units[feature] / n)
    low, high = np.uint64(0), np.uint64(0)
    column = 2 * plan.totals[total, SQUARE]
    if end > begin:
        low, high = blocks.squares[end - 1, column], blocks.squares[end - 1, column + 1]
        if begin > start:
            low, high = minus(low, high, blocks.squares[begin - 1, column], blocks.squares[begin - 1, column + 1])
    if own >= 0:
        low, high = minus(low, high, *product(rows.units[source, own], rows.units[source, own]))
    if old:
        column = 2 * plan.totals[total, OLD_SQUARE]
        low, high = plus(low, high, blocks.old_squares[old, column], blocks.old_squares[old, column + 1])
    return float(deviation(n, added, low, high) / plan.units[feature])


@inner
def _magnitude(ids: Array, rows: Rows, source: Word, begin: Word, end: Word) -> float:
    """The sum of the absolute values of the rows at these positions."""
    magnitude = 0.0
    for place in range(begin, end):
        units = rows.units[source, ids[place]]
        if units != NONE:
            magnitude += abs(float(units))
    return magnitude


@inner
def _since(
    blocks: Blocks, rows: Rows, plan: Plan, total: Word, slot: Word, start: Word, before: Word, at: Word
) -> float:
    """Seconds since the latest earlier row that has the measure; NaN: there is none."""
    last = blocks.old[slot, plan.totals[total, OLD_LAST]]
    if last >= at:
        last = NONE
    for place in range(before - 1, start - 1, -1):
        if has(rows, plan.totals[total, SOURCE], blocks.ids[place]):
            last = max(last, rows.at[blocks.ids[place]])
            break
    return (at - last) / 1_000_000 if last != NONE else math.nan
