"""Fixtures that need a server lie in modules of their own; each is loaded if it is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_lakehouse.lake import failpoints

pytest_plugins = [
    f"tests.{name}"
    for name in ("fixtures_postgres", "fixtures_kafka", "fixtures_apache_kafka")
    if Path(__file__).with_name(f"{name}.py").exists()
]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """No test leaves a failpoint to the next one."""
    yield
    failpoints.disarm()
