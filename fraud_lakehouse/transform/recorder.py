"""The dbt-duckdb plugin of `dbt compile`: records the inputs that models read by name; reads no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig

from fraud_lakehouse.transform.inputs import answer_of


class Plugin(BasePlugin):
    """Returns only names to the macros in `dbt_project/macros/delta/`, the same for every lake."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Read the output file's name from the profile."""
        self._file = Path(plugin_config["file"])

    def store(self, target_config: TargetConfig) -> None:
        """Record one call of a macro and answer it."""
        call = target_config.config
        assert target_config.location is not None
        kind = target_config.location.format
        call["answer"] = answer_of(kind, call)
        if kind == "register":
            return
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, "call": {**call, "answer": None}}) + "\n")
