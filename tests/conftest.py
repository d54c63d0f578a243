"""Fixtures that need a server lie in modules of their own; each is loaded if it is there."""

from __future__ import annotations

from pathlib import Path

pytest_plugins = [
    f"tests.{name}"
    for name in ("fixtures_postgres", "fixtures_kafka", "fixtures_apache_kafka")
    if Path(__file__).with_name(f"{name}.py").exists()
]
