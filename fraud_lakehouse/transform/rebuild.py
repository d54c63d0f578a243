"""Rebuilds models from all rows of their upstreams on request, after their definition changed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.writer_lock import BESIDE, HOT, TURN_SECONDS, writer_lock
from fraud_lakehouse.transform.build_result import NodeResult
from fraud_lakehouse.transform.compiled import Model
from fraud_lakehouse.transform.runner import Transformer


def rebuild(transformer: Transformer, settings: Settings, names: Sequence[str]) -> list[NodeResult]:
    """Build these models from all rows, each under its tier's lock; models that read them follow at their next build.

    The fast path is first built from new rows. The rebuilt models then have the same rows as before, and a table that
    keeps its rows (alerts) has read them all and reads none again (transform/consumption.py).

    Args:
        names: of models or their tables, with or without the layer: `card_feature_vectors`, `silver/users`.

    Returns:
        The result of each model, the fast path first.

    Raises:
        TransformError: no model has that name, or its rows must not be rebuilt (nothing is built then); or a model
            failed.
        LockTakenError: another process did not release the lock.
    """
    transformer.reload()
    project = transformer.compiled
    chosen = [_named(project.models, name) for name in names]
    built: list[NodeResult] = []
    for part in (HOT, BESIDE):
        wanted = [model for model in chosen if model.is_fast_path == (part == HOT)]
        if wanted:
            with writer_lock(settings.work_dir, TURN_SECONDS, part):
                if part == HOT:
                    transformer.build_tier("hot").raise_for_errors()
                result = transformer.build({model.name for model in wanted}, full_refresh=True, tests=False)
            result.raise_for_errors()
            built += result.nodes
    return built


def _named(models: Sequence[Model], name: str) -> Model:
    """The model of a table; rejected if it keeps its rows."""
    tables = {"/".join(model.key): model for model in models}
    found = [model for table, model in tables.items() if name in (table, model.key[1], model.name)]
    if not found:
        close = difflib.get_close_matches(name, [*tables, *(model.key[1] for model in models)], n=3)
        raise TransformError(
            f"there is no model {name!r}",
            f"did you mean {', '.join(close)}?" if close else "`fraud-lakehouse status` lists the tables",
        )
    if len(found) > 1:
        tables_found = ", ".join("/".join(model.key) for model in found)
        raise TransformError(f"{name!r} is the name of several models", f"use one of {tables_found}")
    (model,) = found
    table = "/".join(model.key)
    if model.keeps_rows:
        raise TransformError(f"{table} keeps its rows: they are never rebuilt", "leave it out")
    if not model.is_stored:
        raise TransformError(f"{table} is a view: it stores no rows", "leave it out")
    return model
