"""The folder of prepared projects, which several processes use at once; what is read to tell which one it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.errors import LakeError, TransformError
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.project import Preparation, prepare_project
from fraud_lakehouse.transform.project_files import Stamp, digest_of, stamp_of
from fraud_lakehouse.transform.runner import Transformer
from tests.full_disk import no_file_beyond

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
    assert prepared.is_prepared
    assert {path.name for path in home.iterdir()} == {prepared.folder.name, "recent", "building-elsewhere"}


def test_a_file_that_goes_away_while_the_project_is_read_is_named(settings: Settings, shipped: Path) -> None:
    (shipped / "models" / "going.yml").symlink_to("gone")
    with pytest.raises(TransformError, match=r"going\.yml disappeared while the dbt project was read"):
        prepare_project(settings, shipped)


@pytest.mark.parametrize("size", [10, 2_000])  # while the files are copied; while dbt writes what it has parsed
def test_a_full_disk_is_told_as_such_and_tried_again(settings: Settings, shipped: Path, size: int) -> None:
    with pytest.raises(LakeError, match=r"cannot be prepared in .*File too large"), no_file_beyond(size):
        prepare_project(settings, shipped)
    assert [path.name for path in (settings.cache_dir / "dbt").iterdir()] == []
    assert prepare_project(settings, shipped).is_prepared


def test_a_changed_project_that_has_no_room_leaves_the_accepted_one_in_use(settings: Settings, shipped: Path) -> None:
    running, starting = Transformer(settings, shipped), Transformer(settings, shipped)
    running.build(["one"])
    in_use = running.project
    (shipped / "models" / "one.sql").write_text("select 2 as one")
    for transformer in (running, starting):
        with pytest.raises(LakeError, match="File too large"), no_file_beyond(2_000):
            transformer.reload()
        assert transformer.is_ready
    assert running.project == in_use
    assert starting.follow() is False, "it is the one built last that both build by"
    assert running.reload() and running.project != in_use
    running.close()
    starting.close()


def test_what_has_not_changed_is_not_read_again(
    settings: Settings, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(settings.lake)
    payees = BronzeTable.open_or_create(lake, "payees", {"id": pl.Int64()}, ["id"])
    monkeypatch.setattr("fraud_lakehouse.transform.project_files.SETTLED_NS", -1)
    read: list[str] = []

    def reading(*arguments: Any) -> str:
        read.append(digest_of(*arguments))
        return read[-1]

    monkeypatch.setattr("fraud_lakehouse.transform.project.digest_of", reading)
    preparation = Preparation(settings, shipped)
    first = preparation.planned()
    assert preparation.planned() == first and len(read) == 1
    payees.append(pl.DataFrame({"id": [1]}), {})
    assert preparation.planned() == first and len(read) == 1, "rows change no model"
    payees.reshape({"name": pl.String()}, rewrite=False)
    with_name = preparation.planned()
    assert with_name != first and len(read) == 2
    (shipped / "models" / "one.sql").write_text("select 2 as one")  # as long as before
    other = preparation.planned()
    assert other not in (first, with_name) and len(read) == 3
    BronzeTable.open_or_create(lake, "accounts", {"id": pl.Int64()}, ["id"])
    assert preparation.planned() != other and len(read) == 4
    assert Preparation(settings, shipped).planned().folder.name.split("-")[0] == read[3], (
        "as who sees it for the first time"
    )


def test_what_was_read_within_a_tick_of_its_change_is_read_once_more(
    settings: Settings, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shipped / "models" / "one.sql"
    preparation = Preparation(settings, shipped)
    monkeypatch.setattr("fraud_lakehouse.transform.project_files.SETTLED_NS", 10**18)
    seen = stamp_of(shipped)
    first = preparation.planned()
    model.write_text("select 2 as one")

    def seen_as(stamp: Stamp) -> Callable[..., Stamp]:
        return lambda folder, but="": stamp if folder == shipped else stamp_of(folder, but)

    monkeypatch.setattr("fraud_lakehouse.transform.project.stamp_of", seen_as(seen))  # the same tick
    assert preparation.planned() == first
    monkeypatch.setattr("fraud_lakehouse.transform.project.stamp_of", seen_as(replace(seen, is_synced=True)))
    assert preparation.planned() != first


def test_what_editors_leave_beside_open_files_is_no_part_of_the_project(settings: Settings, shipped: Path) -> None:
    before = stamp_of(shipped)
    (shipped / "models" / ".#one.sql").symlink_to("someone@host.123")
    (shipped / "models" / ".one.sql.swp").write_text("half")
    assert stamp_of(shipped).marks == before.marks
    assert prepare_project(settings, shipped).is_prepared
