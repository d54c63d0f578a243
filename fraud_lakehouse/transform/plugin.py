"""The dbt-duckdb plugin of the `delta` materialization: when dbt itself runs models, the executor builds them too.

dbt-duckdb gives macros one way to call a plugin, `adapter.store_relation(plugin, relation, columns, path, format,
config)`. The macros in `dbt_project/macros/delta/` use it for every call: `format` names the operation, `config` is a
dict that carries the arguments and receives the result. dbt renders a model right before it runs it: inputs that macros
name meanwhile are collected with the model's plan, and used when its SQL is passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig
from dbt.flags import get_flags
from duckdb import DuckDBPyConnection

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.lake import LAYERS, Lake
from fraud_lakehouse.transform.compiled import CompiledProject, Input, Model, Source, Variant, named_tables
from fraud_lakehouse.transform.consumption import Plan
from fraud_lakehouse.transform.executor import Executor
from fraud_lakehouse.transform.inputs import NewRows, answer_of, name_of
from fraud_lakehouse.transform.project import shipped_variables
from fraud_lakehouse.transform.rulebook import RuleBook
from fraud_lakehouse.transform.streams import folder_with_rules
from fraud_lakehouse.transform.table_cache import Key
from fraud_lakehouse.transform.variables import catalogue_of


@dataclass
class _Rendered:
    """A model that is being rendered: its plan, and the inputs its macros have named."""

    plan: Plan
    inputs: list[Input] = field(default_factory=list)


class Plugin(BasePlugin):
    """Keeps the lake's views up to date with its tables and commits the results of models."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Read the lake's location from the plugin's configuration in the profile."""
        self._lake = Lake.at(plugin_config["lake"])
        self._rendered: dict[Key, _Rendered] = {}

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Prepare the in-memory database."""
        settings = load_settings(lake=self._lake.root)
        rules = RuleBook(folder_with_rules(settings, Path(get_flags().PROJECT_DIR)), settings.max_amount)  # type: ignore[no-untyped-call]
        self._executor = Executor(self._lake, conn, rules)

    def store(self, target_config: TargetConfig) -> None:
        """Handle one call of a macro."""
        call = target_config.config
        assert target_config.location is not None
        operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "register": self._register,
            "plan": self._plan,
            "full_when": self._full_when,
            "new_rows": self._new_rows,
            "write": self._write,
        }
        operation = target_config.location.format
        if operation == "setting":
            call["answer"] = self._settings.get(call["name"], call["default"])
            return
        if call.get("only_compiled"):
            call["answer"] = answer_of(operation, call)
            return
        call["answer"] = operations[operation](call) if operation in operations else self._input(operation, call)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The vars of the project; an unprepared one lacks most of them."""
        project = Path(get_flags().PROJECT_DIR)  # type: ignore[no-untyped-call]
        own: dict[str, Any] = yaml.safe_load((project / "dbt_project.yml").read_text()).get("vars") or {}
        if own.get("is_prepared"):
            return own
        return shipped_variables(load_settings(lake=self._lake.root), project)

    def _register(self, call: dict[str, Any]) -> None:
        """Create the view of each table named: its newest version, or empty if it does not exist."""
        self._rendered.clear()
        keys = [(table["layer"], table["name"]) for table in call["tables"]]
        sources = [
            Source("", key, table["columns"], table["is_ours"]) for key, table in zip(keys, call["tables"], strict=True)
        ]
        self._executor.use(CompiledProject(sources=sources, catalogue=catalogue_of(self._settings)))
        self._executor.relations.show_tables(keys)

    def _model(self, call: dict[str, Any]) -> _Rendered:
        consumer: Key = (call["consumer"][0], call["consumer"][1])
        if consumer not in self._rendered:
            self._rendered[consumer] = _Rendered(self._planned(call, full_refresh=bool(call["full_refresh"])))
        return self._rendered[consumer]

    def _planned(self, call: dict[str, Any], *, full_refresh: bool) -> Plan:
        consumer, parents = call["consumer"], [(layer, table) for layer, table in call["parents"]]
        keep_rows = bool(call["keep_rows"])
        return self._executor.plan((consumer[0], consumer[1]), parents, full_refresh=full_refresh, keep_rows=keep_rows)

    def _plan(self, call: dict[str, Any]) -> bool:
        """Whether only new rows are read."""
        model = self._model(call)
        if not self._executor.goes_on(model.plan, call.get("stored")):
            model.plan = self._planned(call, full_refresh=True)
        return model.plan.incremental

    def _full_when(self, call: dict[str, Any]) -> bool:
        """Whether all rows must be read after all."""
        model = self._model(call)
        if self._executor.goes_on(model.plan, None, call["queries"]):
            return False
        model.plan = self._planned(call, full_refresh=True)
        return True

    def _new_rows(self, call: dict[str, Any]) -> str:
        """Create the relation of new rows at once: a view on it, or a condition over it, may follow."""
        new = NewRows.of(call)
        self._executor.relations.show_new_rows(self._model(call).plan, new)
        return new.relation

    def _input(self, kind: str, call: dict[str, Any]) -> str:
        self._model(call).inputs.append(Input(kind, {**call}))
        return name_of(kind, call)

    def _write(self, call: dict[str, Any]) -> int:
        """Run the model's SQL and commit its rows; returns the number of rows written."""
        consumer: Key = (call["consumer"][0], call["consumer"][1])
        rendered = self._model(call)
        del self._rendered[consumer]
        commit = self._executor.run(rendered.plan, _model_of(call, rendered.inputs))
        self._executor.relations.show_tables([consumer])
        return commit.rows if commit is not None else 0


def _model_of(call: dict[str, Any], inputs: list[Input]) -> Model:
    """The model that dbt has rendered for this run."""
    texts = [call["sql"], *(str(text) for one in inputs for text in one.call.values())]
    tables = sorted(key for text in texts for key in named_tables(text) if key[0] in LAYERS)
    variant = Variant(call["sql"], inputs, tables)
    return Model(
        unique_id=call["model"],
        name=call["consumer"][1],
        key=(call["consumer"][0], call["consumer"][1]),
        parents=[],
        tags=[],
        is_stored=True,
        strategy=call["strategy"],
        unique_key=call["unique_key"],
        columns=call["columns"],
        has_source_types=not call["columns"],
        keeps_rows=bool(call["keep_rows"]),
        definitions=call["definitions"],
        is_generated=False,
        full=variant,
        incremental=variant,
    )
