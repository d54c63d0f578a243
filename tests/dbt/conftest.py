"""What the tests of models share: a module's lake, whose dbt is warm, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dbt.small_lake import SmallLake, copied_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped project, to be changed by the module's tests."""
    return copied_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def shared_lake(project: Path) -> Iterator[SmallLake]:
    """Over that project, unless the module has one of its own."""
    lake = SmallLake(project.parent / "lake", project)
    yield lake
    lake.transformer.close()


@pytest.fixture
def lake(shared_lake: SmallLake) -> SmallLake:
    """The module's `shared_lake`, without a table."""
    shared_lake.clear()
    return shared_lake
