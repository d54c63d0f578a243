"""dbt as a data engineer types it in dbt_project/, over a lake that a live cycle fills too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.transform.consumption import app_id
from tests.dbt.small_lake import Row, SmallLake, copied_project

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW = {
    "known_at",
    "fired_at",
    "scored_at",
    "time_to_detect_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "longest_ms",
}  # when a model ran
SETTINGS = {"late_rows": "correct", "allowed_lateness": 60.0, "max_amount": 500.0, "window_spine": True}


def land(lake: SmallLake, step: int) -> None:
    """Payments that close windows, one that is late, one beyond max_amount; changes of both tables of the bank."""
    rows: list[Row] = []
    for n, (minutes, amount) in enumerate([(400 * step, 10.0), (400 * step + 1, 501.0), (5, 3.0), (900 * step, 1.0)]):
        at = AT + timedelta(minutes=minutes)
        paid = {"trans_num": f"t{step}.{n}", "user_id": 1, "amt": amount, "trans_date_trans_time": f"{at:%F %T}"}
        rows.append(paid | {"_topic": "card", "_partition": 0, "_offset": 10 * step + n, "_timestamp": at})
    lake.land("card_transactions", rows)
    change = {"_lsn": 10 * step, "_seq": 1, "_committed_at": AT + timedelta(hours=step)}
    lake.land("users", [{"_op": "u" if step > 1 else "c", "user_id": 1, "name": f"n{step}", **change}])
    paid = {
        "transaction_id": step,
        "user_id": 1,
        "amount": Decimal(100**step),
        "transaction_date": AT.replace(tzinfo=None),
    }
    lake.land("transactions", [{"_op": "c", **paid, **change, "_seq": 2}])


def typed(project: Path, lake: SmallLake, *command: str) -> str:
    """What dbt says, run in the folder of the project with the settings in the environment."""
    environment = {name: text for name, text in lake.settings.environment().items() if text}
    dbt = Path(sys.executable).parent / "dbt"
    done = subprocess.run(
        [dbt, *command], cwd=project, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def content(lake: SmallLake) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Of each table that models build: where it has read to, and its rows."""
    found = {}
    for layer in ("silver", "gold"):
        for name in lake.lake.tables(layer):
            table = lake.lake.open(layer, name)
            positions = {
                f"{up}/{one}": table.transaction_version(app_id((up, one)))
                for up in ("bronze", "silver", "gold")
                for one in lake.lake.tables(up)
            }
            frame = pl.read_delta(lake.lake.uri(layer, name))
            rows = frame.select(column for column in sorted(frame.columns) if column not in NOW).rows(named=True)
            found[f"{layer}/{name}"] = positions, sorted(json.dumps(row, default=str) for row in rows)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copied_project(tmp_path)


def test_builds_tests_and_documentation_agree_with_the_live_cycle(project: Path, tmp_path: Path) -> None:
    """In rows and positions: each of two lakes is built once by one and once by the other."""
    first, second = (SmallLake(tmp_path / name, project, **SETTINGS) for name in ("first", "second"))
    files = set(project.rglob("*"))
    for step, (live, by_hand) in enumerate([(first, second), (first, second), (second, first)], 1):
        land(first, step)
        shutil.copytree(first.root / "bronze", second.root / "bronze", dirs_exist_ok=True)
        live.transformer.reload()
        live.build("all")
        typed(project, by_hand, "build", *([] if step == 1 else ["--resource-type", "model"]))
        ours, theirs = content(live), content(by_hand)
        assert ours.keys() == theirs.keys() and len(ours) == 29
        assert ours["gold/alerts"][0]["gold/transaction_features"] == step
        for table, (positions, rows) in ours.items():
            assert theirs[table][0] == positions, table
            assert theirs[table][1] == rows, table
    assert ours["gold/alerts"][1] and ours["gold/user_trans_amt_last_360min_windowed_spine"][1]

    lake, before = second, content(second)
    assert "ERROR=0" in typed(project, lake, "test", "--exclude-resource-type", "unit_test")
    typed(project, lake, "docs", "generate")
    catalog = json.loads((project / "target" / "catalog.json").read_text())
    vectors = catalog["nodes"]["model.fraud_lakehouse.card_feature_vectors"]["columns"]
    assert set(vectors) == set(pl.read_delta(lake.lake.uri("gold", "card_feature_vectors")).columns)
    assert content(lake) == before
    new = {path.relative_to(project).parts[0] for path in set(project.rglob("*")) - files}
    assert new <= {"target", "logs"}


def test_a_captured_table_that_takes_the_name_of_another_is_refused_by_name(project: Path, tmp_path: Path) -> None:
    lake = SmallLake(tmp_path / "lake", project)
    lake.land("transactions", [{"transaction_id": 1, "_op": "c", "_lsn": 1, "_seq": 1}])
    shutil.copytree(lake.root / "bronze" / "transactions", lake.root / "bronze" / "users")
    with pytest.raises(AssertionError, match="bronze/users is not the table that the model users reads"):
        typed(project, lake, "build", "--select", "users")
