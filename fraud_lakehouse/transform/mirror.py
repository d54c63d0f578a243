"""Mirrors: what models have read before, kept in DuckDB's memory so that it is not read again at every build.

A mirror holds chosen expressions of a Delta table's rows up to a version (`rows`), or aggregates of them by key
(`totals`). It is a cache: taken forward by the files that commits have added, made anew when the table is another one,
was rewritten, or is asked for at an earlier version. The same rows come out in a process that has none yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.changes import added_files
from fraud_lakehouse.transform.handles import Mark, log_mark
from fraud_lakehouse.transform.key_index import KeyIndex
from fraud_lakehouse.transform.scan import Columns, files_sql, version_sql

SCHEMA = "mirrors"
ROW_NUMBERS = "mirror_row_numbers"
FOLD_FROM = 50_000  # rows of partial aggregates
MOST_STEPS = 20  # versions taken one by one, so that who asks for one between finds it
MOST_MARKS = 1_000


@dataclass(frozen=True)
class Shape:
    """What a mirror keeps of a row.

    `columns` are name and SQL expression. `totals` are name and the aggregate that merges two partial results; those of
    a single row are in `columns`, which then also name the `key`. Without `totals` every row is kept.
    """

    columns: tuple[tuple[str, str], ...]
    where: str | None = None
    key: tuple[str, ...] = ()
    totals: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(call: dict[str, Any]) -> Shape:
        """The shape that a macro's call describes."""
        return Shape(
            tuple(call["columns"].items()),
            call.get("where"),
            tuple(call.get("key", ())),
            tuple(call.get("totals", {}).items()),
        )

    def select(self, relation: str) -> str:
        """The mirror's rows of a relation with the table's columns; totals are partial."""
        columns = ", ".join(f"{expression} as {quoted(name)}" for name, expression in self.columns)
        where = f" where {self.where}" if self.where else ""
        sql = f"select {columns} from {relation}{where}"
        return self.fold(f"({sql})") if self.totals else sql

    def fold(self, relation: str) -> str:
        """Partial totals as one row for each key."""
        keys = [quoted(name) for name in self.key]
        totals = [f"{expression} as {quoted(name)}" for name, expression in self.totals]
        group = f" group by {', '.join(keys)}" if keys else ""
        return f"select {', '.join(keys + totals)} from {relation}{group}"


@dataclass
class Mirror:
    """One shape of one table at one version."""

    name: str
    shape: Shape
    table_id: str = ""
    log_mark: Mark | None = None
    marks: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    folded_rows: int = 0
    indexes: dict[tuple[str, ...], KeyIndex] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The newest version it holds; `marks` has the rows at each it went through."""
        return max(self.marks)

    @property
    def relation(self) -> str:
        """The stored rows (partial totals) as an SQL relation."""
        return f"{SCHEMA}.{quoted(self.name)}"


class Mirrors:
    """The mirrors of one DuckDB. Not for several threads at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._mirrors: dict[tuple[str, Shape], Mirror] = {}
        self._shown: dict[str, str] = {}
        connection.execute(f"create schema if not exists {SCHEMA}")

    def at(
        self, name: str, shape: Shape, table: DeltaTable, version: int, declared: Columns = ()
    ) -> tuple[Mirror, int]:
        """The mirror of a table's rows up to `version` (-1: of none), and how many of its rows those are.

        Args:
            name: of the table, for the mirror's own name.
            table: a handle at `version` or later.
            declared: columns that read as null where the table does not have them yet.

        Raises:
            TransformError: files of that version are gone.
        """
        mirror = self._mirrors.get((name, shape))
        if mirror is None:
            mirror = self._mirrors[name, shape] = Mirror(f"{name} {len(self._mirrors)}", shape)
        table_id = str(table.metadata().id)
        is_same = mirror.table_id == table_id and log_mark(table, mirror.version) in (mirror.log_mark, None)
        if not is_same or not self._goes_on(mirror, table, version, declared):
            mirror.table_id = ""  # until all is done; what an error leaves behind is not to be trusted
            self._make(mirror, table, version, declared)
            mirror.table_id, mirror.marks = table_id, {version: mirror.rows}
        mirror.log_mark = log_mark(table, mirror.version)
        return mirror, mirror.marks[version]

    def _goes_on(self, mirror: Mirror, table: DeltaTable, version: int, declared: Columns) -> bool:
        """Take a mirror forward to a version, or find the version among those it has gone through."""
        if version in mirror.marks:
            return version == mirror.version or not mirror.shape.totals
        start = max((mark for mark in mirror.marks if mark < version), default=-1)
        if start < 0:
            return False
        if start < mirror.version:  # only versions without data are skipped, or it was never at this one
            added = added_files(table, start, version)
            if added.files or not added.append_only:
                return False
            mirror.marks[version] = mirror.marks[start]
            return not mirror.shape.totals
        table_id, mirror.table_id = mirror.table_id, ""
        step = 1 if version - start <= MOST_STEPS else version - start
        for until in range(start + step, version + 1, step):
            added = added_files(table, until - step, until)
            if not added.append_only:
                return False
            if added.files:
                self._append(mirror, files_sql(table, added.files, declared))
            mirror.marks[until] = mirror.rows
        for old in list(mirror.marks)[:-MOST_MARKS]:
            del mirror.marks[old]
        mirror.table_id = table_id
        return True

    def find(self, mirror: Mirror, rows: int, by: tuple[str, ...], keys: str, into: str) -> None:
        """Put the rows of a mirror that have one of the keys into the table `into` (and a few that only look like it).

        Args:
            rows: how many of the mirror's rows count.
            by: SQL expressions over the mirror's columns.
            keys: SQL of as many columns with the same types; a row with a null is no key.
        """
        index = mirror.indexes.setdefault(by, KeyIndex())
        cursor = self._connection.cursor()
        if index.covered < mirror.rows:
            new = f"select rowid as row, {', '.join(by)} from {mirror.relation} where rowid >= {index.covered}"
            index.add(_hashes(cursor, new, len(by), "row"), mirror.rows)
        numbers = index.find(_hashes(cursor, keys, len(by))["hash"])
        cursor.register(ROW_NUMBERS, numbers.filter(numbers < rows).to_frame().to_arrow())
        cursor.execute(
            f"create or replace table {into} as select * from {mirror.relation}"
            f" where rowid in (select row from {ROW_NUMBERS})"  # DuckDB goes to few rows by number at once
        )
        cursor.unregister(ROW_NUMBERS)

    def show(self, relation: str, sql: str) -> None:
        """Put a view in place, unless it is there."""
        if self._shown.get(relation) != sql:
            self._connection.cursor().execute(f"create or replace view {relation} as {sql}")
            self._shown[relation] = sql

    def _make(self, mirror: Mirror, table: DeltaTable, version: int, declared: Columns) -> None:
        """Fill a mirror from all rows up to a version."""
        mirror.indexes.clear()
        try:
            self._create(mirror, mirror.shape.select(f"({version_sql(table, version, declared)})"))
        except duckdb.IOException as error:
            raise TransformError(
                f"files of version {version} of {mirror.name} are gone: {error}",
                "remove the tables of the models that read it from the lake; the next build makes them from all rows",
            ) from error
        mirror.folded_rows = mirror.rows

    def _append(self, mirror: Mirror, sql: str) -> None:
        mirror.rows += self._changed(f"insert into {mirror.relation} {mirror.shape.select(f'({sql})')}")
        if mirror.shape.totals and mirror.rows > max(2 * mirror.folded_rows, FOLD_FROM):
            self._create(mirror, mirror.shape.fold(mirror.relation))
            mirror.folded_rows = mirror.rows

    def _create(self, mirror: Mirror, sql: str) -> None:
        mirror.rows = self._changed(f"create or replace table {mirror.relation} as {sql}")

    def _changed(self, statement: str) -> int:
        """Execute a statement; answers the number of rows it wrote."""
        counted = self._connection.cursor().execute(statement).fetchone()
        assert counted is not None
        return int(counted[0])


def _hashes(cursor: duckdb.DuckDBPyConnection, sql: str, keys: int, kept: str = "") -> pl.DataFrame:
    """Hashes (UInt64) of the last `keys` columns of a query, rows with a null among them left out."""
    names = [f"key_{number}" for number in range(keys)]
    listed = ", ".join(names)
    aliases = ", ".join([kept, *names] if kept else names)
    known = " and ".join(f"{name} is not null" for name in names)
    query = f"select hash({listed}) as hash{', ' + kept if kept else ''} from ({sql}) as keyed({aliases}) where {known}"
    return pl.DataFrame(pl.from_arrow(cursor.sql(query).to_arrow_table()))
