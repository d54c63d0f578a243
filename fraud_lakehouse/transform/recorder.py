"""The dbt-duckdb plugin of `dbt compile`: writes down what models read by name, and reads nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import TargetConfig

from fraud_lakehouse.transform.inputs import answer_of


class Plugin(BasePlugin):
    """Answers the macros in `dbt_project/macros/delta/` by names alone, the same for whatever lake."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Take the file to write to from the profile."""
        self._file = Path(plugin_config["file"])

    def store(self, target_config: TargetConfig) -> None:
        """Write down one call of a macro, and answer it."""
        call = target_config.config
        assert target_config.location is not None
        kind = target_config.location.format
        call["answer"] = answer_of(kind, call)
        if kind == "register":
            return
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, "call": {**call, "answer": None}}) + "\n")
