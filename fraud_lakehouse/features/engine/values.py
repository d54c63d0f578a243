"""Aggregates computed from the values of the rows in a window. Arrays: arrays.py."""

from __future__ import annotations

import math

import numpy as np

from fraud_lakehouse.features.engine.arrays import NONE, Rows
from fraud_lakehouse.features.engine.compiled import Array, Word, compiled, inner, multiply_add
from fraud_lakehouse.features.engine.feature import AGGREGATES

_DISTINCT, _MIN, _MAX = (AGGREGATES.index(name) for name in ("distinct", "min", "max"))
_MEDIAN, _PERCENTILE = (AGGREGATES.index(name) for name in ("median", "percentile"))


@compiled
def _gathered(ids: Array, rows: Rows, column: Word, begin: Word, end: Word) -> Array:
    """The non-null values of rows; texts by number."""
    found = np.empty(max(end - begin, 0), np.float64)
    n = 0
    for place in range(begin, end):
        if column >= 0:
            found[n] = rows.values[column, ids[place]]
            n += not math.isnan(found[n])
        else:
            found[n] = rows.codes[-1 - column, ids[place]]
            n += found[n] > 0
    return found[:n]


@compiled
def of_values(ids: Array, rows: Rows, column: Word, begin: Word, end: Word, kind: Word, percent: Word) -> float:
    """An aggregate of the values at these positions; NaN if there are none."""
    values = _gathered(ids, rows, column, begin, end)
    if kind == _DISTINCT:
        return float(_distinct(values))
    if len(values) == 0:
        return math.nan
    if kind == _MIN:
        return float(values.min())
    if kind == _MAX:
        return float(values.max())
    if kind == _PERCENTILE:
        return _quantile(values, percent / 100)
    median = _quantile(values, 0.5)
    return median if kind == _MEDIAN else _quantile(np.abs(values - median), 0.5)


@compiled
def _quantile(values: Array, share: float) -> float:
    """Interpolates as DuckDB does."""
    values.sort()
    position = (len(values) - 1) * share
    low = math.floor(position)
    high = math.ceil(position)
    if low == high:
        return float(values[low])
    return multiply_add(values[low], 1.0 - (position - low), values[high] * (position - low))


@compiled
def _distinct(values: Array) -> Word:
    """The number of distinct values."""
    size = 4
    while size < 2 * len(values):
        size *= 2
    table = np.full(size, math.nan)
    found = 0
    for value in values:
        place = hash(value) & (size - 1)
        while not math.isnan(table[place]) and table[place] != value:
            place = (place + 1) & (size - 1)
        if math.isnan(table[place]):
            table[place] = value
            found += 1
    return found


@inner
def outermost(ids: Array, rows: Rows, column: Word, begin: Word, end: Word, is_last: bool) -> float:
    """The first or last value by time; among equal times the smallest or largest; texts by number."""
    step, place = (-1, end - 1) if is_last else (1, begin)
    best, at = math.nan, NONE
    while begin <= place < end:
        row = ids[place]
        if not math.isnan(best) and rows.at[row] != at:
            break
        value = rows.values[column, row] if column >= 0 else np.float64(rows.codes[-1 - column, row])
        if not math.isnan(value) and (column >= 0 or value > 0):
            if math.isnan(best):
                best, at = value, rows.at[row]
            elif column >= 0:
                best = max(best, value) if is_last else min(best, value)
            elif _is_less(rows, int(best), int(value)) == is_last:
                best = value
        place += step
    return best


@inner
def _is_less(rows: Rows, one: Word, other: Word) -> bool:
    """Whether a text sorts before another one, by its bytes."""
    a, b = rows.bounds[one - 1], rows.bounds[other - 1]
    while a < rows.bounds[one] and b < rows.bounds[other]:
        if rows.text[a] != rows.text[b]:
            return bool(rows.text[a] < rows.text[b])
        a += 1
        b += 1
    return bool(b < rows.bounds[other])
