"""What models of the fast path may read, checked when the project is compiled; and what they then see."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.runner import Transformer
from tests.dbt.test_delta_materialization import Mini, mini_project

__all__ = ["mini_project"]  # a fixture

FEATURES, ALERTS, VIEW = (f"models/gold/{name}.sql" for name in ("features", "alerts", "large"))
KEPT = "{{ config(strategy='append', full_refresh=false) }} select id, current_timestamp as fired_at from "
IS_VIEW = "{{ config(materialized='view', tags=['hot']) }} "
THROUGH_VIEW = {
    VIEW: IS_VIEW + "select id from {{ new_rows(ref('features'), consumer='alerts') }} where amount > 100",
    ALERTS: KEPT + "{{ ref('large') }}",
}
"""Alerts of a view between them and the features."""


@pytest.fixture
def project(mini_project: Path, tmp_path: Path) -> Path:
    """A copy of the small project, to be changed."""
    return Path(shutil.copytree(mini_project, tmp_path / "project"))


def write(project: Path, models: dict[str, str]) -> None:
    for name, sql in models.items():
        (project / name).write_text(sql)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param(
            {
                ALERTS: KEPT
                + "{{ new_rows(ref('features')) }} where amount > (select amount from {{ ref('average') }})",
            },
            ["alerts", "gold/average", "built later"],
            id="alerts that compare with a table that is built later",
        ),
        pytest.param(
            {ALERTS: KEPT + "{{ ref('features') }} where amount > 100"},
            ["alerts", "gold/features as a whole", "new_rows"],
            id="alerts of all rows",
        ),
        pytest.param(
            THROUGH_VIEW | {VIEW: IS_VIEW + "select id from {{ ref('features') }} where amount > 100"},
            ["large", "gold/features as a whole", "new_rows"],
            id="a view over all rows",
        ),
        pytest.param(
            {
                FEATURES: "{{ config(strategy='append') }} select bucket as id, amount / 2 as half, amount"
                " from {{ new_rows(ref('latest')) }}"
            },
            ["features", "gold/latest", "updated and deleted"],
            id="new rows of a table that is merged into",
        ),
        pytest.param(
            {ALERTS: KEPT + "{{ new_rows(ref('features')) }} where amuont > 100"},
            ["alerts", "amuont"],
            id="a column that is not there",
        ),
        pytest.param(
            THROUGH_VIEW
            | {VIEW: IS_VIEW + "select id from {{ new_rows(ref('features'), consumer='alerts') }} where amuont > 100"},
            ["large", "amuont"],
            id="a column that is not there for a view",
        ),
        pytest.param({ALERTS: KEPT + "{{ ref('faetures') }}"}, ["alerts", "faetures"], id="an unknown model"),
    ],
)
def test_what_the_fast_path_cannot_run_is_refused_by_model_and_table(
    project: Path, tmp_path: Path, changed: dict[str, str], words: list[str]
) -> None:
    lake = Mini(tmp_path / "lake", project)
    lake.add(0, 120)
    lake.build()
    write(project, changed)
    with pytest.raises(TransformError) as refused:
        lake.transformer.reload()
    for word in words:
        assert word in str(refused.value)
    lake.add(120, 130)
    assert lake.build().rows("alerts") == 10, "the project in use goes on"
    another = Transformer(load_settings(lake=str(lake.root)), project)
    assert another.follow(), "also in a process that starts meanwhile"
    assert another.project == lake.transformer.project
    for transformer in (another, lake.transformer):
        transformer.close()


@pytest.mark.parametrize("through_view", [False, True])
def test_alerts_see_a_captured_table_as_it_is_now(project: Path, tmp_path: Path, *, through_view: bool) -> None:
    """A warm process gets no notice of a new row in a table that is read as a whole."""
    listed_ids = "where id in (select id from {{ source('bronze', 'absent') }})"
    new_rows = "{{ new_rows(ref('features'), consumer='alerts') }}"
    if through_view:
        write(project, THROUGH_VIEW | {VIEW: f"{IS_VIEW} select id from {new_rows} {listed_ids}"})
    else:
        write(project, {ALERTS: f"{KEPT} {new_rows} {listed_ids}"})
    lake = Mini(tmp_path / "lake", project)
    for number in range(4):
        listed = pl.DataFrame({"id": [10 * number + 5], "amount": [0.0]})
        write_deltalake(str(lake.root / "bronze/absent"), listed.to_arrow(), mode="append")
        lake.add(10 * number, 10 * number + 10)
        lake.build()
    assert sorted(set(lake.ids("gold", "alerts"))) == [5, 15, 25, 35]
    lake.transformer.close()


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_a_model_reads_each_row_once_through_views(project: Path, tmp_path: Path, *, keeps_rows: bool) -> None:
    over_view = {
        VIEW: THROUGH_VIEW[VIEW],
        "models/gold/odd.sql": IS_VIEW + "select id from {{ ref('large') }} where id % 2 = 1",
    }
    alerts = (KEPT if keeps_rows else KEPT.replace(", full_refresh=false", "")) + "{{ ref('odd') }}"
    write(project, over_view | {ALERTS: alerts})
    lake = Mini(tmp_path / "lake", project)
    lake.add(0, 120)
    assert lake.build().rows("alerts") == 10
    assert all(node.version is None for node in lake.build().nodes), "nothing is new"
    lake.add(120, 130)
    lake.transformer.build(["cards", "features"])  # the process dies here
    lake.restart()
    lake.add(130, 140)
    assert lake.build().rows("alerts") == 10
    lake.build(full_refresh=True)
    assert lake.ids("gold", "alerts") == list(range(101, 140, 2))
    lake.transformer.close()
