"""A look at tables of the lake: the newest rows, those that match, and those that come."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.checks.peek import peek
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from tests.numbered import commit

pytestmark = pytest.mark.usefixtures("shipped_pipeline")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(lake=str(tmp_path / "lake"))


@pytest.fixture
def lake(settings: Settings) -> Lake:
    lake = Lake.at(settings.lake)
    for number in range(30):
        rows = pl.DataFrame({"id": [2 * number, 2 * number + 1], "name": [f"n{number}", None]})
        commit(lake.uri("gold", "things"), rows)
    return lake


def ids(settings: Settings, name: str = "gold/things", **options: object) -> list[int]:
    return [number for frame in peek(settings, name, **options) for number in frame["id"]]  # type: ignore[arg-type]


def test_the_newest_rows_come_oldest_first(lake: Lake, settings: Settings) -> None:
    assert ids(settings, rows=3) == [57, 58, 59]
    assert ids(settings, "things", rows=100) == [*range(60)]
    (frame,) = peek(settings, "things", rows=1)
    assert frame["_position"].to_list() == ["commit 30"]


def test_a_condition_is_looked_for_as_far_back_as_it_takes(lake: Lake, settings: Settings) -> None:
    assert ids(settings, rows=2, where="name in ('n1', 'n3', 'n20') and id < 30") == [2, 6]
    assert ids(settings, where="name = 'nobody' -- comment") == []


def test_following_shows_each_row_that_comes_once(lake: Lake, settings: Settings) -> None:
    added = 0

    def stop() -> bool:
        nonlocal added
        added += 1
        if added <= 3:
            commit(lake.uri("gold", "things"), pl.DataFrame({"id": [100 + added], "name": ["new"]}))
        return added > 3

    assert ids(settings, rows=1, where="id <> 102", stop=stop) == [59, 101, 103]


def test_what_is_meant_has_to_be_one_source_or_table(lake: Lake, settings: Settings) -> None:
    with pytest.raises(SettingsError, match="there is no source and no table nothing"):
        ids(settings, "nothing")
    commit(lake.uri("silver", "things"), pl.DataFrame({"id": [1]}))
    with pytest.raises(SettingsError, match="silver/things, gold/things"):
        ids(settings, "things")
    with pytest.raises(SettingsError, match="FRAUD_KAFKA_BOOTSTRAP_SERVERS is not set"):
        ids(settings, "cards")


def test_a_database_is_its_bronze_tables(lake: Lake, settings: Settings) -> None:
    for table in ("users", "transactions"):
        commit(lake.uri("bronze", table), pl.DataFrame({"id": [len(table)]}))
    assert ids(settings, "bank", topic="users") == [5]
    with pytest.raises(SettingsError, match="--topic: transactions, users"):
        ids(settings, "bank")


@pytest.mark.parametrize("where", ["nonsense", "sum(id) > 1", "exists (select * from read_csv('/etc/hostname'))"])
def test_a_wrong_condition_names_the_columns(lake: Lake, settings: Settings, where: str) -> None:
    with pytest.raises(SettingsError, match="--where"):
        ids(settings, where=where)


def test_a_replica_has_no_order_to_follow(lake: Lake, settings: Settings) -> None:
    pl.DataFrame({"id": [1]}).write_delta(lake.uri("silver", "users"))
    assert ids(settings, "silver/users") == [1]
    with pytest.raises(SettingsError, match="users_history"):
        ids(settings, "silver/users", stop=lambda: True)
