"""The dbt-duckdb plugin behind the `delta` materialization: views over Delta tables, and their writer.

dbt-duckdb gives macros one way into a plugin, `adapter.store_relation(plugin, relation, columns, path,
format, config)`. The macros in `dbt_project/macros/delta/` use it for every call: `format` names the
operation, `config` is a dict that carries the arguments and receives the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from deltalake.exceptions import DeltaError
from duckdb import DuckDBPyConnection

from fraud_lakehouse.errors import LakehouseError, TransformError
from fraud_lakehouse.lake import object_store
from fraud_lakehouse.lake.commit_numbers import NOTHING, newest, steps
from fraud_lakehouse.lake.lake import LAYERS, Lake
from fraud_lakehouse.lake.lease import progress
from fraud_lakehouse.lake.schemas import COMMIT
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform import writer
from fraud_lakehouse.transform.consumption import Consumption, Plan
from fraud_lakehouse.transform.handles import Handles, Key
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.mirror import Mirrors
from fraud_lakehouse.transform.mirrored import SEEN_SCHEMA, Mirrored
from fraud_lakehouse.transform.model_sql import INTERNAL, Queries, stored_only, typed, without_number
from fraud_lakehouse.transform.program import Call
from fraud_lakehouse.transform.scan import columns, empty_sql, rows_sql, snapshot_sql
from fraud_lakehouse.transform.views import failing_views, with_only

NEW_ROWS_SCHEMA = "new_rows"
MOST_EMPTY_BUILDS = 64  # commits an empty result may lie behind before its position is committed alone
MOST_MERGED_ROWS = 1_000_000  # of an upstream whose new rows are merged in one commit: a merge is held in memory
BATCH_VALUES = 4_000_000  # of a batch handed to the writer: 100,000 rows of an ordinary table, fewer of a wide one

commits: dict[str, writer.Commit | None] = {}  # by model id, since the last `commits.clear()`
failures: dict[str, str] = {}  # by name of a view that failed on a row: why, since the last `failures.clear()`
calls: list[Call] = []  # of all models, since the last `calls.clear()`


class Rehearsal(Enum):
    """A build that writes nothing."""

    READ = "what builds from new rows need of the past is read into memory"
    BIND = "the SQL of every model is held against its tables' columns; nothing of the past is read"


rehearsal: Rehearsal | None = None  # the one that goes on


class Plugin(BasePlugin):
    """Keeps the lake's views in step with its tables and commits what models yield."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Take the lake's location from the profile's plugin configuration."""
        self._lake = Lake.at(plugin_config["lake"])
        self._handles = Handles(self._lake)
        self._consumption = Consumption(self._handles)
        self._plans: dict[Key, Plan] = {}
        self._views: dict[Key, tuple[str, int, list[tuple[str, str]]]] = {}
        self._built: dict[Key, Any] = {}
        self._declared: dict[Key, list[tuple[str, str]]] = {}
        self._growing: dict[Key, list[tuple[str, str]]] = {}  # of tables that get newly declared columns
        self._keeps_views = True
        self._new_rows_sql: dict[str, str] = {}

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Prepare the in-memory database."""
        self._conn = conn
        object_store.register(conn, self._lake.root)
        for schema in (*LAYERS, NEW_ROWS_SCHEMA, SEEN_SCHEMA):
            conn.execute(f"create schema if not exists {schema}")
        self._mirrors = Mirrors(conn)
        self._queries = Queries(conn)

    def store(self, target_config: TargetConfig) -> None:
        """Carry out one call of a macro."""
        call = target_config.config
        assert target_config.location is not None
        operation = target_config.location.format
        arguments = copy.deepcopy(call)
        call["answer"] = self.carry_out(operation, call)
        calls.append(Call(self, operation, arguments, call["answer"]))

    def carry_out(self, operation: str, call: dict[str, Any]) -> Any:
        """Carry out an operation; answers what the macro gets."""
        operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "register": self._register,
            "columns": self._columns,
            "plan": self._incremental,
            "new_rows": self._new_rows,
            "seen": self._seen,
            "index": self._index,
            "look": self._look,
            "write": self._write,
        }
        return operations[operation](call)

    def _register(self, call: dict[str, Any]) -> None:
        """Create the view of each table named: its newest version, or empty when absent.

        Without `keeps_views` a view that exists is brought up to date only when a model's SQL names it: one over the
        whole history costs more to plan than a micro-batch to build.
        """
        self._plans.clear()
        self._keeps_views = call["keeps_views"]
        for table in call["tables"]:
            key: Key = (table["layer"], table["name"])
            declared = dict(table["columns"])
            if table["is_ours"] and declared:
                declared.setdefault(COMMIT, "bigint")
            self._declared[key] = list(declared.items())
            self._growing[key] = self._declared[key] if table["is_ours"] else []
            if self._keeps_views or key not in self._views:
                self._refresh(key)

    def _columns(self, call: dict[str, Any]) -> dict[str, str]:
        """Name and type of each column of a table: those it has, else those it will get."""
        key: Key = (call["relation"][0], call["relation"][1])
        table = self._handles.get(key)
        return dict(self._declared.get(key, []) if table is None else columns(table))

    def _refresh(self, key: Key) -> None:
        table = self._handles.get(key)
        if table is not None:
            growing = self._growing.get(key, [])
            self._show(key, (str(table.metadata().id), table.version(), growing), lambda: snapshot_sql(table, growing))
        elif declared := self._declared.get(key):
            self._show(key, ("", -1, declared), lambda: empty_sql(declared))

    def _show(self, key: Key, seen: tuple[str, int, list[tuple[str, str]]], sql: Callable[[], str]) -> None:
        """Put a table's view in place, unless it is: of this version, with these columns besides its own."""
        if self._views.get(key) != seen:
            self._create_view(key, sql())
            self._views[key] = seen

    def _create_view(self, key: Key, sql: str) -> None:
        self._conn.cursor().execute(f"create or replace view {quoted(key[0])}.{quoted(key[1])} as {sql}")

    def _plan(self, call: dict[str, Any]) -> Plan:
        consumer: Key = (call["consumer"][0], call["consumer"][1])
        planned = self._plans.get(consumer)
        if planned is None or (call["full_refresh"] and planned.incremental and not planned.keep_rows):
            self._plans[consumer] = self._consumption.plan(
                consumer,
                [(layer, table) for layer, table in call["parents"]],
                full_refresh=bool(call["full_refresh"]),
                keep_rows=bool(call["keep_rows"]),
            )
        return self._plans[consumer]

    def _incremental(self, call: dict[str, Any]) -> bool:
        return self._plan(call).incremental

    def _new_rows(self, call: dict[str, Any]) -> str:
        plan = self._plan(call)
        upstream: Key = (call["upstream"][0], call["upstream"][1])
        read = self._consumption.ask(plan, upstream, call["reader"])
        name = f"{plan.consumer[0]}.{plan.consumer[1]} <- {upstream[0]}.{upstream[1]}"
        if read is not None and read is not plan.reads[upstream]:
            name += f" for {call['reader']}"  # it was left out before, and has more to read than the others
        relation = f"{NEW_ROWS_SCHEMA}.{quoted(name)}"
        if read is None:
            self._refresh(upstream)
            self._show_new_rows(relation, f"select * from {quoted(upstream[0])}.{quoted(upstream[1])} where false")
        else:
            self._show_new_rows(relation, rows_sql(read.table, read.rows, self._growing.get(upstream, [])))
            if read is plan.reads[upstream]:
                plan.relations[upstream] = relation
        return relation

    def _show_new_rows(self, relation: str, sql: str) -> None:
        if self._new_rows_sql.get(relation) != sql:  # rules ask for the same rows
            self._conn.cursor().execute(f"create or replace view {relation} as {sql}")
            self._new_rows_sql[relation] = sql

    def _seen(self, call: dict[str, Any]) -> str:
        mirrored = Mirrored.of(call)
        self._plan(call).mirrored.append(mirrored)
        return mirrored.relation

    def _index(self, call: dict[str, Any]) -> str:
        indexed = Indexed.of(call)
        self._plan(call).indexed = indexed
        return quoted(indexed.name)

    def _look(self, call: dict[str, Any]) -> list[Any]:
        """The one row of a query that the model's SQL depends on."""
        found = self._conn.cursor().execute(call["query"]).fetchone()
        assert found is not None
        return list(found)

    def _answer(self, plan: Plan) -> None:
        """Put the mirrored relations that a model asked for in place, in the order it asked."""
        cursor = self._conn.cursor()
        for mirrored in plan.mirrored:
            own = mirrored.upstream == plan.consumer
            read = plan.reads.get(mirrored.upstream)
            if own or mirrored.newest:
                table = plan.target if own else self._handles.get(mirrored.upstream)
                number = newest(table) if table is not None and (plan.incremental or not own) else NOTHING
            else:
                table, number = (read.table, read.after) if read is not None else (None, NOTHING)
                if read is not None:
                    read.check_not_rewritten(mirrored.upstream)
            if rehearsal is Rehearsal.BIND:
                number = NOTHING
            if table is None:
                self._refresh(mirrored.upstream)
            mirrored.answer(self._mirrors, cursor, table, number, self._growing.get(mirrored.upstream, []))

    def _write(self, call: dict[str, Any]) -> int:
        """Run the model's SQL and commit its rows; answers the number of rows written."""
        progress()
        plan = self._plan(call)
        self._plans.pop(plan.consumer)
        plan.definitions = call["definitions"]
        missing = set(call["must_read"]) - plan.readers
        if missing and not plan.readers:
            raise TransformError(
                f"{plan.consumer[1]} was asked for without {', '.join(sorted(missing))}: there is nothing to read",
                "build the whole lane (--select tag:hot)",
            )
        self._consumption.leave_out(plan, missing)
        if rehearsal is not None:
            if plan.indexed is None and (rehearsal is Rehearsal.BIND or (plan.target is not None and plan.incremental)):
                self._commit(plan, call)
            return 0
        commit = None if self._is_settled(plan, call) else self._build(plan, call)
        if commit is None:
            self._settle(plan)
        elif not plan.asked:
            self._built[plan.consumer] = (self._inputs(call), commit.version)
        if plan.target is not None:
            self._handles.committed(plan.consumer, plan.target)
        commits[call["model"]] = commit
        if self._keeps_views:
            self._views.pop(plan.consumer, None)
            self._refresh(plan.consumer)
        return commit.rows if commit else 0

    def _is_settled(self, plan: Plan, call: dict[str, Any]) -> bool:
        """Whether building would change nothing: no new rows, or the same SQL over the same versions again."""
        if plan.target is None or not plan.incremental:
            return False
        if plan.asked:
            return not plan.has_new_rows
        inputs = self._inputs(call)
        return inputs is not None and self._built.get(plan.consumer) == (inputs, plan.target.version())

    def _build(self, plan: Plan, call: dict[str, Any]) -> writer.Commit | None:
        """Commit the model's rows; of a merge that is far behind, in several commits, each with its own position."""
        if not (plan.incremental and call["strategy"] == "merge" and len(plan.asked) == 1 and not plan.views):
            return self._commit_next(plan, call)
        (upstream,) = plan.asked
        read, written, last = plan.reads[upstream], 0, None
        parts = list(steps(read.table, read.after, read.until, MOST_MERGED_ROWS))
        if len(parts) == 1:
            return self._commit_next(plan, call)
        for after, until in pairwise([read.after, *parts]):
            read.check_not_rewritten(upstream)
            part = plan.reads[upstream] = read.between(after, until)
            sql = rows_sql(part.table, part.rows, self._growing.get(upstream, []))
            self._show_new_rows(plan.relations[upstream], sql)
            commit = self._commit_next(plan, call)
            if commit is None:
                self._consumption.remember(plan)
            else:
                written, last = written + commit.rows, commit
            progress()
        return replace(last, rows=written) if last is not None else None

    def _commit_next(self, plan: Plan, call: dict[str, Any]) -> writer.Commit | None:
        before = plan.target.version() if plan.target is not None else -1
        commit = self._commit(plan, call)
        if commit is not None:
            self._consumption.record(plan, before, commit.version)
        return commit

    def _commit(self, plan: Plan, call: dict[str, Any]) -> writer.Commit | None:
        cursor = self._conn.cursor()
        # Other processes may have committed since the views were made: one that is older than the new rows would, say,
        # give a watermark that does not know them, and no later build would notice.
        for key in self._declared:
            if f"{quoted(key[0])}.{quoted(key[1])}" in call["sql"]:
                self._refresh(key)
        self._answer(plan)
        if plan.indexed is not None:
            plan.indexed.answer(cursor)
        try:
            with writer.refusals(plan):
                return self._run_views(cursor, plan, call) if call["must_read"] else self._run(cursor, plan, call)
        finally:
            if plan.indexed is not None:
                plan.indexed.forget(cursor)

    def _run_views(self, cursor: DuckDBPyConnection, plan: Plan, call: dict[str, Any]) -> writer.Commit | None:
        """Run a model over views. Those that were not built, or that fail on some row, are left out until they work."""
        present = [view for view in call["must_read"] if view in plan.readers]
        try:
            return self._run(cursor, plan, with_only(cursor, call, present))
        except (LakehouseError, DeltaError):
            raise
        except Exception:
            failing = {} if rehearsal is not None else failing_views(cursor, self._queries, call, present)
            working = [view for view in present if view not in failing]
            if not failing or not working:
                raise
        failures.update(failing)
        self._consumption.leave_out(plan, failing)
        return self._run(cursor, plan, with_only(cursor, call, working))

    def _run(self, cursor: DuckDBPyConnection, plan: Plan, call: dict[str, Any]) -> writer.Commit | None:
        """Run the SQL, now that all it reads is in place, into one commit; in a rehearsal only make its relation."""
        strategy = call["strategy"]
        if strategy not in ("overwrite", "append", "merge"):
            raise TransformError(
                f"model {call['model']} has the unknown strategy {strategy!r}",
                "use one of overwrite, append, merge",
            )
        text = f"{call['sql']}\n"  # it may end with a comment, which would go on over what is put around it
        names = self._queries.columns(cursor, text)
        # a one-to-one replica has its source's columns alone, and a history some of ours
        plan.numbered = not call["source_types"] or "_lsn" in names
        names, text = without_number(names, text)
        sql = typed(text, names, call["columns"], call["model"])
        stored = stored_only(sql, names)
        if rehearsal is Rehearsal.BIND:
            cursor.execute(f"describe {sql}")
            return None
        rows = min(100_000, BATCH_VALUES // len(names))
        if plan.incremental and strategy != "overwrite":
            is_kept = bool(call["columns"]) and plan.indexed is None  # an index's rows are this cursor's alone
            relation = self._queries.relation(cursor, sql if strategy == "merge" else stored, is_kept=is_kept)
            if rehearsal is not None:
                return None
            if strategy == "merge":
                return writer.merge(plan, relation.to_arrow_table(), call["unique_key"])
            with closing(relation.to_arrow_reader(rows)) as reader:  # one left open would refuse the next
                return writer.append(self._lake, plan, reader)
        if rehearsal is not None:
            return None
        kinds = {name: call["columns"].get(name, "") for name in names if name not in INTERNAL}
        # Rows of an index come batch by batch: the other writer works beside it, the engine's would not.
        is_new = plan.indexed is None and (plan.target is None or strategy != "overwrite")
        if is_new and writer.can_replace(self._lake, plan, cursor, stored, list(kinds.values())):
            return writer.replace(self._lake, plan, cursor, stored, list(kinds.values()))
        return writer.overwrite(self._lake, plan, cursor.sql(stored).to_arrow_reader(rows))

    def _inputs(self, call: dict[str, Any]) -> Any:
        """The model's SQL and the versions it reads; None when a view among them hides what is read."""
        versions: list[tuple[str, str, str, int]] = []
        for layer, table in call["parents"]:
            opened = self._handles.get((layer, table))
            if opened is not None:
                versions.append((layer, table, str(opened.metadata().id), opened.version()))
            elif (layer, table) in self._declared:
                versions.append((layer, table, "", -1))  # a table that is not there yet
            else:
                return None
        return call["sql"], tuple(versions)

    def _settle(self, plan: Plan) -> None:
        """Nothing committed: keep the positions in memory, and commit them once one lies far behind its upstream."""
        if plan.views or not all(self._consumption.is_recorded(plan, key) for key in plan.asked):
            writer.progress(plan)
        self._consumption.remember(plan)
        committed = {key: self._consumption.committed(plan, key) for key in plan.asked}
        behind = [plan.reads[key].until - at for key, at in committed.items() if at is not None]
        if max(behind, default=0) > MOST_EMPTY_BUILDS:
            writer.progress(plan)
