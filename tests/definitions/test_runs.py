"""What runs do and report: materializations, checks, failures that leave the next run able to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.defs.bronze import MOST_REFUSALS, drain
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.errors import ConcurrentWriterError, GapError
from tests.definitions.stand import AT, ingested


def _steps_failed(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.step_key for event in result.all_events if event.is_step_failure]


def _materialized(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    return {
        event.asset_key.to_user_string(): {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
    }


def _checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {f"{one.asset_key.to_user_string()}:{one.check_name}": one for one in result.get_asset_check_evaluations()}


def test_materialize_all_materializes_every_layer(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    made.ingests["bank"].steps = [[ingested("users", 3, 10, 20), ingested("transactions", 4, 10, 20)]] * 2
    made.ingests["cards"].steps = [[ingested("card_transactions", 5, 0, 5)]]
    result = made.materialize(instance)
    assert result.success
    found = _materialized(result)
    assert set(found) == {key.to_user_string() for key in made.definitions.resolve_asset_graph().get_all_asset_keys()}
    assert found["bronze/users"]["rows"] == 6
    assert (found["bronze/users"]["from_position"], found["bronze/users"]["to_position"]) == ("10", "20")
    assert found["bronze/card_transactions"]["rows"] == 5
    assert made.builder.asked == [
        ["warm up", "hot"],
        ["build", "hot"],
        ["test", "hot"],
        ["build and test", "rest"],
    ], "what alerts come from waits for nothing else"


def test_one_source_alone_is_enough(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand(kafka_bootstrap_servers=None)
    made.ingests["bank"].steps = [[ingested("users", 3, 10, 20)]]
    result = made.materialize(instance)
    assert result.success
    assert "bronze/card_transactions" not in _materialized(result)
    assert "silver/card_transactions" in _materialized(result)


def test_only_the_models_of_the_hot_lane_are_built_in_its_turn(
    stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, writing = stand(), Lakehouse.writing

    @contextmanager
    def noted(lakehouse: Lakehouse, part: str) -> Iterator[None]:
        with writing(lakehouse, part):
            made.builder.asked.append([f"{part} begins"])
            yield
            made.builder.asked.append([f"{part} ends"])

    monkeypatch.setattr(Lakehouse, "writing", noted)
    assert made.materialize(instance).success
    asked = [" ".join(options) for options in made.builder.asked]
    lock = asked[asked.index("hot begins") : asked.index("hot ends") + 1]
    assert lock == ["hot begins", "build hot", "hot ends"]
    assert asked.index("warm up hot") < asked.index("hot begins")


def test_a_selection_builds_only_its_models(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    wanted = dg.AssetKey(["gold", "daily_report"])
    result = made.materialize(instance, asset_selection=[wanted])
    assert result.success
    assert made.builder.asked == [["build and test", "daily_report"]]
    assert set(_materialized(result)) == {"gold/daily_report"}


def test_a_broken_source_fails_its_step_and_says_what_to_do(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    made.ingests["bank"].steps = [GapError("the slot was dropped", "run accept-source")]
    result = made.materialize(instance)
    assert not result.success
    assert _steps_failed(result) == ["capture_bank"]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    output = failure.step_failure_data.user_failure_data
    assert output is not None and output.description == "the slot was dropped"
    assert output.metadata["what to do"].value == "run accept-source"
    assert made.materialize(instance).success, "the next run continues"


def test_a_broken_model_fails_the_step_after_the_good_ones_are_reported(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    made.builder.broken = {"model.fraud_lakehouse.user_avg": "error"}
    result = made.materialize(instance)
    assert _steps_failed(result) == ["dbt_build"]
    found = _materialized(result)
    assert "silver/users" in found and "gold/user_avg" not in found
    made.builder.broken = {}
    assert made.materialize(instance).success


def test_a_dbt_test_is_seen_passing_and_failing(
    stand: Callable[..., Any], instance: dg.DagsterInstance, manifest: dict[str, Any]
) -> None:
    made = stand()
    test_id, test = next(
        (unique_id, node)
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] == "test" and node["attached_node"] == "model.fraud_lakehouse.alerts"
    )
    name = f"gold/alerts:{test['name']}"
    assert _checks(made.materialize(instance))[name].passed
    made.builder.broken = {test_id: "fail"}
    result = made.materialize(instance)
    assert not _checks(result)[name].passed
    assert _checks(result)[name].metadata["failing rows"].value == 3
    assert not result.success


def _alerts(*entities: str) -> pl.DataFrame:
    """Alerts of the rule velocity, fired just now."""
    now = datetime.now(UTC)
    alert = {
        "rule": "velocity",
        "severity": "high",
        "entity_type": "user",
        "source": "postgres.transactions",
        "transaction_id": "1",
        "score": 0.9,
        "amount": 950.0,
        "fired_at": now,
        "landed_at": now,
        "source_committed_at": now,
    }
    times = dict.fromkeys(["fired_at", "landed_at", "source_committed_at"], pl.Datetime("us", "UTC"))
    return pl.DataFrame([alert | {"entity_id": entity} for entity in entities], schema_overrides=times)


def test_a_finding_fails_its_check_with_evidence_and_blocks_nothing(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    write_deltalake(f"{made.settings.lake}/gold/alerts", _alerts("7", "7", "8"))
    result = made.materialize(instance)
    assert result.success
    checks = _checks(result)
    velocity = checks["gold/alerts:rule_velocity"]
    assert not velocity.passed and velocity.severity == dg.AssetCheckSeverity.WARN and not velocity.blocking
    assert velocity.metadata["alerts"].value == 3
    assert "user 7" in str(velocity.metadata["top offenders"].value)
    assert checks["gold/alerts:rule_unknown_user"].passed
    assert checks["gold/alerts:anomaly_rate"].passed
    assert checks["gold/alerts:alert_latency"].passed


def test_a_broken_contract_blocks_the_models(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    write_deltalake(f"{made.settings.lake}/bronze/users", pl.DataFrame({"user_id": ["not a number"]}))
    result = made.materialize(instance)
    assert not result.success
    check = _checks(result)["bronze/users:columns"]
    assert not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    assert "user_id" in (check.description or "")
    assert made.builder.asked == []
    assert _checks(result)["bronze/transactions:columns"].passed


def test_counts_and_a_masked_preview_are_in_the_metadata(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    users = pl.DataFrame({"user_id": [1, 2], "email": ["ann@example.org", None], "note": ["a|b", "x" * 200]})
    write_deltalake(f"{made.settings.lake}/silver/users", users)
    metadata = _materialized(made.materialize(instance, asset_selection=[dg.AssetKey(["silver", "users"])]))[
        "silver/users"
    ]
    assert metadata["dagster/row_count"] == 2
    assert "ann@example.org" not in metadata["preview"] and "•••" in metadata["preview"]
    assert "a\\|b" in metadata["preview"] and "x" * 100 not in metadata["preview"]


def test_drain_goes_on_after_a_rival_and_stops_when_there_are_two_writers() -> None:
    class Rivalled:
        def __init__(self, conflicts: int) -> None:
            self.left = conflicts
            self.given = False

        def step(self, max_rows: int) -> list[Any]:
            if self.left:
                self.left -= 1
                raise ConcurrentWriterError("a rival was first")
            self.given, already = True, self.given
            return [] if already else [ingested("users", 2, 0, 5)]

    batches, drained = drain(Rivalled(3).step, 100, 50)
    assert (sum(batch.rows for batch in batches), drained) == (2, True)
    with pytest.raises(ConcurrentWriterError):
        drain(Rivalled(MOST_REFUSALS).step, 100, 50)


def _endless(max_rows: int) -> list[Any]:
    return [ingested("users", 2, 0, 5)]


def test_a_source_that_never_rests_does_not_hold_the_run() -> None:
    batches, caught_up = drain(_endless, 100, 50)
    assert (len(batches), caught_up) == (2, True), "a batch that is not full has caught up"


def test_a_bounded_run_says_that_it_has_not_caught_up() -> None:
    batches, caught_up = drain(_endless, 2, 3)
    assert (len(batches), caught_up) == (3, False)
    assert batches[0].newest_committed_at == AT


def test_upkeep_observes_each_table_before_and_after(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    for number in range(12):
        write_deltalake(f"{made.settings.lake}/silver/users", pl.DataFrame({"user_id": [number]}), mode="append")
    result = made.definitions.resolve_job_def("upkeep").execute_in_process(instance=instance)
    (observed,) = result.get_asset_observation_events()
    metadata = observed.asset_observation_data.asset_observation.metadata
    assert observed.asset_key == dg.AssetKey(["silver", "users"])
    assert (metadata["files before"].value, metadata["files after"].value) == (12, 1)


def test_the_report_schedule_builds_the_report(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    result = made.definitions.resolve_job_def("daily_report").execute_in_process(instance=instance)
    assert result.success
    assert made.builder.asked == [["build and test", "daily_report"]]
