"""A model's request for cached state (`seen_rows`, `seen_totals`, `seen_by_key` in SQL), and the resulting relation.

The relation's name depends only on the request, so the model's SQL is the same at every build.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import duckdb
from deltalake import DeltaTable

from fraud_lakehouse.sql_text import literal, quoted
from fraud_lakehouse.storage.commit_numbers import NOTHING, rows_since
from fraud_lakehouse.transform.row_cache import RowCaches, Shape
from fraud_lakehouse.transform.scan import Columns, rows_sql
from fraud_lakehouse.transform.table_cache import Key

SEEN_SCHEMA = "seen"


@dataclass(frozen=True)
class CachedRows:
    """A model's request.

    `newest`: all current rows, not only those consumed before. `since`: a column and the SQL of its smallest value
    wanted. `by` and `keys`: expressions over the cached columns, and the SQL of the keys wanted. `is_kept`: whether the
    rows are cached; else each build reads the table's files, except those that `since` excludes.
    """

    consumer: Key
    upstream: Key
    shape: Shape
    newest: bool = False
    since: tuple[str, str] | None = None
    by: tuple[str, ...] = ()
    keys: str = ""
    is_kept: bool = True

    @staticmethod
    def of(call: dict[str, Any]) -> CachedRows:
        """Parse a macro's call."""
        consumer, upstream = ((call[part][0], call[part][1]) for part in ("consumer", "upstream"))
        since = (call["since"][0], call["since"][1]) if call.get("since") else None
        shape = Shape.of(call["shape"])
        by, keys = tuple(call.get("by", ())), call.get("keys", "")
        return CachedRows(consumer, upstream, shape, call["newest"], since, by, keys, call.get("is_kept", True))

    @property
    def relation(self) -> str:
        """Name of the relation with the result."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        name = f"{'.'.join(self.consumer)} <- {'.'.join(self.upstream)} {digest}"
        return f"{SEEN_SCHEMA}.{quoted(name)}"

    def answer(
        self,
        row_caches: RowCaches,
        cursor: duckdb.DuckDBPyConnection,
        table: DeltaTable | None,
        number: int,
        declared: Columns = (),
    ) -> None:
        """Bring the cached state to commit `number` (-1: no rows) and create the relation.

        Args:
            table: the table at that commit or later; None: no such table, the view is empty.
            declared: columns that read as null where the table does not have them yet.
        """
        if table is None:
            empty = self.shape.select(f"{quoted(self.upstream[0])}.{quoted(self.upstream[1])}")
            sql = f"select * from ({empty}) where false"
            if self.by:
                cursor.execute(f"create or replace table {self.relation} as {sql}")  # a table, as key lookups are
            else:
                row_caches.show(self.relation, sql)
            return
        if not self.is_kept:
            rows = rows_sql(table, rows_since(table, NOTHING, number), declared)
            row_caches.show(self.relation, self._bounded(cursor, self.shape.select(f"({rows})")))
            return
        # totals are of one commit number: models that have read up to different numbers need their own
        owner = f" of {'.'.join(self.consumer)}" if self.shape.totals else ""
        row_cache = row_caches.at(".".join(self.upstream) + owner, self.shape, table, number, declared)
        if self.by:
            row_caches.find(row_cache, number, self.by, self.keys, self.relation)
            return
        sql = f"select {self.shape.names} from {row_cache.relation}{row_cache.up_to(number)}"
        if self.shape.totals:
            sql = self.shape.fold(row_cache.relation)
        row_caches.show(self.relation, self._bounded(cursor, sql))

    def _bounded(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
        """Restrict the query to values from the smallest wanted one."""
        if self.since is None:
            return sql
        column, least = self.since
        bound = cursor.execute(f"select cast(({least}) as varchar)").fetchone()
        assert bound is not None
        return f"select * from ({sql}) where {f'{quoted(column)} >= {literal(bound[0])}' if bound[0] else 'false'}"
