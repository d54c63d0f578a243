"""The live run: what it reports, how often, and how it stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.capture_check import newest_evaluation
from fraud_lakehouse.defs.contract_checks import ContractRounds, contracted_tables
from fraud_lakehouse.defs.live_run import LiveReport, Reporter, finish_cycle_first
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import GapError
from fraud_lakehouse.live import CycleResult
from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from tests.definitions.stand import ingested
from tests.fixtures_kafka import CARDS

ALERTS = "model.fraud_lakehouse.alerts"
KEYS = {ALERTS: dg.AssetKey(["gold", "alerts"])}


def _cycle(rows: int) -> CycleResult:
    alerts = NodeResult(ALERTS, "alerts", "model", "success", 0.02, rows=1, version=7)
    quiet = NodeResult("model.fraud_lakehouse.user_avg", "user_avg", "model", "success", 0.02, rows=None)
    build = BuildResult([alerts, quiet], 0.1)
    return CycleResult([ingested("users", rows, 0, rows)], [build], None, {}, {"capture": 0.1, "build": 0.2})


def test_cycles_are_reported_together_at_most_every_so_often() -> None:
    events: list[Any] = []
    lines: list[str] = []
    report = LiveReport(KEYS, 3600.0, events.append, lines.append, lines.append)
    report.add(_cycle(1))  # the first is shown at once
    first = len(events)
    for _ in range(5):
        report.add(_cycle(10))
    assert len(events) == first == 2
    report.flush()
    bronze, alerts = events[2:]
    assert bronze.asset_key == dg.AssetKey(["bronze", "users"]) and bronze.metadata["rows"].value == 50
    assert alerts.asset_key == KEYS[ALERTS]
    assert alerts.metadata["rows"].value == 5 and alerts.metadata["version"].value == 7
    assert "50 rows, 5 alerts in 5 cycles" in lines[-1]
    report.flush()
    assert len(events) == 4, "nothing new, nothing reported"


def test_a_problem_of_a_source_is_in_the_log() -> None:
    lines: list[str] = []
    report = LiveReport(KEYS, 0.0, lambda event: None, lambda line: None, lines.append)
    report.add(replace(CycleResult(), problems={"cards": "no broker answers"}))
    assert lines == ["cards: no broker answers"]


def test_the_log_says_that_the_cycle_is_behind_and_by_how_much() -> None:
    lines: list[str] = []
    report = LiveReport(KEYS, 0.0, lambda event: None, lambda line: None, lines.append, alert_seconds=10.0)
    report.add(replace(CycleResult(), behind={"cards": Behind(42.0, 30_000, 5_000), "bank": Behind(2.0, 9)}))
    assert lines == ["cards is behind: 42.0 s, 30,000 rows, 5,000 more in the source"]


def test_the_log_says_that_a_source_does_not_answer() -> None:
    lines: list[str] = []
    report = LiveReport(KEYS, 0.0, lambda event: None, lambda line: None, lines.append, alert_seconds=10.0)
    report.add(replace(CycleResult(), behind={"bank": Behind(0.0, 0, away_since=datetime(2026, 3, 1, tzinfo=UTC))}))
    assert lines == ["bank is behind: 0.0 s, 0 rows, no answer from it since 2026-03-01 00:00:00 UTC"]


def test_a_model_that_fails_is_not_materialized_and_its_problem_is_in_the_log() -> None:
    events: list[Any] = []
    warnings: list[str] = []
    report = LiveReport(KEYS, 3600.0, events.append, lambda line: None, warnings.append)
    report.flush()
    failed = BuildResult([NodeResult(ALERTS, "alerts", "model", "error", 0.02, message="column amt is missing")], 0.1)
    problems = {"model alerts": "column amt is missing"}
    for _ in range(5):
        report.add(replace(_cycle(0), ingested=[], builds=[failed], problems=problems))
    report.flush()
    assert events == [], "gold/alerts goes stale while it cannot be built"
    assert warnings == ["model alerts: column amt is missing"] * 2, "at the first cycle, and once for four more"
    report.add(_cycle(0))
    report.flush()
    assert [event.asset_key for event in events] == [dg.AssetKey(["bronze", "users"]), KEYS[ALERTS]]
    assert len(warnings) == 2


def test_checks_are_evaluated_while_there_is_news_once_more_after_it_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet, problem = CycleResult(), replace(CycleResult(), problems={"cards": "no broker answers"})
    late = replace(CycleResult(), behind={"bank": Behind(42.0, 9)})
    in_time = replace(CycleResult(), behind={"bank": Behind(0.5, 9)})

    def evaluated(*results: CycleResult) -> list[int]:
        """After which of the cycles, numbered from 0."""
        report = LiveReport({}, 3600.0, lambda event: None, lambda line: None, lambda line: None)
        seen: list[CycleResult] = []
        at: list[int] = []
        monkeypatch.setattr(report, "add", seen.append)
        with Reporter(report, lambda: at.append(len(seen) - 1), 0.0) as reporter:
            for result in results:
                reporter.add(result)
        return at

    assert evaluated(quiet, quiet, in_time) == [0]
    for news in (_cycle(1), problem, late):
        assert evaluated(quiet, quiet, news, news, quiet, quiet, quiet) == [0, 2, 3, 4]
    monkeypatch.setattr("fraud_lakehouse.defs.live_run.QUIET_SECONDS", 0.0)
    assert evaluated(quiet, quiet, quiet) == [0, 1, 2]


def _live(stand: Callable[..., Any], manifest: dict[str, Any], repeat: Any) -> dg.JobDefinition:
    settings = stand(update_delay=0.0).settings
    return build_definitions(settings, parts=Parts(repeat=repeat), manifest=manifest).resolve_job_def("live")


def _config(seconds: float) -> dict[str, Any]:
    return {"ops": {"repeat_cycle": {"config": {"run_seconds": seconds, "report_seconds": 0.0, "check_seconds": 0.0}}}}


def test_the_live_run_repeats_reports_and_ends_by_itself(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    def repeat(
        _settings: Any, stop: Callable[[], bool], is_over: Callable[[], bool], report: Callable[[CycleResult], None]
    ) -> None:
        report(_cycle(2))
        while not (stop() or is_over()):
            report(_cycle(2))
            time.sleep(0.02)

    result = _live(stand, manifest, repeat).execute_in_process(instance=instance, run_config=_config(0.1))
    assert result.success
    events = result.all_events
    materialized = {event.asset_key.to_user_string() for event in events if event.is_step_materialization}
    assert materialized == {"bronze/users", "gold/alerts"}
    checked = {evaluation.check_name for evaluation in result.get_asset_check_evaluations()}
    assert {"rule_velocity", "anomaly_rate", "alert_latency", "cycle_behind"} <= checked


def test_a_live_run_says_which_contract_does_not_hold(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    contracted = contracted_tables(
        ["card_transactions", "transactions", "users"],
        ["users", "payees"],
        {"card_transactions": CARDS},
        {"transactions", "users"},
    )
    assert [table[:2] for table in contracted[-2:]] == [("bronze", "users"), ("silver", "users")], (
        "payees has no columns of its own"
    )
    made = stand(update_delay=0.0)
    write_deltalake(f"{made.settings.lake}/bronze/users", pl.DataFrame({"user_id": ["not a number"]}))
    rounds = ContractRounds(Lake.at(made.settings.lake), contracted)
    found = {(one.asset_key.to_user_string(), one.check_name): one for _ in contracted for one in rounds.evaluations()}
    assert set(found) == {
        *(("bronze/card_transactions", name) for name in ("columns", "positions", "quarantine")),
        *((f"bronze/{table}", name) for table in ("transactions", "users") for name in ("columns", "positions")),
        ("silver/users", "columns"),
    }, "each table once in so many rounds"
    assert [key for key, one in found.items() if not one.passed] == [
        ("bronze/users", "columns"),
        ("bronze/users", "positions"),
    ]
    assert "user_id is string" in str(found["bronze/users", "columns"].description)

    def repeat(_settings: Any, _stop: Any, _is_over: Any, report: Callable[[CycleResult], None]) -> None:
        report(_cycle(2))

    result = _live(stand, manifest, repeat).execute_in_process(instance=instance, run_config=_config(0.0))
    evaluated = {one.asset_check_key for one in result.get_asset_check_evaluations()}
    checks = made.definitions.resolve_asset_graph().asset_check_keys
    assert evaluated <= set(checks) and {"columns"} <= {key.name for key in evaluated}, "one table of those that exist"


def test_a_live_run_that_ends_with_a_gap_says_so_in_the_check(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    def repeat(_settings: Any, _stop: Any, _is_over: Any, report: Callable[[CycleResult], None]) -> None:
        report(_cycle(2))
        gap = GapError("the slot was dropped", "run resync")
        report(replace(CycleResult(), problems={"bank": str(gap)}))
        raise gap

    job = _live(stand, manifest, repeat)
    job.execute_in_process(instance=instance, run_config=_config(5.0), raise_on_error=False)
    found = newest_evaluation(instance, table_key("bronze", "transactions"))
    assert found is not None and found.problem_found is not None
    assert (found.problem_found.problem, found.problem_found.fix) == ("the slot was dropped", "run resync")
    assert newest_evaluation(instance, table_key("bronze", "card_transactions")) is None, "nothing is known of it yet"


def test_a_live_run_that_needs_a_person_fails_with_the_reason(
    stand: Callable[..., Any], manifest: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    def repeat(*_: Any) -> None:
        raise GapError("the slot was dropped", "run accept-source")

    job = _live(stand, manifest, repeat)
    result = job.execute_in_process(instance=instance, run_config=_config(5.0), raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    output = failure.step_failure_data.user_failure_data
    assert output is not None and output.description == "the slot was dropped"


def test_a_request_to_stop_lets_the_cycle_finish_and_is_then_handed_on() -> None:
    finished = []

    def cycle_under_way() -> None:
        with finish_cycle_first() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            finished.append(interrupted.wait(5))

    with pytest.raises(KeyboardInterrupt):
        cycle_under_way()
    assert finished == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
