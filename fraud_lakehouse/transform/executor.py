"""Runs compiled models over one lake: fills their inputs, runs their SQL, commits rows and positions together.

One in-memory DuckDB connection holds views on the tables and a cache of the rows that models have read. Everything can
be restored from the lake, so a process may end at any moment. Threads may build different models at the same time if
none of them reads another; all else is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import duckdb
from deltalake import DeltaTable
from duckdb import DuckDBPyConnection

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.storage import object_store
from fraud_lakehouse.storage.commit_numbers import steps
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import progress
from fraud_lakehouse.transform import writer
from fraud_lakehouse.transform.compiled import CompiledProject, Model, Test, Variant, named_tables
from fraud_lakehouse.transform.consumption import Consumption, Plan
from fraud_lakehouse.transform.inputs import NewRows
from fraud_lakehouse.transform.model_sql import Queries, stored_only, typed, without_number
from fraud_lakehouse.transform.relations import Relations
from fraud_lakehouse.transform.rulebook import RuleBook
from fraud_lakehouse.transform.scan import Columns, columns
from fraud_lakehouse.transform.table_cache import Key, Mark, TableCache, log_folder_mark
from fraud_lakehouse.transform.values import with_values

MOST_EMPTY_BUILDS = 64  # an empty result may be this many commits behind before its position is committed alone
MOST_MERGED_ROWS = 1_000_000  # new rows of an upstream merged in one commit: a merge is held in memory
BATCH_VALUES = 4_000_000  # per batch given to the writer: 100,000 rows of an ordinary table, fewer of a wide one


class Executor:
    """Runs the models of one project at a time (`use`).

    Args:
        connection: an in-memory DuckDB connection of its own; default: a new one, as for checking a project.
        rules: the rules of its streams; default: none.
    """

    def __init__(self, lake: Lake, connection: DuckDBPyConnection | None = None, rules: RuleBook | None = None) -> None:
        self._lake = lake
        self._connection = connection or duckdb.connect()
        object_store.register(self._connection, lake.root)
        self._table_cache = TableCache(lake)
        self._consumption = Consumption(self._table_cache)
        self._queries = Queries(self._connection)
        self._built: dict[Key, Any] = {}
        self._unchanged: dict[Key, Any] = {}  # the log marks at the last build that found nothing to do
        self._project = CompiledProject()
        self.rules = rules or RuleBook()
        """The rules of the project's streams."""
        self.relations = Relations(self._connection, self._table_cache, self._consumption, self.rules)
        """The relations that SQL reads by name."""

    def use(self, project: CompiledProject) -> None:
        """Run this project's models from now on."""
        self._project = project
        self.relations.use(project)
        self._built.clear()
        self._unchanged.clear()

    def close(self) -> None:
        """Release all memory."""
        self._connection.close()

    def build(self, model: Model, *, full_refresh: bool = False) -> writer.Commit | None:
        """Build a stored model from the rows it has not read yet, or from all of them; None: nothing to write.

        Raises:
            LakehouseError, duckdb.Error: the build failed; nothing was committed.
        """
        marks = self._marks(model)
        if not full_refresh and marks is not None and self._unchanged.get(model.key) == marks:
            return None
        commit = self.run(self._planned(model, full_refresh=full_refresh), model)
        if commit is None:
            self._unchanged[model.key] = marks
        return commit

    def run(self, plan: Plan, model: Model) -> writer.Commit | None:
        """Build a model as planned; None: nothing to write.

        Raises:
            LakehouseError, duckdb.Error: the build failed; nothing was committed.
        """
        progress()
        plan.definitions = model.definitions
        inputs = self._inputs_seen(model)
        if self._is_synced(model, plan, inputs):
            self._mark_synced(plan)
            return None
        commit = self._run_parts(model, plan)
        if commit is None:
            self._mark_synced(plan)
        elif not plan.requested:
            self._built[model.key] = inputs, commit.version
        if plan.target is not None:
            self._table_cache.committed(model.key, plan.target)
        return commit

    def plan(self, consumer: Key, upstreams: Sequence[Key], *, full_refresh: bool, keep_rows: bool) -> Plan:
        """Plan a table's build: from new rows, or from all of them (`Consumption.plan`)."""
        return self._consumption.plan(consumer, list(upstreams), full_refresh=full_refresh, keep_rows=keep_rows)

    def goes_on(self, plan: Plan, stored: Mapping[str, Any] | None, queries: Sequence[str] = ()) -> bool:
        """Whether the stored rows of a plan's table can be kept and extended; else all rows must be read.

        Args:
            stored: which columns the table must have: those of the table `source`, here called `names`; with `exactly`,
                no others and in that order.
            queries: conditions for reading all rows: each query must return a row. They run in order until one does
                not.
        """
        if plan.target is None or not plan.incremental:
            return True
        if stored is not None and not self._is_stored_as(plan.target, stored):
            return False
        for query in queries:
            self.relations.show_tables(key for key in named_tables(query) if self.relations.knows(key))
            if self._connection.cursor().execute(query).fetchone() is None:
                return True
        return not queries

    def warm(self, model: Model) -> None:
        """Cache the past rows that an incremental build needs; nothing is written."""
        plan = self._planned(model, full_refresh=False)
        if plan.target is not None and plan.incremental:
            self._fill(plan, model)

    def check(self, model: Model) -> None:
        """Check that a model's SQL runs on tables with the declared columns. The lake must have no such tables.

        Raises:
            TransformError: it does not; gives the reason.
        """
        try:
            if not model.is_stored:
                self.relations.show_inputs(Plan(model.key, None, incremental=False, keep_rows=False), model.full.inputs)
                self.relations.show_view(model)
                return
            for incremental in (False, True):
                plan = Plan(model.key, None, incremental=incremental, keep_rows=model.keeps_rows)
                described = self._describe(model, plan, self._fill(plan, model))
                if model.has_source_types:
                    self.relations.declare(model.key, described)
        except duckdb.Error as error:
            raise TransformError(f"model {model.name} cannot run: {error}", f"correct {model.name}") from None

    def failing_rows(self, test: Test) -> tuple[int, bool, bool]:
        """How many rows a data test finds, whether that is a failure, and whether it is a warning."""
        self.relations.show_tables(test.tables)
        self.relations.show_views(test.parents)
        counted = f"select {test.calculation} as failures from ({test.sql}\n) as failing"
        conditions = f"failures, failures {test.error_if}, failures {test.warn_if}"
        found = self._connection.cursor().execute(f"select {conditions} from ({counted})").fetchone()
        assert found is not None
        return int(found[0] or 0), bool(found[1]), bool(found[2])

    def _planned(self, model: Model, *, full_refresh: bool) -> Plan:
        """Plan a model's build, after loading the inputs that the decision depends on."""
        upstreams = self._upstreams(model)
        plan = self.plan(model.key, upstreams, full_refresh=full_refresh, keep_rows=model.keeps_rows)
        self._ask(plan, model)
        conditions = {one.kind: one.call for one in model.incremental.inputs if one.kind in ("stored", "full_when")}
        if plan.incremental and conditions:
            queries = conditions.get("full_when", {}).get("queries", []) if plan.has_new_rows else []
            if queries:
                self.relations.show_inputs(plan, [one for one in model.incremental.inputs if one.kind == "new_rows"])
            if not self.goes_on(plan, conditions.get("stored"), queries):
                plan = self.plan(model.key, upstreams, full_refresh=True, keep_rows=model.keeps_rows)
                self._ask(plan, model)
        return plan

    def _ask(self, plan: Plan, model: Model) -> None:
        """Add the upstreams whose new rows the model reads to the plan."""
        for one in self._variant(model, plan).inputs:
            if one.kind == "new_rows":
                self._consumption.request(plan, NewRows.of(one.call).upstream)

    @staticmethod
    def _variant(model: Model, plan: Plan) -> Variant:
        return model.incremental if plan.incremental else model.full

    def _marks(self, model: Model) -> list[Mark] | None:
        """Marks of the logs of a model's table and of all it reads; None if one is unavailable."""
        keys = [model.key, *model.full.tables, *model.incremental.tables, *self._upstreams(model)]
        marks = [log_folder_mark(self._lake, key) for key in dict.fromkeys(keys)]
        found = [mark for mark in marks if mark is not None]
        return found if len(found) == len(marks) else None

    @staticmethod
    def _upstreams(model: Model) -> list[Key]:
        """The tables of which a model reads new rows."""
        named = [*model.full.inputs, *model.incremental.inputs]
        return list(dict.fromkeys(NewRows.of(one.call).upstream for one in named if one.kind == "new_rows"))

    def _is_synced(self, model: Model, plan: Plan, inputs: Any) -> bool:
        """Whether a build would change nothing: no new rows, or the same SQL over the same versions."""
        if plan.target is None or not plan.incremental:
            return False
        if plan.requested:
            return not plan.has_new_rows
        return self._built.get(model.key) == (inputs, plan.target.version())

    def _inputs_seen(self, model: Model) -> Any:
        """The SQL of a model that reads whole tables, and the versions of those tables."""
        versions = []
        for key in model.full.tables:
            table = self._table_cache.get(key)
            versions.append((key, "", -1) if table is None else (key, str(table.metadata().id), table.version()))
        return model.full.sql, tuple(versions)

    def _run_parts(self, model: Model, plan: Plan) -> writer.Commit | None:
        """Run a model. A merge that is far behind runs in several commits, each with its own position."""
        if not (plan.incremental and model.strategy == "merge" and len(plan.requested) == 1):
            return self._run(model, plan)
        (upstream,) = plan.requested
        whole, rows, last = plan.reads[upstream], 0, None
        parts = list(steps(whole.table, whole.after, whole.until, MOST_MERGED_ROWS))
        if len(parts) == 1:
            return self._run(model, plan)
        for after, until in pairwise([whole.after, *parts]):
            whole.check_not_rewritten(upstream)
            plan.reads[upstream] = whole.between(after, until)
            commit = self._run(model, plan)
            if commit is None:
                self._consumption.remember(plan)
            else:
                rows, last = rows + commit.rows, commit
            progress()
        return replace(last, rows=rows) if last is not None else None

    def _fill(self, plan: Plan, model: Model) -> str:
        """Fill the inputs of the model's SQL; returns the SQL with the queried values inserted."""
        variant = self._variant(model, plan)
        # Refresh the views: other processes may have committed since the plan was made. A view older than the new rows
        # could give a watermark that ignores them, and no later build would correct it.
        self.relations.show_tables(variant.tables)
        self.relations.show_inputs(plan, variant.inputs)
        self.relations.show_views(model.parents)
        # The SQL may end with a comment; the line break ends it.
        return f"{with_values(variant.sql, plan.values)}\n"

    def _run(self, model: Model, plan: Plan) -> writer.Commit | None:
        """Run a model's SQL over filled inputs, and commit the result."""
        sql, cursor = self._fill(plan, model), self._connection.cursor()
        before = plan.target.version() if plan.target is not None else -1
        with self.relations.registered(cursor, plan), writer.conflicts(plan):
            commit = self._write(cursor, model, plan, sql, [name for name, _ in self._queries.columns(cursor, sql)])
        if commit is not None:
            self._consumption.record(plan, before, commit.version)
        return commit

    def _describe(self, model: Model, plan: Plan, sql: str) -> Columns:
        """The columns of the SQL, as they are stored; no row is read."""
        cursor = self._connection.cursor()
        with self.relations.registered(cursor, plan):
            names, sql = without_number([name for name, _ in self._queries.columns(cursor, sql)], sql)
            return self._queries.columns(cursor, self._typed(model, plan, sql, names))

    @staticmethod
    def _typed(model: Model, plan: Plan, sql: str, names: list[str]) -> str:
        if model.has_source_types:
            return sql
        return typed(sql, names, dict(model.columns), model.name, may_have_more=plan.scored is not None)

    def _write(
        self, cursor: DuckDBPyConnection, model: Model, plan: Plan, sql: str, names: list[str]
    ) -> writer.Commit | None:
        names, sql = without_number(names, sql)
        plan.numbered = not model.has_source_types or "_lsn" in names  # a replica has only its source's columns
        sql = self._typed(model, plan, sql, names)
        rows = min(100_000, BATCH_VALUES // len(names))
        stored = stored_only(sql, names)
        if plan.incremental and model.strategy != "overwrite":
            is_kept = not model.has_source_types and not plan.has_registered
            merges = model.strategy == "merge"
            relation = self._queries.relation(cursor, sql if merges else stored, is_kept=is_kept)
            if merges:
                return writer.merge(plan, relation.to_arrow_table(), list(model.unique_key))
            with closing(relation.to_arrow_reader(rows)) as reader:  # the connection allows one open reader
                return writer.append(self._lake, plan, reader)
        return writer.overwrite(self._lake, plan, cursor.sql(stored).to_arrow_reader(rows))

    def _mark_synced(self, plan: Plan) -> None:
        """Nothing to commit: keep the positions in memory, and commit them once one is far behind its upstream."""
        if not all(self._consumption.is_recorded(plan, key) for key in plan.requested):
            writer.progress(plan)
        self._consumption.remember(plan)
        committed = {key: self._consumption.committed(plan, key) for key in plan.requested}
        behind = [plan.reads[key].until - at for key, at in committed.items() if at is not None]
        if max(behind, default=0) > MOST_EMPTY_BUILDS:
            writer.progress(plan)

    def _is_stored_as(self, target: DeltaTable, wanted: Mapping[str, Any]) -> bool:
        """Whether a table has the columns of a source's table, in its types."""
        source: Key = (wanted["source"][0], wanted["source"][1])
        table, names = self._table_cache.get(source), wanted["names"]
        kinds = dict(self.relations.declared(source)) if table is None else dict(columns(table))
        stored = dict(columns(target))
        if any(stored.get(own) != kinds.get(name) for name, own in names.items()):
            return False
        return not wanted["exactly"] or list(stored) == list(names.values())
