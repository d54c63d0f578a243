"""The feature engine: rows in, features out; see `FeatureEngine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from fraud_lakehouse.features.engine.feature import EngineFeature

if TYPE_CHECKING:
    from fraud_lakehouse.features.engine.compiled import Array
    from fraud_lakehouse.features.engine.reading import Batch


class FeatureEngine:
    """Computes features of rows as of their arrival, from the rows that came before.

    Rows are tables with `_at` (int64: microseconds in UTC; null: no usable time), `_weight` (1 or -1; absent: all 1),
    key_<entity> (integers or text; null: no key), units_of_<measure> (int64: the value as a scaled integer; null: no
    value) and value_<measure> (numbers or text). NaN means no value.

    For a row with time t, these earlier rows with the same key count:
    with a window, those of [t - window, t] and the row itself (`current`), or those of [t - window, t).
    Without a window, kind "events": those before t. Kind "changes": all current ones, whatever their time.
    A row without a key counts only itself. A row without a time counts nothing, except without a window of changes.

    count, sum, mean and stddev are differences of running totals. Sums are exact; if the absolute values add up to
    9e18 scaled or more, all but the count are null. The cost of other aggregates grows with the rows in the window.
    seconds_since_last and is_first refer to the latest row before t, with the measure if one is given.

    Args:
        features: what is computed.
        kind: "events": rows are only added. "changes": rows of weight -1 remove an equal row.
        units: for each summed measure, the number of scaled integers per 1.

    Raises:
        TransformError: a feature is not supported.
    """

    def __init__(
        self,
        features: Sequence[EngineFeature],
        kind: Literal["events", "changes"],
        units: Mapping[str, int] | None = None,
    ) -> None:
        # importing numba takes a second
        from fraud_lakehouse.features.engine.entity import Entity
        from fraud_lakehouse.features.engine.planning import Measures, plan_of
        from fraud_lakehouse.features.engine.rows import RowStore

        for feature in features:
            feature.check()
        self._features = list(features)
        self._is_changes = kind == "changes"
        self._measures = Measures.of(features)
        self._of_entity: dict[str, list[EngineFeature]] = {}
        for feature in features:
            self._of_entity.setdefault(feature.entity, []).append(feature)
        self._entities = [
            Entity(name, plan_of(of_entity, self._measures, units or {}, is_changes=self._is_changes))
            for name, of_entity in self._of_entity.items()
        ]
        self._store = RowStore(self._measures)
        self._kept = 0

    @property
    def rows(self) -> int:
        """The number of rows kept."""
        return self._kept

    @property
    def nbytes(self) -> int:
        """The size of all arrays."""
        return self._store.nbytes + sum(entity.nbytes for entity in self._entities)

    def load(self, rows: pa.Table) -> None:
        """Load history, in any order, without computing features.

        Raises:
            TransformError: the rows are invalid; nothing has changed.
        """
        batch = self._read(rows)
        first, slots = self._take_up(batch)
        found = np.zeros(batch.size, np.bool_)
        for entity, slots_of_entity in zip(self._entities, slots, strict=True):
            entity.load(self._store.columns, slots_of_entity, batch.weights, first)
            removed = np.where(batch.weights < 0, slots_of_entity, 0).astype(np.int32)
            if removed.any():
                entity.add(self._store.columns, removed, batch.weights, first, found, evaluate=False)
        self._kept -= int(found.sum())

    def load_totals(self, rows: pa.Table) -> None:
        """Load totals of rows that are not loaded, for features without a window: a row for each key of one entity.

        Columns, as far as features need them: key_<entity>; for all rows `_rows` (their number) and `_at` (the latest
        time, for seconds_since_last and is_first); for a measure count_of_<measure>, units_of_<measure> (sum),
        squares_of_<measure> (sum of squares, decimal(38, 0)) and at_of_<measure>.

        Raises:
            TransformError: the rows are invalid; nothing has changed.
        """
        from fraud_lakehouse.features.engine.reading import entity_of

        name = entity_of(rows, list(self._of_entity))
        entity = next(entity for entity in self._entities if entity.name == name)
        entity.add_totals(rows, self._measures)

    def add(self, rows: pa.Table) -> pa.Table:
        """Process rows in the order of their arrival.

        Returns one row for each of weight 1, in the same order, with a column for each feature: count and distinct
        int64, is_first boolean, first and last of text string, others double.

        Raises:
            TransformError: the rows are invalid; nothing has changed.
        """
        batch = self._read(rows)
        first, slots = self._take_up(batch)
        found = np.zeros(batch.size, np.bool_)
        columns: dict[str, pa.Array] = {}
        added = batch.weights > 0
        for entity, slots_of_entity in zip(self._entities, slots, strict=True):
            computed = entity.add(self._store.columns, slots_of_entity, batch.weights, first, found, evaluate=True)
            computed = computed if added.all() else computed[:, added]
            for feature, values in zip(self._of_entity[entity.name], computed, strict=True):
                columns[feature.name] = self._column(feature, values)
        self._kept -= int(found.sum())
        return pa.table({feature.name: columns[feature.name] for feature in self._features})

    def evict(self, before: int) -> None:
        """Evict rows with an earlier time (microseconds), keeping the totals that features without a window need.

        It rewrites all memory, about 0.1 s per million rows: call it now and then, not at each batch. A row that is
        added later with an earlier time than evicted rows counts all of them as earlier.
        """
        for entity in self._entities:
            entity.evict(self._store.columns, before)
        self._forget_rows()

    def _read(self, rows: pa.Table) -> Batch:
        from fraud_lakehouse.features.engine.reading import read_batch

        batch = read_batch(rows, self._measures, list(self._of_entity), may_remove=self._is_changes)
        for entity, column in zip(self._entities, batch.keys, strict=True):
            entity.check_key(column)
        return batch

    def _take_up(self, batch: Batch) -> tuple[int, list[Array]]:
        """Store the rows; returns the number of the first, and for each entity the slots of all."""
        from fraud_lakehouse.features.engine.arrays import NONE

        size = self._store.size
        if size + batch.size > self._store.capacity and 4 * self._kept < 3 * size:
            self._forget_rows()
        first = self._store.append(batch)
        slots = [entity.slots(column) for entity, column in zip(self._entities, batch.keys, strict=True)]
        has_key = np.zeros(batch.size, np.bool_)
        for entity, slots_of_entity in zip(self._entities, slots, strict=True):
            entity.count_nulls(self._store.columns, first, self._store.size)
            has_key |= slots_of_entity > 0
        self._kept += int((has_key & (batch.at != NONE) & (batch.weights > 0)).sum())
        return first, slots

    def _forget_rows(self) -> None:
        """Free the rows that are in no block."""
        used = np.zeros(self._store.size, np.bool_)
        for entity in self._entities:
            entity.mark(used)
        self._kept = int(used.sum())
        if 8 * self._kept <= 7 * self._store.size:
            numbers = self._store.keep(used)
            for entity in self._entities:
                entity.renumber(numbers)

    def _column(self, feature: EngineFeature, values: Array) -> pa.Array:
        if feature.kind in ("count", "distinct"):
            return pa.array(values.astype(np.int64))
        if feature.is_text and feature.kind in ("first", "last"):
            return self._store.texts(values)
        column = pa.array(np.ascontiguousarray(values), from_pandas=True)
        return column.cast(pa.bool_()) if feature.kind == "is_first" else column
