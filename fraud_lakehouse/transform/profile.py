"""The dbt profile that runs a prepared project over a lake; each process writes its own."""

from __future__ import annotations

from pathlib import Path

import yaml

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.engine import SESSION, options


def write_profile(settings: Settings, folder: Path) -> Path:
    """Write the profiles.yml that runs a prepared project over the settings' lake; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profiles.yml").write_text(_profiles(settings))
    return folder


def _profiles(settings: Settings) -> str:
    lake = Lake.at(settings.lake)
    output = {
        "type": "duckdb",
        "path": ":memory:",
        "schema": "main",
        "threads": 1,
        "disable_transactions": True,
        "plugins": [{"module": "fraud_lakehouse.transform.plugin", "alias": "delta", "config": {"lake": lake.root}}],
        "settings": SESSION,
        "config_options": options(settings, lake),
    }
    return yaml.safe_dump({"fraud_lakehouse": {"target": "lake", "outputs": {"lake": output}}})
