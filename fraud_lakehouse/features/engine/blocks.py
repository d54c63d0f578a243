"""Inserts rows into blocks and removes them, with running totals. Arrays: arrays.py."""

from __future__ import annotations

import math

import numpy as np

from fraud_lakehouse.features.engine.arrays import (
    ALL,
    COUNT,
    LENGTH,
    NONE,
    OLD_COUNT,
    OLD_LAST,
    OLD_SQUARE,
    OLD_SUM,
    ROOM,
    ROOMS,
    SOURCE,
    SQUARE,
    START,
    SUM,
    Blocks,
    Plan,
    Rows,
)
from fraud_lakehouse.features.engine.compiled import Array, Word, inner
from fraud_lakehouse.features.engine.wide import minus, plus, product


@inner
def insert(blocks: Blocks, rows: Rows, plan: Plan, slot: Word, row: Word) -> Word:
    """Insert the row into its block after all rows that are not later. Returns its position; -1: the pool is full."""
    length = blocks.slots[slot, LENGTH]
    if length == ROOMS[blocks.slots[slot, ROOM]] and not _move(blocks, slot):
        return -1
    start = np.int64(blocks.slots[slot, START])
    place = first_from(blocks.ids, rows.at, start, length, rows.at[row] + 1)
    for later in range(start + length, start + place, -1):
        copy(blocks, later - 1, blocks, later)
    blocks.ids[start + place] = row
    write_totals(blocks, rows, plan, start, place)
    for later in range(start + place + 1, start + length + 1):
        add_own(blocks, rows, plan, later, row, 1)
    add_magnitude(blocks, rows, plan, slot, row, 1)
    blocks.slots[slot, LENGTH] = length + 1
    return place


@inner
def _move(blocks: Blocks, slot: Word) -> bool:
    """Move the slot to a larger block; returns whether there was space."""
    start, length = np.int64(blocks.slots[slot, START]), blocks.slots[slot, LENGTH]
    room = blocks.slots[slot, ROOM]
    free = blocks.free[room + 1]
    if free >= 0:
        blocks.free[room + 1] = blocks.ids[free]
    else:
        free = blocks.used[0]
        if free + ROOMS[room + 1] > len(blocks.ids):
            return False
        blocks.used[0] += ROOMS[room + 1]
    for place in range(length):
        copy(blocks, start + place, blocks, free + place)
    if room:
        blocks.ids[start] = blocks.free[room]
        blocks.free[room] = start
    blocks.slots[slot, START] = free
    blocks.slots[slot, ROOM] = room + 1
    return True


@inner
def copy(source: Blocks, here: Word, target: Blocks, there: Word) -> None:
    """Copy one position of a pool to another."""
    target.ids[there] = source.ids[here]
    for column in range(source.sums.shape[1]):
        target.sums[there, column] = source.sums[here, column]
    for column in range(source.counts.shape[1]):
        target.counts[there, column] = source.counts[here, column]
    for column in range(source.squares.shape[1]):
        target.squares[there, column] = source.squares[here, column]


@inner
def write_totals(blocks: Blocks, rows: Rows, plan: Plan, start: Word, place: Word) -> None:
    """Compute the running totals of a position from those of the previous one."""
    here = start + place
    row = blocks.ids[here]
    if place:
        copy(blocks, here - 1, blocks, here)
        blocks.ids[here] = row
    else:
        for column in range(blocks.sums.shape[1]):
            blocks.sums[here, column] = 0
        for column in range(blocks.counts.shape[1]):
            blocks.counts[here, column] = 0
        for column in range(blocks.squares.shape[1]):
            blocks.squares[here, column] = 0
    add_own(blocks, rows, plan, here, row, 1)


@inner
def has(rows: Rows, source: Word, row: Word) -> bool:
    """Whether the row has a value."""
    if source == ALL:
        return True
    return bool(rows.units[source, row] != NONE if source >= 0 else rows.codes[-1 - source, row] > 0)


@inner
def add_own(blocks: Blocks, rows: Rows, plan: Plan, here: Word, row: Word, sign: Word) -> None:
    """Add a row's values to the running totals at one position of the pool."""
    for total in range(len(plan.totals)):
        source, count = plan.totals[total, SOURCE], plan.totals[total, COUNT]
        if not has(rows, source, row):
            continue
        if count >= 0:
            blocks.counts[here, count] += sign
        if plan.totals[total, SUM] >= 0:
            blocks.sums[here, plan.totals[total, SUM]] += sign * rows.units[source, row]
        if plan.totals[total, SQUARE] >= 0:
            _add_square(blocks.squares, here, 2 * plan.totals[total, SQUARE], rows.units[source, row], sign)


@inner
def _add_square(squares: Array, here: Word, column: Word, units: Word, sign: Word) -> None:
    low, high = squares[here, column], squares[here, column + 1]
    square_low, square_high = product(units, units)
    if sign > 0:
        low, high = plus(low, high, square_low, square_high)
    else:
        low, high = minus(low, high, square_low, square_high)
    squares[here, column] = low
    squares[here, column + 1] = high


@inner
def add_magnitude(blocks: Blocks, rows: Rows, plan: Plan, slot: Word, row: Word, sign: Word) -> None:
    """Add a row's absolute values to its slot's."""
    for total in range(len(plan.totals)):
        source, column = plan.totals[total, SOURCE], plan.totals[total, SUM]
        if column >= 0 and rows.units[source, row] != NONE:
            blocks.magnitudes[slot, column] += sign * abs(np.float64(rows.units[source, row]))


@inner
def add_old(blocks: Blocks, rows: Rows, plan: Plan, slot: Word, row: Word, sign: Word) -> None:
    """Add a row to the totals of rows not in the block."""
    for total in range(len(plan.totals)):
        columns = plan.totals[total]
        if not has(rows, columns[SOURCE], row):
            continue
        if columns[OLD_COUNT] >= 0:
            blocks.old[slot, columns[OLD_COUNT]] += sign
        if columns[OLD_SUM] >= 0:
            units = rows.units[columns[SOURCE], row]
            blocks.old[slot, columns[OLD_SUM]] += sign * units
            blocks.magnitudes[slot, columns[SUM]] += abs(np.float64(units))
            if columns[OLD_SQUARE] >= 0:
                _add_square(blocks.old_squares, slot, 2 * columns[OLD_SQUARE], units, sign)
        if columns[OLD_LAST] >= 0 and sign > 0:
            blocks.old[slot, columns[OLD_LAST]] = max(blocks.old[slot, columns[OLD_LAST]], rows.at[row])


@inner
def remove(blocks: Blocks, rows: Rows, plan: Plan, slot: Word, row: Word) -> bool:
    """Remove a row with the same time and values from the block; returns whether there was one."""
    length = blocks.slots[slot, LENGTH]
    start = np.int64(blocks.slots[slot, START])
    place = first_from(blocks.ids, rows.at, start, length, rows.at[row] + 1) - 1
    while place >= 0 and rows.at[blocks.ids[start + place]] == rows.at[row]:
        if _is_equal(rows, blocks.ids[start + place], row):
            for later in range(start + place, start + length - 1):
                copy(blocks, later + 1, blocks, later)
                add_own(blocks, rows, plan, later, row, -1)
            add_magnitude(blocks, rows, plan, slot, row, -1)
            blocks.slots[slot, LENGTH] = length - 1
            return True
        place -= 1
    return False


@inner
def _is_equal(rows: Rows, one: Word, other: Word) -> bool:
    for column in range(len(rows.units)):
        if rows.units[column, one] != rows.units[column, other]:
            return False
    for column in range(len(rows.codes)):
        if rows.codes[column, one] != rows.codes[column, other]:
            return False
    for column in range(len(rows.values)):
        a, b = rows.values[column, one], rows.values[column, other]
        if a != b and not (math.isnan(a) and math.isnan(b)):
            return False
    return True


@inner
def first_from(ids: Array, at: Array, start: Word, end: Word, moment: Word) -> Word:
    """The first position before `end` whose time is not before the moment; searched from the end, where most are."""
    if end == 0 or at[ids[start]] >= moment:
        return 0
    low, step = end - 1, 1
    while at[ids[start + low]] >= moment:
        end = low
        low = max(low - step, 0)
        step *= 2
    while low + 1 < end:
        middle = (low + end) >> 1
        if at[ids[start + middle]] >= moment:
            end = middle
        else:
            low = middle
    return end
