"""The stored rows, as columns; entities refer to them by number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fraud_lakehouse.features.engine.arrays import NONE, Rows
from fraud_lakehouse.features.engine.compiled import Array
from fraud_lakehouse.features.engine.keys import Keys, text_buffers, words_of
from fraud_lakehouse.features.engine.planning import Measures
from fraud_lakehouse.features.engine.reading import Batch


class RowStore:
    """Rows by number in the order of arrival, until they are renumbered.

    Texts of all measures are numbered from 1, in one dictionary.
    """

    def __init__(self, measures: Measures) -> None:
        self.size = 0
        self._keeps_texts = measures.keeps_texts
        self._texts = Keys(2)
        self.columns = Rows(
            np.zeros(0, np.int64),
            np.zeros((len(measures.units), 0), np.int64),
            np.zeros((len(measures.values), 0), np.float64),
            np.zeros((len(measures.texts), 0), np.int32),
            np.zeros(0, np.uint8),
            np.zeros(1, np.int64),
        )

    @property
    def nbytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self.columns) + self._texts.nbytes

    @property
    def capacity(self) -> int:
        """The number of rows that fit before the arrays grow."""
        return len(self.columns.at)

    def append(self, batch: Batch) -> int:
        """Add the rows; returns the number of the first. The others follow."""
        first, size = self.size, self.size + batch.size
        if size > self.capacity:
            self._resize(size + size // 16)
        columns = self.columns
        columns.at[first:size] = batch.at
        for kept, values in zip(columns.units, batch.units, strict=True):
            kept[first:size] = values
        for kept, values in zip(columns.values, batch.values, strict=True):
            kept[first:size] = values
        for kept, texts in zip(columns.codes, batch.texts, strict=True):
            kept[first:size] = self._codes(texts)
        self.size = size
        return first

    def texts(self, codes: Array) -> pa.Array:
        """Texts by number; NaN is null."""
        text = pa.Array.from_buffers(
            pa.large_string(),
            self._texts.size - 1,
            [None, pa.py_buffer(self.columns.bounds), pa.py_buffer(self.columns.text)],
        )
        missing = np.isnan(codes)
        return text.take(pa.array(np.where(missing, 1, codes).astype(np.int64) - 1, mask=missing)).cast(pa.string())

    def keep(self, used: Array) -> Array:
        """Drop the rows that are not marked; returns the new number of each."""
        numbers = (np.cumsum(used, dtype=np.int64) - 1).astype(np.int32)
        columns = self.columns
        chosen = np.flatnonzero(used)
        self.size = len(chosen)
        self.columns = columns._replace(
            at=columns.at[chosen],
            units=np.ascontiguousarray(columns.units[:, chosen]),
            values=np.ascontiguousarray(columns.values[:, chosen]),
            codes=np.ascontiguousarray(columns.codes[:, chosen]),
        )
        self._forget_texts()
        return numbers

    def _codes(self, texts: pa.Array) -> Array:
        known = self._texts.size
        codes = self._texts.slots(*words_of(texts))
        if self._keeps_texts and self._texts.size > known:
            new, first = np.unique(codes, return_index=True)
            self._add_texts(texts.take(pa.array(first[new >= known])))
        return codes

    def _add_texts(self, texts: pa.Array) -> None:
        text, bounds = text_buffers(texts)
        self.columns = self.columns._replace(
            text=np.concatenate([self.columns.text, text[bounds[0] : bounds[-1]]]),
            bounds=np.concatenate([self.columns.bounds, self.columns.bounds[-1] + bounds[1:] - bounds[0]]),
        )

    def _forget_texts(self) -> None:
        """Renumber the texts when most are no longer used."""
        used = np.zeros(self._texts.size, np.bool_)
        used[0] = True
        for codes in self.columns.codes:
            used[codes] = True
        if 2 * used.sum() > self._texts.size:
            return
        numbers = (np.cumsum(used) - 1).astype(np.int32)
        if self._keeps_texts:
            kept = self.texts(np.flatnonzero(used)[1:].astype(np.float64)).cast(pa.large_string())
            self.columns = self.columns._replace(text=np.zeros(0, np.uint8), bounds=np.zeros(1, np.int64))
            self._add_texts(kept)
        for codes in self.columns.codes:
            codes[:] = numbers[codes]
        self._texts.keep(used)

    def _resize(self, capacity: int) -> None:
        def resized(array: Array) -> Array:
            new = np.zeros((*array.shape[:-1], capacity), array.dtype)
            new[..., : self.size] = array[..., : self.size]
            return new

        columns = self.columns
        self.columns = columns._replace(
            at=resized(columns.at),
            units=resized(columns.units),
            values=resized(columns.values),
            codes=resized(columns.codes),
        )


def has_null(rows: Rows, source: int, first: int, end: int) -> bool:
    """Whether one of the rows has no value, according to `source`."""
    if source >= 0:
        return bool((rows.units[source, first:end] == NONE).any())
    return bool((rows.codes[-1 - source, first:end] == 0).any())
