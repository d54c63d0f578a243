"""dbt's own unit tests, and every model on a lake without a row."""

from __future__ import annotations

from pathlib import Path

from dbt.cli.main import dbtRunner

from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.lake import LAYERS, Lake
from fraud_lakehouse.transform.profile import write_profile
from fraud_lakehouse.transform.project import prepare_project


def test_unit_tests_pass_and_every_model_builds_on_an_empty_lake(tmp_path: Path) -> None:
    settings = load_settings(lake=str(tmp_path / "lake"))
    prepared = prepare_project(settings)
    folders = ["--project-dir", str(prepared.folder), "--profiles-dir", str(write_profile(settings, tmp_path))]
    folders += ["--target-path", str(tmp_path / "target")]
    quiet = ["--log-level", "none", "--log-level-file", "none", "--no-send-anonymous-usage-stats"]

    result = dbtRunner().invoke([*quiet, "build", "--exclude-resource-type", "test", *folders])

    assert result.exception is None
    outcomes = [(str(run.node.resource_type), run.node.name, str(run.status), run.message) for run in result.result]
    assert [outcome for outcome in outcomes if outcome[2] not in ("success", "pass")] == []
    assert sum(outcome[0] == "unit_test" for outcome in outcomes) >= 35
    lake = Lake.at(settings.lake)
    files = {f"{layer}/{name}": lake.open(layer, name).file_uris() for layer in LAYERS for name in lake.tables(layer)}
    assert len(files) > 10 and not any(files.values()), "a table without rows has no file: it would count as news"
