"""What the tests of models share: a module's lake, whose dbt is warm, emptied before each test."""

from __future__ import annotations

import pytest

from tests.dbt.small_lake import SmallLake


@pytest.fixture
def lake(shared_lake: SmallLake) -> SmallLake:
    """The module's `shared_lake`, without a table."""
    shared_lake.clear()
    return shared_lake
