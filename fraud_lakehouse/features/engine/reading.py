"""Reads batches of rows from Arrow tables; columns are checked before the engine changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.engine.arrays import NONE
from fraud_lakehouse.features.engine.compiled import Array
from fraud_lakehouse.features.engine.planning import Measures


@dataclass(frozen=True)
class Batch:
    """The columns of a table, in the order of the engine's measures and entities."""

    at: Array  # int64: microseconds, NONE: no usable time
    weights: Array  # int8: 1 or -1
    units: list[Array]  # int64, NONE: no value
    values: list[Array]  # float64, NaN: no value
    texts: list[pa.Array]  # large_string
    keys: list[pa.Array]  # int64 or large_string

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.at)


def read_batch(rows: pa.Table, measures: Measures, entities: Sequence[str], *, may_remove: bool) -> Batch:
    """The columns that the engine needs.

    Raises:
        TransformError: a column is missing, or has another type or value than it must.
    """
    at = np.clip(whole_numbers(rows, "_at"), NONE, 2**63 - 2)  # clipped to leave room for the next moment
    if "_weight" in rows.column_names:
        weights = whole_numbers(rows, "_weight")
        if not np.isin(weights, (1, -1) if may_remove else (1,)).all():
            raise TransformError(
                f"the column _weight of the rows has values other than {'1 and -1' if may_remove else '1'}",
                "give 1 for a row that is added" + (", -1 for one that is removed" if may_remove else ""),
            )
    else:
        weights = np.ones(len(at))
    return Batch(
        at,
        weights.astype(np.int8),
        [whole_numbers(rows, f"units_of_{measure}") for measure in measures.units],
        [_numbers(rows, f"value_{measure}") for measure in measures.values],
        [_texts(rows, f"value_{measure}") for measure in measures.texts],
        [read_key(rows, entity) for entity in entities],
    )


def read_key(rows: pa.Table, entity: str) -> pa.Array:
    """The keys of an entity: int64, large_string, or null if all are null."""
    column = column_of(rows, f"key_{entity}")
    if pa.types.is_null(column.type):
        return column
    if pa.types.is_integer(column.type):
        return _cast(column, pa.int64(), f"key_{entity}")
    if not _is_text(column.type):
        raise _wrong_type(f"key_{entity}", column.type, "whole numbers or text")
    return _cast(column, pa.large_string(), f"key_{entity}")


def entity_of(rows: pa.Table, entities: Sequence[str]) -> str:
    """The entity whose keys the rows have.

    Raises:
        TransformError: the rows have keys of no entity, or of several.
    """
    found = [entity for entity in entities if f"key_{entity}" in rows.column_names]
    if len(found) != 1:
        raise TransformError(
            f"totals are of one entity, and the rows have the keys of {', '.join(found) or 'none'}",
            f"give them one of the columns {', '.join(f'key_{entity}' for entity in entities)}",
        )
    return found[0]


def whole_numbers(rows: pa.Table, name: str) -> Array:
    """A column of int64 with NONE for null."""
    column = column_of(rows, name)
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise _wrong_type(name, column.type, "whole numbers")
    column = _cast(column, pa.int64(), name)
    least = pc.min(column).as_py()
    if least == NONE:
        raise TransformError(f"the column {name} of the rows has the value {NONE}", "give null where there is no value")
    return np.array(column.fill_null(NONE).to_numpy(zero_copy_only=False))


def column_of(rows: pa.Table, name: str) -> pa.Array:
    """The column in one chunk, without dictionary encoding.

    Raises:
        TransformError: it is missing.
    """
    if name not in rows.column_names:
        raise TransformError(
            f"the rows have no column {name}; they have {', '.join(rows.column_names)}",
            f"give the rows a column {name}",
        )
    column = rows[name].combine_chunks()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def wide_numbers(rows: pa.Table, name: str) -> list[int]:
    """A column of integers of up to 38 digits, 0 for null."""
    column = column_of(rows, name)
    if not (pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)):
        raise _wrong_type(name, column.type, "whole numbers")
    return [int(value) if value is not None else 0 for value in column.to_pylist()]


def _numbers(rows: pa.Table, name: str) -> Array:
    column = column_of(rows, name)
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_null(kind)):
        raise _wrong_type(name, kind, "numbers")
    values = np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    return values + 0.0  # converts -0.0 to 0.0


def _texts(rows: pa.Table, name: str) -> pa.Array:
    column = column_of(rows, name)
    if not (_is_text(column.type) or pa.types.is_null(column.type)):
        raise _wrong_type(name, column.type, "text")
    return _cast(column, pa.large_string(), name)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _cast(column: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise TransformError(
            f"the column {name} of the rows does not fit {kind}: {error}", f"give it as {kind}"
        ) from error


def _wrong_type(name: str, found: pa.DataType, expected: str) -> TransformError:
    return TransformError(f"the column {name} of the rows is {found}, not {expected}", f"give {expected}")
