"""Cached state: rows that models have read before, kept in DuckDB's memory so that builds need not read them again.

It holds chosen expressions of a Delta table's rows up to a commit number, or aggregates of them by key (`totals`).
Newer commits extend it. It is recomputed when the table was replaced or rewritten; totals also when an earlier number
is requested. A new process computes the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage.commit_numbers import NOTHING, commits_of, is_numbered, rows_since
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.transform.key_index import KeyIndex
from fraud_lakehouse.transform.scan import Columns, rows_sql

SCHEMA = "mirrors"
ROW_NUMBERS = "mirror_row_numbers"
FOLD_FROM = 50_000  # rows of partial aggregates
NUMBER = "mirror_commit"  # the column with a row's commit number


@dataclass(frozen=True)
class Shape:
    """What is cached of a row.

    `columns` are name and SQL expression. `totals` are name and the aggregate that merges two partial results; those of
    a single row are in `columns`, which then also name the `key`. Without `totals` every row is kept.
    """

    columns: tuple[tuple[str, str], ...]
    where: str | None = None
    key: tuple[str, ...] = ()
    totals: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(call: dict[str, Any]) -> Shape:
        """Parse a macro's call."""
        return Shape(
            tuple(call["columns"].items()),
            call.get("where"),
            tuple(call.get("key", ())),
            tuple(call.get("totals", {}).items()),
        )

    @property
    def names(self) -> str:
        """The columns' names, for a select list."""
        return ", ".join(quoted(name) for name, _ in self.columns)

    def select(self, relation: str, number: str = "") -> str:
        """Select the cached columns from a relation with the table's columns; totals are partial.

        Args:
            number: SQL of a row's commit number, to be kept as `NUMBER`; not for totals.
        """
        numbered = ((NUMBER, number),) if number else ()
        columns = ", ".join(f"{expression} as {quoted(name)}" for name, expression in self.columns + numbered)
        where = f" where {self.where}" if self.where else ""
        sql = f"select {columns} from {relation}{where}"
        return self.fold(f"({sql})") if self.totals else sql

    def fold(self, relation: str) -> str:
        """Merge partial totals into one row for each key."""
        keys = [quoted(name) for name in self.key]
        totals = [f"{expression} as {quoted(name)}" for name, expression in self.totals]
        group = f" group by {', '.join(keys)}" if keys else ""
        return f"select {', '.join(keys + totals)} from {relation}{group}"


@dataclass
class RowCache:
    """The cached state of one table's rows in one shape, up to the commit number `until`."""

    name: str
    shape: Shape
    table_id: str = ""
    until: int = NOTHING
    rows: int = 0
    folded_rows: int = 0
    indexes: dict[tuple[str, ...], KeyIndex] = field(default_factory=dict)

    @property
    def relation(self) -> str:
        """The stored rows (partial totals) as an SQL relation."""
        return f"{SCHEMA}.{quoted(self.name)}"

    def up_to(self, number: int) -> str:
        """A `where` clause, if needed, for stored rows of commits up to a number."""
        return f" where {NUMBER} <= {number}" if number < self.until and not self.shape.totals else ""


class RowCaches:
    """The cached state of one DuckDB connection. Not thread-safe."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._row_caches: dict[tuple[str, Shape], RowCache] = {}
        self._shown: dict[str, str] = {}
        connection.execute(f"create schema if not exists {SCHEMA}")

    def at(self, name: str, shape: Shape, table: DeltaTable, number: int, declared: Columns = ()) -> RowCache:
        """Cached state of at least the rows up to commit `number` (-1: none); totals are of exactly those.

        Args:
            name: of the table, for the cached relation's name.
            table: the table at that commit or later.
            declared: columns that read as null where the table does not have them yet.
        """
        row_cache = self._row_caches.get((name, shape))
        if row_cache is None:
            row_cache = self._row_caches[name, shape] = RowCache(f"{name} {len(self._row_caches)}", shape)
        table_id, commits = str(table.metadata().id), commits_of(table)
        is_same = row_cache.table_id == table_id and row_cache.until <= commits.newest
        is_same = is_same and (row_cache.until < 0 or commits.rewritten <= row_cache.until)
        if not is_same or (shape.totals and number < row_cache.until):
            row_cache.table_id = ""  # until it is complete: state left by an error must not be used
            self._make(row_cache, table, number, declared)
        elif row_cache.until < number:
            row_cache.table_id = ""
            rows = rows_since(table, row_cache.until, number)
            if rows.files:
                self._append(row_cache, rows_sql(table, rows, declared), _kept_number(row_cache, table))
        row_cache.table_id, row_cache.until = table_id, max(number, row_cache.until)
        return row_cache

    def find(self, row_cache: RowCache, number: int, by: tuple[str, ...], keys: str, into: str) -> None:
        """Write the cached rows that have one of the keys to the table `into`; it may include hash collisions.

        Args:
            number: rows of later commits are excluded.
            by: SQL expressions over the cached columns.
            keys: SQL of as many columns with the same types; a row with a null is no key.
        """
        index = row_cache.indexes.setdefault(by, KeyIndex())
        cursor = self._connection.cursor()
        if index.covered < row_cache.rows:
            new = f"select rowid as row, {', '.join(by)} from {row_cache.relation} where rowid >= {index.covered}"
            index.add(_hashes(cursor, new, len(by), "row"), row_cache.rows)
        numbers = index.find(_hashes(cursor, keys, len(by))["hash"])
        cursor.register(ROW_NUMBERS, numbers.to_frame().to_arrow())
        cursor.execute(
            f"create or replace table {into} as select {row_cache.shape.names} from ("
            f"select * from {row_cache.relation}"
            f" where rowid in (select row from {ROW_NUMBERS}))"  # DuckDB reads few rows by number directly
            f"{row_cache.up_to(number)}"
        )
        cursor.unregister(ROW_NUMBERS)

    def show(self, relation: str, sql: str) -> None:
        """Create a view, unless it exists."""
        if self._shown.get(relation) != sql:
            self._connection.cursor().execute(f"create or replace view {relation} as {sql}")
            self._shown[relation] = sql

    def _make(self, row_cache: RowCache, table: DeltaTable, number: int, declared: Columns) -> None:
        """Fill the cached state from all rows up to a commit."""
        row_cache.indexes.clear()
        row_cache.until = number
        rows = rows_sql(table, rows_since(table, NOTHING, number), declared)
        self._create(row_cache, row_cache.shape.select(f"({rows})", _kept_number(row_cache, table)))
        row_cache.folded_rows = row_cache.rows

    def _append(self, row_cache: RowCache, sql: str, number: str) -> None:
        select = row_cache.shape.select(f"({sql})", number)
        row_cache.rows += self._changed(f"insert into {row_cache.relation} {select}")
        if row_cache.shape.totals and row_cache.rows > max(2 * row_cache.folded_rows, FOLD_FROM):
            self._create(row_cache, row_cache.shape.fold(row_cache.relation))
            row_cache.folded_rows = row_cache.rows

    def _create(self, row_cache: RowCache, sql: str) -> None:
        row_cache.rows = self._changed(f"create or replace table {row_cache.relation} as {sql}")

    def _changed(self, statement: str) -> int:
        """Execute a statement; returns the number of rows written."""
        counted = self._connection.cursor().execute(statement).fetchone()
        assert counted is not None
        return int(counted[0])


def _kept_number(row_cache: RowCache, table: DeltaTable) -> str:
    """SQL of a row's commit number, if the cached state stores it."""
    if row_cache.shape.totals:
        return ""
    return f"coalesce({COMMIT}, 0)" if is_numbered(table) else "0"


def _hashes(cursor: duckdb.DuckDBPyConnection, sql: str, keys: int, kept: str = "") -> pl.DataFrame:
    """Hashes (UInt64) of the last `keys` columns of a query; rows with a null in one of them are left out."""
    names = [f"key_{number}" for number in range(keys)]
    listed = ", ".join(names)
    aliases = ", ".join([kept, *names] if kept else names)
    known = " and ".join(f"{name} is not null" for name in names)
    query = f"select hash({listed}) as hash{', ' + kept if kept else ''} from ({sql}) as keyed({aliases}) where {known}"
    return pl.DataFrame(pl.from_arrow(cursor.sql(query).to_arrow_table()))
