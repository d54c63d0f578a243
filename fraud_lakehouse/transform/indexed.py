"""What a model asks of an index over its rows (`indexed_rows` in SQL), and the two relations that answer it.

`rows`: the rows themselves; `told`: the same rows, each with its totals, as a stream that can be read once. Neither is
kept: memory holds the rows and the index while the model is written. Names follow from the model alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from fraud_lakehouse.features.event_index import UNITS, EventIndex, Wanted
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.handles import Key

STREAM_ROWS = 16_384


@dataclass(frozen=True)
class Indexed:
    """A question: the SQL of a model's rows (with _row, _at, key columns and units of measures), and what is wanted."""

    consumer: Key
    sql: str
    entities: dict[str, Wanted]

    @staticmethod
    def of(call: dict[str, Any]) -> Indexed:
        """The question of a macro's call."""
        entities = {name: Wanted.of(wanted) for name, wanted in call["entities"].items()}
        return Indexed((call["consumer"][0], call["consumer"][1]), call["sql"], entities)

    @property
    def relations(self) -> dict[str, str]:
        """SQL names of the relations, which only the cursor sees that `answer` was given."""
        return {part: quoted(name) for part, name in self._names.items()}

    @property
    def _names(self) -> dict[str, str]:
        model = ".".join(self.consumer)
        return {"rows": f"rows of {model}", "told": f"told of {model}"}

    def answer(self, cursor: DuckDBPyConnection) -> None:
        """Run the SQL, build the index, put both relations in place."""
        rows = cursor.sql(self.sql).to_arrow_table()
        index = EventIndex(rows, self.entities)
        summed = {f"{UNITS}{measure}" for wanted in self.entities.values() for _, measure, _ in wanted.totals}
        rows = rows.drop_columns(sorted(summed))  # which the index knows
        cursor.register(self._names["rows"], rows)
        stream = pa.RecordBatchReader.from_batches(_told(rows, index, 0, 0).schema, _batches(rows, index))
        cursor.register(self._names["told"], stream)

    def forget(self, cursor: DuckDBPyConnection) -> None:
        """Take the relations away, and their memory with them."""
        for name in self._names.values():
            cursor.unregister(name)


def _batches(rows: pa.Table, index: EventIndex) -> Iterator[pa.RecordBatch]:
    for first in range(0, rows.num_rows, STREAM_ROWS):
        yield from _told(rows, index, first, min(STREAM_ROWS, rows.num_rows - first)).to_batches()


def _told(rows: pa.Table, index: EventIndex, first: int, count: int) -> pa.Table:
    told = index.rows(first, count).to_arrow()
    columns = [*rows.slice(first, count).columns, *told.columns]
    return pa.table(columns, names=[*rows.column_names, *told.column_names]).combine_chunks()
