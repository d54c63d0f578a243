"""The catalogue in dbt's documentation: each feature is a column of its table's yml, described by its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fraud_lakehouse.features.catalogue import Catalogue


def documented_models(project: Path, catalogue: Catalogue) -> dict[str, str]:
    """The yml of each model that has features, with a column for each of them.

    A column the yml declares keeps its data type and tests and takes over the rest; others are added behind it.

    Args:
        project: the dbt project the models lie in.

    Returns:
        Text by path in the project; a table without a yml of its name has no model and is left out.
    """
    files: dict[str, str] = {}
    for table in catalogue.tables():
        for path in sorted(project.glob(f"models/*/{table}.yml")):
            content = yaml.safe_load(path.read_text())
            for model in content.get("models") or []:
                if model["name"] == table:
                    columns = [feature.column() for feature in catalogue.of_table(table)]
                    model["columns"] = _merged(model.get("columns") or [], columns)
            files[str(path.relative_to(project))] = yaml.safe_dump(content, sort_keys=False, width=1_000)
    return files


def _merged(declared: list[dict[str, Any]], features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    added = {column["name"]: column for column in features}
    merged = []
    for column in declared:
        feature = added.pop(column["name"], {})
        told = {name: value for name, value in feature.items() if name != "data_type"}
        merged.append(column | told)
    return [*merged, *added.values()]
