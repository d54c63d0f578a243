"""Processes a batch's rows for one entity: adds them, and rewrites blocks."""

from __future__ import annotations

import numpy as np

from fraud_lakehouse.features.engine.arrays import LENGTH, NONE, ROOM, ROOMS, START, Blocks, Plan, Rows
from fraud_lakehouse.features.engine.blocks import (
    add_magnitude,
    add_old,
    copy,
    first_from,
    insert,
    remove,
    write_totals,
)
from fraud_lakehouse.features.engine.compiled import Array, Word, compiled, inner
from fraud_lakehouse.features.engine.evaluating import evaluate
from fraud_lakehouse.features.engine.wide import minus


@compiled
def add(
    blocks: Blocks,
    rows: Rows,
    plan: Plan,
    slots: Array,
    weights: Array,
    first: Word,
    begin: Word,
    found: Array,
    computed: Array,
) -> Word:
    """Process rows in order from the begin-th on, numbered from `first`; returns where the pool was full.

    `found` is set for rows of weight -1 that existed. `computed` (features, rows) gets the features of the others,
    NaN for null; if it has no rows, none are computed.
    """
    lows = np.zeros(len(plan.windows), np.int64)
    for number in range(begin, len(slots)):
        row, slot = first + number, slots[number]
        has_time = rows.at[row] != NONE
        if weights[number] < 0:
            if slot and has_time and remove(blocks, rows, plan, slot, row):
                found[number] = True
            elif slot:
                add_old(blocks, rows, plan, slot, row, -1)
            continue
        place = -1
        if has_time and (slot or computed.shape[0]):
            place = insert(blocks, rows, plan, slot, row)
            if place < 0:
                return number
        if computed.shape[0]:
            evaluate(blocks, rows, plan, slot, row, place, lows, computed, number)
        if slot == 0:
            blocks.slots[0, LENGTH] = 0
        elif not has_time and plan.is_changes:
            add_old(blocks, rows, plan, slot, row, 1)
    return len(slots)


@inner
def needed(blocks: Blocks, rows: Rows, before: Word, extra: Array, skipped: Array) -> Word:
    """The pool size for all blocks, with capacity for `extra` more rows in each slot and without rows before the time.

    `skipped` gets the number of the latter.
    """
    pool: Word = 0
    for slot in range(len(extra)):
        start, length = np.int64(blocks.slots[slot, START]), blocks.slots[slot, LENGTH]
        skipped[slot] = first_from(blocks.ids, rows.at, start, length, before)
        pool += ROOMS[_room_for(length - skipped[slot] + extra[slot])]
    return pool


@inner
def pack(blocks: Blocks, rows: Rows, plan: Plan, extra: Array, skipped: Array, packed: Blocks) -> None:
    """Copy all blocks one after the other into an empty pool; skipped rows go to the old totals."""
    for slot in range(len(extra)):
        start, length, skip = np.int64(blocks.slots[slot, START]), blocks.slots[slot, LENGTH], skipped[slot]
        for place in range(skip):
            add_magnitude(blocks, rows, plan, slot, blocks.ids[start + place], -1)
            add_old(blocks, rows, plan, slot, blocks.ids[start + place], 1)
        room, target = _room_for(length - skip + extra[slot]), packed.used[0]
        packed.slots[slot, START] = target
        packed.slots[slot, LENGTH] = length - skip
        packed.slots[slot, ROOM] = room
        packed.used[0] += ROOMS[room]
        base = start + skip - 1
        for place in range(length - skip):
            copy(blocks, base + 1 + place, packed, target + place)
            if skip:
                for column in range(packed.sums.shape[1]):
                    packed.sums[target + place, column] -= blocks.sums[base, column]
                for column in range(packed.counts.shape[1]):
                    packed.counts[target + place, column] -= blocks.counts[base, column]
                for column in range(0, packed.squares.shape[1], 2):
                    low, high = minus(
                        packed.squares[target + place, column],
                        packed.squares[target + place, column + 1],
                        blocks.squares[base, column],
                        blocks.squares[base, column + 1],
                    )
                    packed.squares[target + place, column] = low
                    packed.squares[target + place, column + 1] = high


@inner
def _room_for(length: Word) -> Word:
    """The index in ROOMS of the capacity for so many rows."""
    return np.searchsorted(ROOMS, length)


@inner
def append(blocks: Blocks, rows: Rows, plan: Plan, slots: Array, weights: Array, first: Word) -> None:
    """Append the rows of weight 1 to their blocks, which have space, in any order. `settle` sorts them."""
    for number in range(len(slots)):
        row, slot = first + number, slots[number]
        if slot == 0 or weights[number] < 0:
            continue
        if rows.at[row] != NONE:
            blocks.ids[blocks.slots[slot, START] + blocks.slots[slot, LENGTH]] = row
            blocks.slots[slot, LENGTH] += 1
            add_magnitude(blocks, rows, plan, slot, row, 1)
        elif plan.is_changes:
            add_old(blocks, rows, plan, slot, row, 1)


@compiled
def settle(blocks: Blocks, rows: Rows, plan: Plan, extra: Array) -> None:
    """Sort the blocks to which rows were appended, and compute their running totals again."""
    for slot in range(len(extra)):
        if extra[slot] == 0:
            continue
        start, length = np.int64(blocks.slots[slot, START]), np.int64(blocks.slots[slot, LENGTH])
        settled = length - extra[slot]
        earliest, is_ordered = rows.at[blocks.ids[start + settled]], True
        for place in range(settled + 1, length):
            at = rows.at[blocks.ids[start + place]]
            is_ordered &= rows.at[blocks.ids[start + place - 1]] <= at
            earliest = min(earliest, at)
        first = first_from(blocks.ids, rows.at, start, settled, earliest)
        if first < settled or not is_ordered:
            ids = blocks.ids[start + first : start + length]
            ids[:] = ids[np.argsort(rows.at[ids])]
        for place in range(first, length):
            write_totals(blocks, rows, plan, start, place)


@inner
def count_all(blocks: Blocks, column: Word) -> None:
    """Fill a new column of counts: so far every row had a value."""
    for slot in range(len(blocks.slots)):
        for place in range(blocks.slots[slot, LENGTH]):
            blocks.counts[blocks.slots[slot, START] + place, column] = place + 1


@inner
def mark(blocks: Blocks, used: Array) -> None:
    """Mark the rows that are in a block."""
    for slot in range(len(blocks.slots)):
        for place in range(blocks.slots[slot, LENGTH]):
            used[blocks.ids[blocks.slots[slot, START] + place]] = True


@inner
def renumber(blocks: Blocks, numbers: Array) -> None:
    """Apply new row numbers to all blocks."""
    for slot in range(len(blocks.slots)):
        for place in range(blocks.slots[slot, LENGTH]):
            here = blocks.slots[slot, START] + place
            blocks.ids[here] = numbers[blocks.ids[here]]
