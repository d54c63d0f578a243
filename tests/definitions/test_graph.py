"""What Dagster shows: layers, edges, groups, owners, checks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.live_run import ALERTS_SECONDS
from fraud_lakehouse.errors import SettingsError

LAYERS = ("bronze", "silver", "gold")


def _key(text: str) -> dg.AssetKey:
    return dg.AssetKey(text.split("/"))


def test_definitions_load_and_hold_together(stand: Callable[..., Any]) -> None:
    dg.Definitions.validate_loadable(stand().definitions)


def test_definitions_load_without_any_source(stand: Callable[..., Any]) -> None:
    definitions = stand(postgres_dsn=None, kafka_bootstrap_servers=None).definitions
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert not graph.get(_key("bronze/users")).is_materializable
    assert graph.get(_key("silver/users")).is_materializable


@pytest.mark.parametrize(
    ("table", "parent"),
    [
        ("silver/users", "bronze/users"),
        ("silver/transactions", "bronze/transactions"),
        ("silver/card_transactions", "bronze/card_transactions"),
    ],
)
def test_silver_comes_from_bronze(stand: Callable[..., Any], table: str, parent: str) -> None:
    graph = stand().definitions.resolve_asset_graph()
    assert _key(parent) in graph.get(_key(table)).parent_keys


def test_alerts_go_back_to_all_bronze_tables(stand: Callable[..., Any]) -> None:
    graph = stand().definitions.resolve_asset_graph()
    seen, todo = set(), {_key("gold/alerts")}
    while todo:
        key = todo.pop()
        seen.add(key)
        todo |= graph.get(key).parent_keys - seen
    assert {_key(f"bronze/{table}") for table in ("users", "transactions", "card_transactions")} <= seen


def test_alerts_are_overdue_after_minutes_in_live_mode_and_the_report_after_its_hour(stand: Callable[..., Any]) -> None:
    def policy(table: str, delay: float) -> Any:
        graph = stand(update_delay=delay).definitions.resolve_asset_graph()
        return graph.get(_key(table)).freshness_policy

    live = policy("gold/alerts", 0.0)
    assert (live.fail_window.to_timedelta(), live.warn_window.to_timedelta()) == (
        timedelta(minutes=5),
        timedelta(minutes=2),
    )
    assert timedelta(seconds=ALERTS_SECONDS) < live.warn_window.to_timedelta(), "a quiet day is reported in time"
    assert policy("gold/alerts", 60.0) is None, "runs by new data: without data there is none"
    assert policy("gold/daily_report", 0.0).deadline_cron == "0 1 * * *"


def test_layer_is_folder_group_and_first_part_of_the_key(stand: Callable[..., Any]) -> None:
    graph = stand().definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        assert key.path[0] in LAYERS
        assert graph.get(key).group_name == key.path[0]
        assert graph.get(key).owners == ["team:fraud-platform"]
        assert graph.get(key).description
        assert graph.get(key).kinds


def test_tables_named_in_the_settings_are_assets(stand: Callable[..., Any]) -> None:
    definitions = stand(postgres_tables=("public.payees", "risk.lists")).definitions
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    assert {_key("bronze/payees"), _key("bronze/risk__lists")} <= set(keys)


def test_dbt_tests_are_checks_that_block_and_findings_do_not(stand: Callable[..., Any]) -> None:
    graph = stand().definitions.resolve_asset_graph()
    of_alerts = {key.name: graph.get_check_spec(key) for key in graph.get_check_keys_for_assets({_key("gold/alerts")})}
    rules = ("amount_above_mean", "amount_below_mean", "velocity", "unknown_user")
    assert not any(of_alerts[f"rule_{rule}"].blocking for rule in rules)
    assert any("unique" in name and spec.blocking for name, spec in of_alerts.items())


def test_every_sensor_and_schedule_runs_by_itself(stand: Callable[..., Any]) -> None:
    repository = stand().definitions.get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} >= {
        "new_data_bank",
        "new_data_cards",
        "keep_live",
        "end_dead_runs",
        "deliver_alerts",
        "report_failed_runs",
        "watch_slot",
        "watch_tables",
        "watch_sources",
    }
    assert all(sensor.default_status == dg.DefaultSensorStatus.RUNNING for sensor in repository.sensor_defs)
    assert {schedule.name for schedule in repository.schedule_defs} >= {"daily_report_at_0015", "upkeep_at_0330"}
    assert all(schedule.default_status == dg.DefaultScheduleStatus.RUNNING for schedule in repository.schedule_defs)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_UPDATE_DELAY", "soon")
    with pytest.raises(SettingsError, match="FRAUD_UPDATE_DELAY"):
        build_definitions()


def test_the_dsn_is_nowhere_in_what_dagster_shows(stand: Callable[..., Any]) -> None:
    definitions = stand().definitions
    graph = definitions.resolve_asset_graph()
    shown = [repr(graph.get(key).metadata) + str(graph.get(key).description) for key in graph.get_all_asset_keys()]
    assert not any("secret" in text for text in shown)
