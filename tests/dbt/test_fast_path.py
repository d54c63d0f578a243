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

RULE = "models/gold/rule_big.sql"


@pytest.fixture
def project(mini_project: Path, tmp_path: Path) -> Path:
    """A copy of the small project, to be changed."""
    return Path(shutil.copytree(mini_project, tmp_path / "project"))


@pytest.mark.parametrize(
    ("changed", "sql", "words"),
    [
        pytest.param(
            RULE,
            "select new.id from {{ new_rows(ref('features'), consumer='alerts') }} as new, {{ ref('average') }} as a"
            " where new.amount > a.amount",
            ["rule_big", "gold/average", "built after it"],
            id="a rule that joins a table that is built later",
        ),
        pytest.param(
            RULE,
            "select id from {{ ref('features') }} where amount > 100",
            ["rule_big", "gold/features as a whole", "new_rows"],
            id="a rule over all rows",
        ),
        pytest.param(
            "models/gold/features.sql",
            "{{ config(strategy='append') }} select bucket as id, amount / 2 as half, amount"
            " from {{ new_rows(ref('latest')) }}",
            ["features", "gold/latest", "changed and removed"],
            id="new rows of a table that is merged into",
        ),
        pytest.param(
            RULE,
            "select id from {{ new_rows(ref('features'), consumer='alerts') }} where amuont > 100",
            ["rule_big", "amuont"],
            id="a column that is not there",
        ),
        pytest.param(RULE, "select id from {{ ref('faetures') }}", ["rule_big", "faetures"], id="an unknown model"),
    ],
)
def test_what_the_fast_path_cannot_run_is_refused_by_model_and_table(
    project: Path, tmp_path: Path, changed: str, sql: str, words: list[str]
) -> None:
    lake = Mini(tmp_path / "lake", project)
    lake.add(0, 120)
    lake.build()
    (project / changed).write_text(sql)
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


def test_a_rule_sees_a_captured_table_as_it_is_now(project: Path, tmp_path: Path) -> None:
    """Nothing tells a warm process of a new row in a table that is read as a whole."""
    (project / RULE).write_text(
        "select id from {{ new_rows(ref('features'), consumer='alerts') }}"
        " where id in (select id from {{ source('bronze', 'absent') }})"
    )
    lake = Mini(tmp_path / "lake", project)
    for number in range(4):
        listed = pl.DataFrame({"id": [10 * number + 5], "amount": [0.0]})
        write_deltalake(str(lake.root / "bronze/absent"), listed.to_arrow(), mode="append")
        lake.add(10 * number, 10 * number + 10)
        lake.build()
    assert sorted(set(lake.ids("gold", "alerts"))) == [5, 15, 25, 35]
    lake.transformer.close()
