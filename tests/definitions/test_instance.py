"""The shipped dagster.yaml and workspace.yaml are what dagster-webserver and dagster-daemon accept."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_runs_queue_and_pools_hold_one_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        assert type(instance.run_launcher).__name__ == "DefaultRunLauncher"
        assert instance.global_op_concurrency_default_limit == 1
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled


def test_the_workspace_names_the_definitions() -> None:
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == "fraud_lakehouse.definitions"
