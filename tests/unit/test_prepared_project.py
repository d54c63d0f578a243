"""The folder of prepared projects, which several processes use at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.transform.project import prepare_project

LONG_AGO = 1_000_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(lake=str(tmp_path / "lake"), cache=tmp_path / "cache")


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A project of one model."""
    folder = tmp_path / "shipped"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "one.sql").write_text("select 1 as one")
    (folder / "dbt_project.yml").write_text("{name: fraud_lakehouse, profile: fraud_lakehouse, vars: {}}")
    return folder


def test_what_another_process_builds_may_go_while_old_ones_are_removed(settings: Settings, shipped: Path) -> None:
    home = settings.cache_dir / "dbt"
    (home / "old").mkdir(parents=True)
    os.utime(home / "old", (LONG_AGO, LONG_AGO))
    (home / "building-elsewhere").symlink_to("gone")  # named by the listing, not there when it is looked at
    (home / "recent").mkdir()
    prepared = prepare_project(settings, shipped)
    assert prepared.is_parsed
    assert {path.name for path in home.iterdir()} == {prepared.folder.name, "recent", "building-elsewhere"}


def test_a_file_that_goes_away_while_the_project_is_read_is_named(settings: Settings, shipped: Path) -> None:
    (shipped / "models" / "going.yml").symlink_to("gone")
    with pytest.raises(TransformError, match=r"going\.yml went away while the dbt project was read"):
        prepare_project(settings, shipped)
