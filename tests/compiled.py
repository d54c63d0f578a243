"""Compiled projects of a few models, for tests that need no dbt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fraud_lakehouse.transform.compiled import CompiledProject, Model, Source, Variant


def model(name: str, parents: Sequence[str] = (), **others: Any) -> Model:
    """A stored model of gold, whose unique id is its name."""
    given: dict[str, Any] = {
        "unique_id": name,
        "name": name,
        "key": ("gold", name),
        "parents": parents,
        "tags": ["hot"],
        "is_stored": True,
        "strategy": "append",
        "unique_key": [],
        "columns": {},
        "has_source_types": False,
        "keeps_rows": False,
        "definitions": {},
        "is_generated": False,
        "full": Variant(""),
        "incremental": Variant(""),
    }
    return Model(**given | others)


def project_of(parents: Mapping[str, Sequence[str]]) -> CompiledProject:
    """A project by what each model reads; what is no model is a source of bronze."""
    sources = sorted({read for listed in parents.values() for read in listed} - parents.keys())
    return CompiledProject(
        [model(name, listed) for name, listed in parents.items()],
        sources=[Source(name, ("bronze", name.removeprefix("bronze.")), {}, is_ours=True) for name in sources],
    )
