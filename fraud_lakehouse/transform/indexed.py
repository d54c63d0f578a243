"""An index over a model's rows (`indexed_rows` in SQL), and the relation that returns its results.

The relation has the rows, each with its totals and the columns of additional queries. It is a stream that can be read
once: memory holds the rows and the index while the model is written. Its name depends only on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection

from fraud_lakehouse.features.event_index import UNITS, EventIndex, Wanted
from fraud_lakehouse.transform.table_cache import Key
from fraud_lakehouse.transform.values import with_values

STREAM_ROWS = 16_384
ROWS = "lake_rows"  # the name of the rows in additional queries


@dataclass(frozen=True)
class SideQuery:
    """Additional columns, computed by queries over `lake_rows`: all rows, without units. Rows not returned get nulls.

    `sparse` and `dense` return the same: _row, and columns with names that the rows do not have. `is_sparse` is a query
    for one boolean: whether `sparse` is the faster one.
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
    """A request: the SQL of a model's rows, and the totals wanted for the evaluated ones.

    The rows have _row, _at, is_evaluated, key columns and units of measures.
    """

    consumer: Key
    sql: str
    entities: dict[str, Wanted]
    beside: tuple[SideQuery, ...] = ()

    @staticmethod
    def of(call: dict[str, Any]) -> Indexed:
        """Parse a macro's call."""
        entities = {name: Wanted.of(wanted) for name, wanted in call["entities"].items()}
        beside = tuple(SideQuery(one["is_sparse"], one["sparse"], one["dense"]) for one in call["beside"])
        return Indexed((call["consumer"][0], call["consumer"][1]), call["sql"], entities, beside)

    @property
    def name(self) -> str:
        """The relation's name; only the cursor given to `answer` knows it."""
        return f"index of {'.'.join(self.consumer)}"

    def answer(self, cursor: DuckDBPyConnection, values: Mapping[str, str]) -> None:
        """Run the SQL, build the index, register the relation.

        Args:
            values: literals that replace the named values in the SQL.
        """
        rows = cursor.sql(with_values(self.sql, values)).to_arrow_table()
        index = EventIndex(rows, self.entities)
        rows = rows.select([column for column in rows.column_names if not column.startswith(UNITS)])
        cursor.register(ROWS, rows)
        found = [one.run(cursor) for one in self.beside]
        cursor.unregister(ROWS)
        if index.size < rows.num_rows:  # otherwise this would copy everything
            rows = rows.filter(rows["is_evaluated"])
        order = pl.DataFrame(rows.select(["_row"]))
        beside = [order.join(one, on="_row", how="left", maintain_order="left").drop("_row") for one in found]
        reported = _Answer(rows, index, beside)
        cursor.register(self.name, pa.RecordBatchReader.from_batches(reported.part(0, 0).schema, reported.batches()))

    def forget(self, cursor: DuckDBPyConnection) -> None:
        """Unregister the relation and free its memory."""
        cursor.unregister(self.name)


@dataclass(frozen=True)
class _Answer:
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
