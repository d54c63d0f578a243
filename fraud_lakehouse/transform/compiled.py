"""The compiled dbt project: each model's SQL in two variants, and the inputs that the SQL reads by name.

`compile.py` writes it, `executor.py` runs it. It is one JSON file in the prepared project, so that building needs no
dbt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.transform.table_cache import Key

_RELATION = re.compile(r'(?:"memory"\.)?"(\w+)"\."((?:[^"]|"")+)"')

HOT = "hot"
"""Tag of the models of the fast path."""


@dataclass(frozen=True)
class Input:
    """A relation that a model's SQL reads, and how it is filled.

    Args:
        kind: new_rows, seen, index or value (`inputs.py`); or a condition of incremental builds: stored (the columns
            that the table must have) or full_when (queries; if all return a row, all rows are read).
        call: the macro's arguments, as JSON.
    """

    kind: str
    call: Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A model's SQL, for all rows or for new ones.

    Args:
        inputs: of the SQL and of the views below it, in the order in which they are filled: an input may read those
            before it.
        tables: stored tables that the SQL, its inputs or the views below it read in their current version.
    """

    sql: str
    inputs: Sequence[Input] = ()
    tables: Sequence[Key] = ()


@dataclass(frozen=True)
class Model:
    """A model of the project.

    Args:
        unique_id: dbt's.
        key: layer and table.
        parents: unique ids of the models and sources it reads.
        is_stored: whether it is a Delta table; else it is a view.
        strategy: append, overwrite or merge.
        columns: declared name and type of each column; ignored if `has_source_types`.
        has_source_types: the columns are those of a source's table.
        keeps_rows: its rows are never rebuilt (alerts).
        definitions: fingerprints of the features it computes.
        is_generated: generated for a captured table, not handwritten.
    """

    unique_id: str
    name: str
    key: Key
    parents: Sequence[str]
    tags: Sequence[str]
    is_stored: bool
    strategy: str
    unique_key: Sequence[str]
    columns: Mapping[str, str]
    has_source_types: bool
    keeps_rows: bool
    definitions: Mapping[str, int]
    is_generated: bool
    full: Variant
    incremental: Variant

    @property
    def is_fast_path(self) -> bool:
        """Whether it is part of the fast path."""
        return HOT in self.tags


@dataclass(frozen=True)
class Test:
    """A data test: its query returns the wrong rows.

    `calculation` counts them; `error_if` and `warn_if` are conditions on the count, such as `!= 0`.
    """

    unique_id: str
    name: str
    parents: Sequence[str]
    sql: str
    tables: Sequence[Key]
    severity: str = "ERROR"
    calculation: str = "count(*)"
    error_if: str = "!= 0"
    warn_if: str = "!= 0"


@dataclass(frozen=True)
class Source:
    """A table that no model builds: layer and table, and its declared columns.

    Args:
        is_ours: its next rows bring the declared columns; else its columns are those of a source's table.
    """

    unique_id: str
    key: Key
    columns: Mapping[str, str]
    is_ours: bool


@dataclass(frozen=True)
class CompiledProject:
    """Everything needed to run the project; `models` are in topological order.

    `catalogue`: the features of its streams; None if it has no streams.
    """

    models: Sequence[Model] = ()
    tests: Sequence[Test] = ()
    sources: Sequence[Source] = ()
    catalogue: Catalogue | None = None
    _by_id: dict[str, Model] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._by_id.update({model.unique_id: model for model in self.models})

    @staticmethod
    def load(path: Path) -> CompiledProject:
        """Load a project.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        reported = json.loads(path.read_text(encoding="utf-8"))
        return CompiledProject(
            [_model(one) for one in reported["models"]],
            [Test(**{**one, "tables": _keys(one["tables"])}) for one in reported["tests"]],
            [Source(**{**one, "key": _key(one["key"])}) for one in reported["sources"]],
            Catalogue.of_plain(reported["catalogue"]) if reported["catalogue"] else None,
        )

    def save(self, path: Path) -> None:
        """Write the project to a file."""
        reported = {
            "models": [asdict(model) for model in self.models],
            "tests": [asdict(test) for test in self.tests],
            "sources": [asdict(source) for source in self.sources],
            "catalogue": self.catalogue.plain() if self.catalogue else None,
        }
        path.write_text(json.dumps(reported, ensure_ascii=False), encoding="utf-8")

    def find(self, unique_id: str) -> Model | None:
        """The model with this id; None for a source or an unknown id."""
        return self._by_id.get(unique_id)

    def named(self, names: Collection[str]) -> list[Model]:
        """The models of these names, in order."""
        return [model for model in self.models if model.name in names]

    def tagged(self, tag: str) -> list[Model]:
        """The models with a tag, in order."""
        return [model for model in self.models if tag in model.tags]

    def with_parents(self, models: Iterable[Model]) -> list[Model]:
        """These models and all that they read, directly or indirectly."""
        found: set[str] = set()
        waiting = [model.unique_id for model in models]
        while waiting:
            if (model := self.find(waiting.pop())) is not None and model.unique_id not in found:
                found.add(model.unique_id)
                waiting += model.parents
        return [model for model in self.models if model.unique_id in found]

    def tests_of(self, models: Iterable[Model]) -> list[Test]:
        """The tests that read one of these models."""
        chosen = {model.unique_id for model in models}
        return [test for test in self.tests if chosen.intersection(test.parents)]

    def tables_of(self, unique_id: str) -> set[Key]:
        """The source tables that a node reads, directly or indirectly."""
        model = self.find(unique_id)
        if model is None:
            return {source.key for source in self.sources if source.unique_id == unique_id}
        return {table for parent in model.parents for table in self.tables_of(parent)}


def named_tables(text: str) -> set[Key]:
    """The relations that an SQL text names with their schema."""
    return {(schema, table.replace('""', '"')) for schema, table in _RELATION.findall(text)}


def _model(reported: dict[str, Any]) -> Model:
    variants = {name: _variant(reported[name]) for name in ("full", "incremental")}
    return Model(**{**reported, "key": _key(reported["key"]), **variants})


def _variant(reported: dict[str, Any]) -> Variant:
    return Variant(reported["sql"], [Input(**one) for one in reported["inputs"]], _keys(reported["tables"]))


def _keys(reported: Iterable[Sequence[str]]) -> list[Key]:
    return [_key(one) for one in reported]


def _key(reported: Sequence[str]) -> Key:
    return reported[0], reported[1]
