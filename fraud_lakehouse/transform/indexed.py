"""What a model asks of an index over its rows (`indexed_rows` in SQL), and the relation that answers it.

The relation has the rows, each with its totals and what queries beside have computed of it. It is a stream that can be
read once: memory holds the rows and the index while the model is written. Its name follows from the model alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection

from fraud_lakehouse.features.event_index import UNITS, EventIndex, Wanted
from fraud_lakehouse.transform.handles import Key
from fraud_lakehouse.transform.values import with_values

STREAM_ROWS = 16_384
ROWS = "lake_rows"  # what queries beside call the rows


@dataclass(frozen=True)
class Beside:
    """Columns of the rows by queries over `lake_rows`, all rows without units; a row that is left out gets nulls.

    `sparse` and `dense` tell the same, with _row and columns of other names than the rows have; which of them is the
    quicker one is for `is_sparse` to say: a query for one truth value.
    """

    is_sparse: str
    sparse: str
    dense: str

    def run(self, cursor: DuckDBPyConnection) -> pl.DataFrame:
        """The columns, with _row."""
        ((is_sparse,),) = cursor.execute(self.is_sparse).fetchall()
        return pl.DataFrame(cursor.sql(self.sparse if is_sparse else self.dense).to_arrow_table())


@dataclass(frozen=True)
class Indexed:
    """A question: the SQL of a model's rows, and what is wanted of those that are evaluated.

    The rows have _row, _at, is_evaluated, key columns and units of measures.
    """

    consumer: Key
    sql: str
    entities: dict[str, Wanted]
    beside: tuple[Beside, ...] = ()

    @staticmethod
    def of(call: dict[str, Any]) -> Indexed:
        """The question of a macro's call."""
        entities = {name: Wanted.of(wanted) for name, wanted in call["entities"].items()}
        beside = tuple(Beside(one["is_sparse"], one["sparse"], one["dense"]) for one in call["beside"])
        return Indexed((call["consumer"][0], call["consumer"][1]), call["sql"], entities, beside)

    @property
    def name(self) -> str:
        """The relation's name, which only the cursor knows that `answer` was given."""
        return f"told of {'.'.join(self.consumer)}"

    def answer(self, cursor: DuckDBPyConnection, values: Mapping[str, str]) -> None:
        """Run the SQL, build the index, put the relation in place.

        Args:
            values: literals for the names of values in the SQL.
        """
        rows = cursor.sql(with_values(self.sql, values)).to_arrow_table()
        index = EventIndex(rows, self.entities)
        rows = rows.select([column for column in rows.column_names if not column.startswith(UNITS)])
        cursor.register(ROWS, rows)
        found = [one.run(cursor) for one in self.beside]
        cursor.unregister(ROWS)
        if index.size < rows.num_rows:  # else it would be a copy of everything
            rows = rows.filter(rows["is_evaluated"])
        order = pl.DataFrame(rows.select(["_row"]))
        beside = [order.join(one, on="_row", how="left", maintain_order="left").drop("_row") for one in found]
        told = _Told(rows, index, beside)
        cursor.register(self.name, pa.RecordBatchReader.from_batches(told.part(0, 0).schema, told.batches()))

    def forget(self, cursor: DuckDBPyConnection) -> None:
        """Take the relation away, and its memory with it."""
        cursor.unregister(self.name)


@dataclass(frozen=True)
class _Told:
    rows: pa.Table
    index: EventIndex
    beside: list[pl.DataFrame]

    def batches(self) -> Iterator[pa.RecordBatch]:
        for first in range(0, self.rows.num_rows, STREAM_ROWS):
            yield from self.part(first, min(STREAM_ROWS, self.rows.num_rows - first)).to_batches()

    def part(self, first: int, count: int) -> pa.Table:
        frames = [self.index.rows(first, count), *(frame.slice(first, count) for frame in self.beside)]
        parts = [self.rows.slice(first, count), *(frame.to_arrow() for frame in frames)]
        columns = [column for part in parts for column in part.columns]
        return pa.table(columns, names=[name for part in parts for name in part.column_names]).combine_chunks()
