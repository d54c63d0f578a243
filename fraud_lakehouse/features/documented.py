"""The catalogue in dbt's documentation: each feature is a column of its table's yml, described by its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fraud_lakehouse.features.catalogue import Catalogue


def documented_models(project: Path, catalogue: Catalogue) -> dict[str, str]:
    """The yml of each model that has features, with a column for each of them.

    A feature's column that its table's yml declares keeps its data type and tests; the rest comes from the catalogue.
    In other models with the features (which compute or copy them) it stays as declared. Other features are appended.

    Args:
        project: the folder of the dbt project.

    Returns:
        Text by path in the project.
    """
    files: dict[str, str] = {}
    for table in catalogue.tables():
        features = [feature.column() for feature in catalogue.of_table(table)]
        for name in (table, *catalogue.beside(table)):
            for path in sorted(project.glob(f"models/*/{name}.yml")):
                content = yaml.safe_load(path.read_text())
                for model in content.get("models") or []:
                    if model["name"] == name:
                        declared = model.get("columns") or []
                        model["columns"] = _merged(declared, features, is_reported=name == table)
                files[str(path.relative_to(project))] = yaml.safe_dump(content, sort_keys=False, width=1_000)
    return files


def _merged(
    declared: list[dict[str, Any]], features: list[dict[str, Any]], *, is_reported: bool
) -> list[dict[str, Any]]:
    """The columns of a model; `is_reported`: whether declared feature columns are completed from the catalogue."""
    added = {column["name"]: column for column in features}
    merged = []
    for column in declared:
        feature = added.pop(column["name"], {})
        reported = {name: value for name, value in feature.items() if name != "data_type"} if is_reported else {}
        merged.append(column | reported)
    return [*merged, *added.values()]
