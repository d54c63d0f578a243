"""The arrays that kernels work on, and the meaning of their columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fraud_lakehouse.features.engine.compiled import Array

NONE = -(2**63)
"""No time, no scaled value."""

START, LENGTH, ROOM = range(3)
"""Columns of `Blocks.slots`: where the block begins in the pool, its number of rows, its index in ROOMS."""
ROOMS = np.array([0, 1, 2, 3] + [n << k for k in range(29) for n in (4, 5, 6, 7)], np.int64)
"""The possible capacities of a block, in rows."""

SOURCE, SUM, SQUARE, COUNT, OLD_COUNT, OLD_SUM, OLD_SQUARE, OLD_LAST = range(8)
"""Columns of `Plan.totals`. SOURCE: where its values are, a row of `Rows.units`, -1 - a row of `Rows.codes`, or ALL.
The others are columns of `Blocks.sums`, `squares`, `counts`, `old` and (OLD_SQUARE) `old_squares`; -1: not kept."""
ALL = 2**31
"""A source: every row counts."""

KIND, WINDOW, CURRENT, COLUMN, PERCENT = range(5)
"""Columns of `Plan.features`. WINDOW: which of `Plan.windows`, -1: none. COLUMN: for totals a row of `Plan.totals`, for
others a row of `Rows.values`, or -1 - a row of `Rows.codes`."""
EMPTY = PERCENT
"""Like the column of a sum: whether it is null if no row has a value."""


class Rows(NamedTuple):
    """The rows that are kept, by number. Texts are numbered from 1; 0 means none."""

    at: Array  # int64 (rows): NONE: no time
    units: Array  # int64 (measures, rows): NONE: no value
    values: Array  # float64 (measures, rows): NaN: no value
    codes: Array  # int32 (measures, rows): number of the text
    text: Array  # uint8: the concatenated texts, if features need them
    bounds: Array  # int64 (texts + 1): their offsets


class Blocks(NamedTuple):
    """The rows of each key in order of time: each slot has a block of the pool, with running totals over the block.

    A block that outgrows its capacity moves. Free blocks of one size are a linked list, through their first number.
    """

    slots: Array  # int32 (slots, 3); slot 0 has one row, for a row without a key while its features are computed
    ids: Array  # int32 (pool): number of the row
    sums: Array  # int64 (pool, sums): running sums modulo 2^64; their differences are exact
    counts: Array  # int32 (pool, counts): running counts of rows with a value
    squares: Array  # uint64 (pool, 2 * squares): running sums of squares modulo 2^128, low word first
    magnitudes: Array  # float64 (slots, sums): sum of absolute values
    old: Array  # int64 (slots, columns): totals of rows not in the block: evicted, or without a time
    old_squares: Array  # uint64 (slots, 2 * squares)
    free: Array  # int32 (rooms): first free block of each size, -1: none
    used: Array  # int64 (1): how much of the pool is in use


class Plan(NamedTuple):
    """What is computed for an entity."""

    features: Array  # int64 (features, 5)
    units: Array  # float64 (features): scaled integers per 1
    windows: Array  # int64: microseconds, ascending
    totals: Array  # int64 (totals, 8)
    is_changes: bool
