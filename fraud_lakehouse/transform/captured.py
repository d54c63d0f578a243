"""The captured tables as the dbt project sees them: keys, columns, and generated models for tables without their own.

`project.py` assembles the project.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from deltalake import DeltaTable

from fraud_lakehouse.ingest.bronze import COLUMNS_PROPERTY, KEY_PROPERTY
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.scan import columns
from fraud_lakehouse.transform.table_cache import Mark, TableCache, log_folder_mark

CAPTURED_CONFIG = {"+strategy": "merge", "+tags": ["replica"], "+source_types": True}
"""Config of all generated models, set once in dbt_project.yml: dbt parses that faster than a config in each model."""
_SOURCES = "models/bronze/sources.yml"
_LOG_COLUMNS = {
    "_op": "varchar",
    "_lsn": "bigint",
    "_seq": "bigint",
    "_committed_at": "timestamptz",
    "_ingested_at": "timestamptz",
    "_unchanged": "varchar",
    "_text": "varchar",
    "_is_stale": "boolean",
    "_source_lsn": "bigint",
    "_source_seq": "bigint",
    "_digest": "varchar",
    "_partition": "integer",
    "_offset": "bigint",
}
"""Name and DuckDB type of the columns of a topic's changes, in addition to the source's (macro change_log)."""
_WHOLE = r"smallint|integer|bigint"
_ALIKE = [
    re.compile(_WHOLE),
    re.compile(rf"{_WHOLE}|float|double|decimal\(\d+,\s*\d+\)"),
    re.compile("varchar"),
    re.compile("timestamp|timestamptz|date"),
]
"""Groups of interchangeable types: a column may have any type of the first group that contains its declared type."""


@dataclass(frozen=True)
class ShippedTable:
    """A bronze table that a dbt project has models for, as its sources.yml declares it.

    Args:
        key: its key columns; empty for a topic.
        columns: name and DuckDB type of its own columns.
    """

    key: Sequence[str]
    columns: Mapping[str, str]


def shipped_tables(project: Path) -> dict[str, ShippedTable]:
    """The bronze tables that a dbt project has models for, by name."""
    path = project / _SOURCES
    described = yaml.safe_load(path.read_text()) if path.is_file() else {"sources": []}
    return {
        table["name"]: ShippedTable(
            table.get("config", {}).get("meta", {}).get("key", []),
            {one["name"]: one["data_type"] for one in table["columns"] if not one["name"].startswith("_")},
        )
        for source in described["sources"]
        if source["schema"] == "bronze"
        for table in source["tables"]
    }


@dataclass(frozen=True)
class Captured:
    """A captured table.

    Args:
        key: its source's key columns.
        present: names of the columns that the source has now, in its order; empty if unknown.
        columns: name and DuckDB type of every column of the bronze table.
    """

    key: Sequence[str]
    present: Sequence[str]
    columns: Sequence[tuple[str, str]]

    @staticmethod
    def of(table: DeltaTable) -> Captured:
        """Read the description stored in a bronze table's properties."""
        properties = table.metadata().configuration
        described = json.loads(properties.get(COLUMNS_PROPERTY) or "[]")
        key: list[str] = json.loads(properties.get(KEY_PROPERTY) or "[]")
        return Captured(key, [column["name"] for column in described], columns(table))

    @property
    def is_topic(self) -> bool:
        """Whether its changes are records of a topic, which may arrive twice or out of order."""
        return any(name == "_offset" for name, _ in self.columns) and bool(self.key)

    @property
    def source_columns(self) -> list[tuple[str, str]]:
        """Name and DuckDB type of the columns that the source has now."""
        kinds = dict(self.columns)
        return [(name, kinds[name]) for name in self.present if name in kinds]

    def is_like(self, shipped: ShippedTable) -> bool:
        """Whether it has the key and the columns that a table's shipped models need."""
        kinds = {column: kind for column, kind in self.columns if column in self.present or not self.present}
        alike = {
            column: next((one for one in _ALIKE if one.fullmatch(kind)), re.compile(re.escape(kind)))
            for column, kind in shipped.columns.items()
        }
        return list(self.key) == list(shipped.key) and all(
            kind.fullmatch(kinds.get(column, "")) for column, kind in alike.items()
        )


class CapturedTables:
    """The captured tables of a lake. Each is reopened only when its log has changed. Not thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._table_cache = TableCache(lake)
        self._known: dict[str, tuple[Mark | None, Captured]] = {}

    def now(self) -> dict[str, Captured]:
        """The captured tables by name."""
        found: dict[str, Captured] = {}
        for name in self._lake.tables("bronze"):
            mark, known = log_folder_mark(self._lake, ("bronze", name)), self._known.get(name)
            if mark is not None and known is not None and known[0] == mark:
                found[name] = known[1]
            elif (table := self._table_cache.get(("bronze", name))) is not None:
                captured = Captured.of(table)
                # Equal descriptions stay the same object, so that comparing a thousand tables is quick.
                found[name] = known[1] if known is not None and known[1] == captured else captured
                self._known[name] = (mark, found[name])
        return found


def tables_of_models(shipped: Mapping[str, ShippedTable], captured: Mapping[str, Captured]) -> dict[str, str]:
    """Map each shipped database table to the captured table it reads.

    If the captured table of that name has another key or other columns, it maps to a name that does not exist.
    """
    return {
        name: f"bank_{name}" if name in captured and not captured[name].is_like(table) else name
        for name, table in shipped.items()
        if table.key
    }


def models_of(captured: Mapping[str, Captured], shipped: set[str]) -> dict[str, str]:
    """Models and source entries of captured tables without shipped models: file contents by path.

    A model's name is valid for dbt and differs from every shipped one; its alias is the table's own name.
    """
    files: dict[str, str] = {}
    sources = []
    taken = {name.lower() for name in captured}
    for name in sorted(captured.keys() - shipped):
        table = captured[name]
        if not table.key:
            continue
        declared = [{"name": _unrendered(column), "data_type": kind, "quote": True} for column, kind in table.columns]
        sources.append({"name": name, "description": f"Change events of {name}.", "columns": declared})
        changes = f"source('captured', {_json(name)})"
        if table.is_topic:
            files |= _log_model(name, table)
            changes = change_events(name, table)
        files |= _model(name, changes, "replica", [table.key, table.present], {"unique_key": table.key})
        if f"{name}_history".lower() not in taken:  # a captured table of that name has its replica there
            history = [*map(_in_history, table.key), "_lsn", "_seq"]
            arguments = [table.key, table.present] if table.is_topic else [table.key]
            files |= _model(f"{name}_history", changes, "history", arguments, {"unique_key": history})
    if sources:
        content = {"version": 2, "sources": [{"name": "captured", "schema": "bronze", "tables": sources}]}
        files["models/silver/captured/sources.yml"] = yaml.dump(content, Dumper=yaml.CSafeDumper)
    return files


def _in_history(column: str) -> str:
    """A source column's name in the history table (macro history_names)."""
    return f"source_{column}" if column.lower() in ("valid_from", "valid_to", "is_deleted") else column


def _unrendered(text: str) -> str:
    """Escape braces for yml: dbt renders names as Jinja."""
    return "{{ " + _json(text) + " }}" if "{" in text else text


def _json(value: object) -> str:
    """JSON that Jinja can read too: Jinja reads an escaped surrogate pair as two characters."""
    return json.dumps(value, ensure_ascii=False)


def change_events(name: str, table: Captured) -> str:
    """The relation with a captured table's changes, in a template: the bronze table, or the log of a topic's."""
    return f"ref('{_model_name(log_table(name))}')" if table.is_topic else f"source('captured', {_json(name)})"


def log_table(name: str) -> str:
    """The silver table with the changes that arrive as records of a topic."""
    return f"{name}_changes"


def _log_model(name: str, table: Captured) -> dict[str, str]:
    """The model of a topic's changes, which all other models of its table read, and its columns."""
    own = table.source_columns
    options = {"alias": log_table(name), "strategy": "append", "source_types": False, "tags": ["hot"]}
    model = _model(
        log_table(name), f"source('captured', {_json(name)})", "change_log", [table.key, table.present], options
    )
    columns = [
        {"name": _unrendered(column), "data_type": kind, "quote": True}
        for column, kind in [*own, *_LOG_COLUMNS.items()]
    ]
    text = f"Changes of {name} in the order of arrival, each marked whether it counts. One row per readable record."
    described = {"name": _model_name(log_table(name)), "description": text, "columns": columns}
    content = yaml.dump({"version": 2, "models": [described]}, Dumper=yaml.CSafeDumper)
    return model | {f"models/silver/captured/{_model_name(log_table(name))}.yml": content}


def _model_name(alias: str) -> str:
    """A name that is valid for dbt: by it, models of the project read generated ones."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", alias):
        return f"captured_{alias}"
    return f"captured_{re.sub(r'[^A-Za-z0-9_]', '_', alias)}_{hashlib.sha256(alias.encode()).hexdigest()[:6]}"


def _model(
    alias: str, changes: str, macro: str, arguments: Sequence[Sequence[str]], options: Mapping[str, object]
) -> dict[str, str]:
    options = {"alias": alias, **options}
    name = _model_name(alias)
    listed = ", ".join(_json(argument) for argument in arguments)
    # At parse time only the source matters: with the macro, parsing up to 2,000 of these took nearly twice as long.
    text = (
        "{{ config(**" + _json(options) + ") }}\n"
        "{% set change_events = " + changes + " %}\n"
        "{% if execute %}{{ " + macro + "(change_events, " + listed + ") }}{% endif %}\n"
    )
    return {f"models/silver/captured/{name}.sql": text}
