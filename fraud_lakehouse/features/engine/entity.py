"""The state of one entity: its keys and their blocks of rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.engine.arrays import (
    COUNT,
    LENGTH,
    NONE,
    OLD_COUNT,
    OLD_LAST,
    OLD_SQUARE,
    OLD_SUM,
    ROOMS,
    SOURCE,
    SQUARE,
    SUM,
    Blocks,
    Plan,
    Rows,
)
from fraud_lakehouse.features.engine.compiled import Array
from fraud_lakehouse.features.engine.kernels import (
    add,
    append,
    count_all,
    mark,
    needed,
    pack,
    renumber,
    settle,
)
from fraud_lakehouse.features.engine.keys import Keys, words_of
from fraud_lakehouse.features.engine.planning import Measures, old_width, width, without_counts
from fraud_lakehouse.features.engine.reading import read_key, whole_numbers, wide_numbers
from fraud_lakehouse.features.engine.rows import has_null


class Entity:
    """Blocks by key. The row store has the rows; calls are given its columns."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self._keys: Keys | None = None
        self._kind = pa.null()
        totals = plan.totals
        self._blocks = Blocks(
            np.zeros((1, 3), np.int32),
            np.zeros(0, np.int32),
            np.zeros((0, width(totals, SUM)), np.int64),
            np.zeros((0, 0), np.int32),
            np.zeros((0, 2 * width(totals, SQUARE)), np.uint64),
            np.zeros((1, width(totals, SUM)), np.float64),
            np.zeros((1, old_width(totals)), np.int64),
            np.zeros((1, 2 * width(totals, OLD_SQUARE)), np.uint64),
            np.full(len(ROOMS), -1, np.int32),
            np.zeros(1, np.int64),
        )

    @property
    def nbytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self._blocks) + (self._keys.nbytes if self._keys else 0)

    def check_key(self, column: pa.Array) -> None:
        """Check that all keys have the same type.

        Raises:
            TransformError: earlier keys had another type.
        """
        if not (pa.types.is_null(column.type) or pa.types.is_null(self._kind) or column.type == self._kind):
            raise TransformError(
                f"the column key_{self.name} of the rows is {column.type}, and was {self._kind} before",
                "give all keys of an entity as whole numbers, or all as text",
            )

    def slots(self, column: pa.Array) -> Array:
        """The slots of keys, created if new; 0 for null."""
        if pa.types.is_null(column.type):
            return np.zeros(len(column), np.int32)
        if self._keys is None:
            self._kind = column.type
            self._keys = Keys(1 if pa.types.is_int64(column.type) else 2)
        slots = self._keys.slots(*words_of(column))
        if self._keys.size > len(self._blocks.slots):
            self._resize_slots(self._keys.size + self._keys.size // 16)
        return slots

    def count_nulls(self, rows: Rows, first: int, end: int) -> None:
        """Start counting values at the first row without one; until then every row has one."""
        for total in without_counts(self.plan.totals):
            if has_null(rows, self.plan.totals[total, SOURCE], first, end):
                column = width(self.plan.totals, COUNT)
                counts = np.zeros((len(self._blocks.ids), column + 1), np.int32)
                counts[:, :column] = self._blocks.counts
                self._blocks = self._blocks._replace(counts=counts)
                count_all(self._blocks, column)
                self.plan.totals[total, COUNT] = column

    def add(self, rows: Rows, slots: Array, weights: Array, first: int, found: Array, *, evaluate: bool) -> Array:
        """Process rows in order; returns the features (features, rows), or nothing."""
        computed = np.empty((len(self.plan.features) if evaluate else 0, len(slots)), np.float64)
        done = 0
        while True:
            done = add(self._blocks, rows, self.plan, slots, weights, first, done, found, computed)
            if done == len(slots):
                return computed
            self._pack(rows, NONE, np.bincount(slots[done:], minlength=len(self._blocks.slots)), spare=True)

    def load(self, rows: Rows, slots: Array, weights: Array, first: int) -> None:
        """Load rows of weight 1 in any order."""
        placed = (rows.at[first : first + len(slots)] != NONE) & (weights > 0) & (slots > 0)
        extra = np.bincount(slots[placed], minlength=len(self._blocks.slots))
        self._pack(rows, NONE, extra, spare=True)
        append(self._blocks, rows, self.plan, slots, weights, first)
        settle(self._blocks, rows, self.plan, extra)

    def add_totals(self, given: pa.Table, measures: Measures) -> None:
        """Add totals of rows that are not loaded, by key."""
        key = read_key(given, self.name)
        self.check_key(key)
        columns: list[tuple[int, int, int, Array]] = []
        squares: list[tuple[int, list[int]]] = []
        for total in self.plan.totals:
            measure = measures.name(total[SOURCE])
            names = {OLD_COUNT: "count_of_", OLD_SUM: "units_of_", OLD_LAST: "at_of_"}
            if measure is None:
                names = {OLD_COUNT: "_rows", OLD_LAST: "_at"}
            columns += [
                (kind, total[kind], total[SUM], whole_numbers(given, name + (measure or "")))
                for kind, name in names.items()
                if total[kind] >= 0
            ]
            if total[OLD_SQUARE] >= 0:
                squares.append((total[OLD_SQUARE], wide_numbers(given, f"squares_of_{measure}")))
        slots = self.slots(key)
        for kind, column, magnitude, values in columns:
            if kind == OLD_LAST:
                np.maximum.at(self._blocks.old[:, column], slots, values)
                continue
            values[values == NONE] = 0
            np.add.at(self._blocks.old[:, column], slots, values)
            if kind == OLD_SUM:
                np.add.at(self._blocks.magnitudes[:, magnitude], slots, np.abs(values.astype(np.float64)))
        for column, wide in squares:
            for slot, value in zip(slots, wide, strict=True):
                words = self._blocks.old_squares[slot, 2 * column : 2 * column + 2]
                added = (int(words[0]) + (int(words[1]) << 64) + value) % 2**128
                words[:] = added % 2**64, added >> 64

    def evict(self, rows: Rows, before: int) -> None:
        """Evict rows before a time, and keys without any rows or totals."""
        self._pack(rows, before)
        blocks = self._blocks
        kept = blocks.slots[:, LENGTH] > 0
        kept[0] = True
        if self._keys is None or blocks.old.shape[1] or 2 * kept[: self._keys.size].sum() > self._keys.size:
            return
        self._keys.keep(kept[: self._keys.size])
        self._blocks = blocks._replace(
            slots=blocks.slots[kept],
            magnitudes=blocks.magnitudes[kept],
            old=blocks.old[kept],
            old_squares=blocks.old_squares[kept],
        )

    def mark(self, used: Array) -> None:
        """Mark the rows that are in a block."""
        mark(self._blocks, used)

    def renumber(self, numbers: Array) -> None:
        """Apply new row numbers."""
        renumber(self._blocks, numbers)

    def _pack(self, rows: Rows, before: int, extra: Array | None = None, *, spare: bool = False) -> None:
        """Rewrite the blocks without gaps, with capacity for `extra` rows in each slot, and for blocks to move."""
        old = self._blocks
        extra = np.zeros(len(old.slots), np.int64) if extra is None else extra
        skipped = np.zeros(len(old.slots), np.int64)
        pool = needed(old, rows, before, extra, skipped)
        pool += pool // 8 if spare else 0
        new = old._replace(
            slots=np.zeros_like(old.slots),
            ids=np.zeros(pool, np.int32),
            sums=np.zeros((pool, old.sums.shape[1]), np.int64),
            counts=np.zeros((pool, old.counts.shape[1]), np.int32),
            squares=np.zeros((pool, old.squares.shape[1]), np.uint64),
            free=np.full(len(ROOMS), -1, np.int32),
            used=np.zeros(1, np.int64),
        )
        pack(old, rows, self.plan, extra, skipped, new)
        self._blocks = new

    def _resize_slots(self, size: int) -> None:
        def resized(array: Array) -> Array:
            new = np.zeros((size, array.shape[1]), array.dtype)
            new[: len(array)] = array
            return new

        blocks, known = self._blocks, len(self._blocks.slots)
        self._blocks = blocks._replace(
            slots=resized(blocks.slots),
            magnitudes=resized(blocks.magnitudes),
            old=resized(blocks.old),
            old_squares=resized(blocks.old_squares),
        )
        last = self.plan.totals[:, OLD_LAST]
        self._blocks.old[known:, last[last >= 0]] = NONE
