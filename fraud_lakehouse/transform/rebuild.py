"""Models built anew from all rows of their upstream, as a person asks for it: after a change of what they say."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.lake.writer_lock import BESIDE, HOT, TURN_SECONDS, writer_lock
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.build_result import NodeResult
from fraud_lakehouse.transform.runner import Transformer


def rebuild(transformer: Transformer, settings: Settings, names: Sequence[str]) -> list[NodeResult]:
    """Build these models from all rows, each in the turn of its lane; what reads them follows at its next build.

    What a model lacks of its upstream is built before, by itself: its rows are then known to be the same, and what
    keeps its own rows (alerts) reads none of them again (transform/consumption.py).

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
    nodes = json.loads(transformer.project.manifest_path.read_text())["nodes"].values()
    chosen = [_named([node for node in nodes if node["resource_type"] == "model"], name) for name in names]
    built: list[NodeResult] = []
    for part in (HOT, BESIDE):
        wanted = [node["name"] for node in chosen if ("hot" in node["config"]["tags"]) == (part == HOT)]
        if wanted:
            selected = sorted(set(wanted))
            with writer_lock(settings.work_dir, TURN_SECONDS, part):
                if part == HOT:
                    before = ["--select", *(f"+{name},tag:hot" for name in selected)]
                    transformer.build(before, tests=False).raise_for_errors()
                result = transformer.build(["--select", *selected, "--full-refresh"], tests=False)
            result.raise_for_errors()
            built += [node for node in result.nodes if node.resource_type == "model"]
    return built


def _named(models: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The model of a table, refused where it keeps its rows."""
    tables = {f"{node['schema']}/{node['alias']}": node for node in models}
    found = [node for table, node in tables.items() if name in (table, node["alias"], node["name"])]
    if not found:
        close = difflib.get_close_matches(name, [*tables, *(node["alias"] for node in models)], n=3)
        raise TransformError(
            f"there is no model {name!r}",
            f"did you mean {', '.join(close)}?" if close else "`fraud-lakehouse status` lists the tables",
        )
    if len(found) > 1:
        tables_found = ", ".join(f"{node['schema']}/{node['alias']}" for node in found)
        raise TransformError(f"{name!r} is the name of several models", f"use one of {tables_found}")
    (node,) = found
    table = f"{node['schema']}/{node['alias']}"
    if node["config"].get("full_refresh") is False:
        raise TransformError(f"{table} keeps its rows: what it has once said stays as it is", "leave it out")
    if node["config"]["materialized"] != "delta":
        raise TransformError(f"{table} is a view: no row of it is stored", "leave it out")
    return node
