"""The vars of models that dbt_project.yml does not set: from settings, the catalogue of features, captured tables.

A prepared project has them in its dbt_project.yml. An unprepared project gets them from the plugin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.definitions import definitions_of
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.captured import Captured


def variables_of(
    settings: Settings, captured: Mapping[str, Captured], tables: Mapping[str, str], catalogue: Catalogue | None
) -> dict[str, Any]:
    """Name and plain value of each var.

    Args:
        tables: the captured table behind each bronze table of the project's own models.
    """
    found = settings_variables(settings)
    if catalogue is not None:
        found |= catalogue.variables() | {"feature_definitions": definitions_of(catalogue, found)}
        found["catalogue"] = json.dumps(catalogue.plain())
    described = {}
    for name, table in tables.items():
        found[f"{name}_table"] = table
        found[f"{name}_columns"] = captured[table].present if table in captured else []
        if table in captured:
            described[table] = dict(captured[table].columns)
    keyed = sorted(name for name, table in captured.items() if table.key)
    return found | {"captured_columns": described, "captured_tables": keyed}


def catalogue_of(variables: Mapping[str, Any]) -> Catalogue | None:
    """The catalogue in a project's vars; None: it has no streams."""
    text = variables.get("catalogue")
    return Catalogue.of_plain(json.loads(text)) if text else None


def settings_variables(settings: Settings) -> dict[str, Any]:
    """The vars that come from settings."""
    return {
        "allowed_lateness_seconds": settings.allowed_lateness,
        "max_amount": settings.max_amount,
        "max_future_seconds": settings.max_future,
        "late_rows": settings.late_rows,
        "idle_seconds": settings.idle_seconds,
        "label_delay_seconds": settings.label_delay,
        "window_idle_seconds": settings.window_idle_seconds,
        "window_spine": settings.window_spine,
    }
