"""Models built anew from all rows of their upstream, as a person asks for it: after a change of what they say."""

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
    """Build these models from all rows, each in the turn of its lane; what reads them follows at its next build.

    Before models of the fast path, all of it is built from new rows: what is built anew then has the rows it had, and a
    table that keeps its own (alerts), which has read them all, reads none again (transform/consumption.py).

    Args:
        names: of models or their tables, with or without the layer: `card_feature_vectors`, `silver/users`.

    Returns:
        What became of each model, the hot ones first.

    Raises:
        TransformError: a name is no model's, or its rows are not to be built anew (nothing is built then); or a model
            failed.
        TurnTakenError: another process did not end its turn.
    """
    transformer.reload()
    project = transformer.compiled
    chosen = [_named(project.models, name) for name in names]
    built: list[NodeResult] = []
    for part in (HOT, BESIDE):
        wanted = [model for model in chosen if model.is_hot == (part == HOT)]
        if wanted:
            with writer_lock(settings.work_dir, TURN_SECONDS, part):
                if part == HOT:
                    transformer.build_lane("hot").raise_for_errors()
                result = transformer.build({model.name for model in wanted}, full_refresh=True, tests=False)
            result.raise_for_errors()
            built += result.nodes
    return built


def _named(models: Sequence[Model], name: str) -> Model:
    """The model of a table, refused where it keeps its rows."""
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
        raise TransformError(f"{table} keeps its rows: what it has once said stays as it is", "leave it out")
    if not model.is_stored:
        raise TransformError(f"{table} is a view: no row of it is stored", "leave it out")
    return model
