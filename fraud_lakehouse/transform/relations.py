"""Creates the relations that SQL reads by name: views on tables and new rows, cached state, queried values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from duckdb import DuckDBPyConnection

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage.commit_numbers import NOTHING, newest
from fraud_lakehouse.storage.lake import LAYERS
from fraud_lakehouse.storage.schemas import COMMIT
from fraud_lakehouse.transform.cached_rows import SEEN_SCHEMA, CachedRows
from fraud_lakehouse.transform.compiled import CompiledProject, Input, Model
from fraud_lakehouse.transform.consumption import Consumption, Plan
from fraud_lakehouse.transform.fired import Fired
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.inputs import NEW_ROWS_SCHEMA, NewRows
from fraud_lakehouse.transform.row_cache import RowCaches
from fraud_lakehouse.transform.rulebook import RuleBook, further_columns
from fraud_lakehouse.transform.scan import Columns, columns, empty_sql, rows_sql, snapshot_sql
from fraud_lakehouse.transform.scored import Engines, Scored
from fraud_lakehouse.transform.table_cache import Key, TableCache
from fraud_lakehouse.transform.values import Value

SCHEMAS = (*LAYERS, NEW_ROWS_SCHEMA, SEEN_SCHEMA)


class Relations:
    """The relations of one connection, for the models of one project at a time (`use`)."""

    def __init__(
        self, connection: DuckDBPyConnection, table_cache: TableCache, consumption: Consumption, rules: RuleBook
    ) -> None:
        for schema in SCHEMAS:
            connection.execute(f"create schema if not exists {schema}")
        self._connection = connection
        self._table_cache = table_cache
        self._consumption = consumption
        self._row_caches = RowCaches(connection)
        self._engines = Engines()
        self._rules = rules
        self._project = CompiledProject()
        self._declared: dict[Key, Columns] = {}
        self._growing: dict[Key, Columns] = {}  # declared columns of tables that get them with their next rows
        self._shown: dict[str, Any] = {}  # by relation: what its view was created from

    def use(self, project: CompiledProject) -> None:
        """Use the tables and views of this project from now on."""
        self._project = project
        self._declared = {source.key: list(source.columns.items()) for source in project.sources}
        self._declared |= {model.key: list(model.columns.items()) for model in project.models}
        ours = [one.key for one in project.sources if one.is_ours]
        ours += [one.key for one in project.models if not one.has_source_types]
        for key in ours:  # the writer adds the commit number, which no model declares
            columns = dict(self._declared[key])
            self._declared[key] = list((columns | {COMMIT: "bigint"}).items()) if columns else []
        self._growing = {key: self._declared[key] for key in ours}
        self._rules.use(project.catalogue)

    def declared(self, key: Key) -> Columns:
        """The columns that the project declares for a table; none for an unknown table."""
        return self._declared.get(key, [])

    def declare(self, key: Key, columns: Columns) -> None:
        """Show a missing table as an empty one with these columns."""
        self._declared[key] = columns

    def knows(self, key: Key) -> bool:
        """Whether the project names the table."""
        return key in self._declared

    def show_tables(self, tables: Iterable[Key]) -> None:
        """Create a view on each table's newest version; an empty one if there is no such table."""
        for key in tables:
            relation = f"{quoted(key[0])}.{quoted(key[1])}"
            growing = self._grows_by(key)
            if (table := self._table_cache.get(key)) is not None:
                made_of = str(table.metadata().id), table.version(), growing
                self._show(relation, made_of, partial(snapshot_sql, table, growing))
            elif declared := self._all_declared(key):
                self._show(relation, declared, partial(empty_sql, declared))

    def _grows_by(self, key: Key) -> Columns:
        """Declared columns that a table does not have yet: its next rows bring them."""
        further = self._rules.columns_of(key)
        return [*self._growing.get(key, []), *further] if further else self._growing.get(key, [])

    def _all_declared(self, key: Key) -> Columns:
        return [*self._declared.get(key, []), *self._rules.columns_of(key)]

    def show_inputs(self, plan: Plan, inputs: Iterable[Input]) -> None:
        """Create inputs in order: an input may read those before it."""
        for one in inputs:
            if one.kind == "new_rows":
                self.show_new_rows(plan, NewRows.of(one.call))
            elif one.kind == "seen":
                self._show_seen(plan, CachedRows.of(dict(one.call)))
            elif one.kind == "index":
                plan.indexed = Indexed.of(dict(one.call))
            elif one.kind == "scored":
                plan.scored = Scored.of(one.call)
                plan.values[further_columns(one.call["stream"])] = self._rules.further_columns(one.call["stream"])
            elif one.kind == "fired":
                plan.fired.append(Fired.of(one.call))
            elif one.kind == "value":
                value = Value.of(dict(one.call))
                plan.values[value.name] = value.literal(self._connection.cursor())

    @contextmanager
    def registered(self, cursor: DuckDBPyConnection, plan: Plan) -> Iterator[None]:
        """Register what a model's SQL names and only this cursor knows."""
        with self.indexed(cursor, plan), self.scored(cursor, plan), self.fired(cursor, plan):
            yield

    @contextmanager
    def indexed(self, cursor: DuckDBPyConnection, plan: Plan) -> Iterator[None]:
        """Register the index that a model's SQL names, if any."""
        if plan.indexed is None:
            yield
            return
        plan.indexed.answer(cursor, plan.values)
        try:
            yield
        finally:
            plan.indexed.forget(cursor)

    @contextmanager
    def scored(self, cursor: DuckDBPyConnection, plan: Plan) -> Iterator[None]:
        """Register the scored payments that a model's SQL names, if any; without an error they count as stored."""
        if plan.scored is None:
            yield
            return
        wanted, further = self._rules.of_stream(plan.scored.stream)
        rows = self._engines.answer(cursor, plan, plan.scored, wanted, further)
        cursor.register(plan.scored.name, rows)
        try:
            yield
        finally:
            cursor.unregister(plan.scored.name)
            rows.close()
        self._engines.stored(plan, plan.scored)

    @contextmanager
    def fired(self, cursor: DuckDBPyConnection, plan: Plan) -> Iterator[None]:
        """Register the payments on which rules fire, if a model's SQL names them."""
        for one in plan.fired:
            rules = self._rules.rules(one.stream, one.state, one.on)
            cursor.register(one.name, one.rows(cursor, rules, plan.values))
        try:
            yield
        finally:
            for one in plan.fired:
                cursor.unregister(one.name)

    def show_views(self, nodes: Iterable[str]) -> None:
        """Create the views among these nodes (unique ids)."""
        for node in nodes:
            model = self._project.find(node)
            if model is not None and not model.is_stored:
                self.show_view(model)

    def show_view(self, model: Model) -> None:
        """Create a model's view; again if the columns of its upstreams changed."""
        self.show_tables(model.incremental.tables)
        self.show_views(model.parents)
        upstreams = [NewRows.of(one.call).upstream for one in model.incremental.inputs if one.kind == "new_rows"]
        tables = [self._table_cache.get(key) for key in (*model.incremental.tables, *upstreams)]
        made_of = model.incremental.sql, [columns(table) if table is not None else None for table in tables]
        self._show(f"{quoted(model.key[0])}.{quoted(model.key[1])}", made_of, lambda: model.incremental.sql)

    def _show(self, relation: str, made_of: Any, sql: Callable[[], str]) -> None:
        """Create a view, unless it exists."""
        if self._shown.get(relation) != made_of:
            self._connection.cursor().execute(f"create or replace view {relation} as {sql()}")
            self._shown[relation] = made_of

    def show_new_rows(self, plan: Plan, new: NewRows) -> None:
        """Create a view on the upstream rows that the consumer has not read."""
        growing = self._grows_by(new.upstream)
        read = self._consumption.request(plan, new.upstream)
        declared = self._all_declared(new.upstream)
        sql = empty_sql(declared) if read is None else rows_sql(read.table, read.rows, growing)
        self._show(new.relation, sql, lambda: sql)

    def _show_seen(self, plan: Plan, seen: CachedRows) -> None:
        """Create the relation of upstream rows that the consumer has read before, or of all current ones."""
        is_own = seen.upstream == plan.consumer
        read = plan.reads.get(seen.upstream)
        if is_own or seen.newest:
            table = plan.target if is_own else self._table_cache.get(seen.upstream)
            number = newest(table) if table is not None and (plan.incremental or not is_own) else NOTHING
        else:
            table, number = (read.table, read.after) if read is not None else (None, NOTHING)
            if read is not None:
                read.check_not_rewritten(seen.upstream)
        if table is None:
            self.show_tables([seen.upstream])
        growing = self._growing.get(seen.upstream, [])
        seen.answer(self._row_caches, self._connection.cursor(), table, number, growing)
