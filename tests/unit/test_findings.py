from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
from deltalake import write_deltalake

from fraud_lakehouse.checks.findings import evaluate_rule, evaluate_rules
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import FIRED, alert_rows, record_alerts

NOW = FIRED + timedelta(minutes=30)


def test_counts_only_the_rule_and_the_window(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    record_alerts(lake, 0, 10)
    record_alerts(lake, 10, 4, fired_at=NOW - timedelta(hours=1))
    record_alerts(lake, 20, 4, fired_at=NOW + timedelta(seconds=1))
    found = evaluate_rules(lake, ["amount_above_mean", "velocity", "unknown_user"], now=NOW)
    assert {rule: finding.count for rule, finding in found.items()} == {
        "amount_above_mean": 5,
        "velocity": 5,
        "unknown_user": 0,
    }
    assert [finding.passed for finding in found.values()] == [False, False, True]


def test_the_window_is_open_at_its_start_and_closed_at_its_end(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    for number, age in enumerate((timedelta(0), timedelta(hours=1), timedelta(hours=1) - timedelta(microseconds=1))):
        record_alerts(lake, number, 1, rule="velocity", fired_at=NOW - age)
    assert evaluate_rule(lake, "velocity", now=NOW).count == 2


def test_evidence_names_the_top_offenders(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    record_alerts(lake, 0, 3, rule="velocity", entity_id="7", amount=10.5)
    record_alerts(lake, 3, 8, rule="velocity")
    finding = evaluate_rule(lake, "velocity", threshold=5, now=NOW)
    assert (finding.count, finding.threshold, finding.passed, finding.entities) == (11, 5, False, 4)
    first = finding.top_offenders[0]
    assert (first.entity, first.alerts, first.highest_score) == ("user 1", 3, 10.0)
    assert finding.by_severity == {"high": 5, "medium": 6}
    plain = json.loads(json.dumps(finding.evidence()))
    assert {"entity": "user 7", "alerts": 3, "highest_score": 2.0, "amount": 31.5}.items() <= next(
        one for one in plain["top_offenders"] if one["entity"] == "user 7"
    ).items()


def test_streams_are_counted_once_alerts_have_them(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    record_alerts(lake, 0, 3, rule="velocity")
    assert evaluate_rule(lake, "velocity", now=NOW).by_stream == {}
    rows = alert_rows(3, 2, rule="velocity", entity_type="account", entity_id="a/1")
    write_deltalake(
        lake.uri("gold", "alerts"), rows.with_columns(stream=pl.lit("shop")), mode="append", schema_mode="merge"
    )
    finding = evaluate_rule(lake, "velocity", now=NOW)
    assert (finding.count, finding.by_stream) == (5, {"shop": 2})
    assert "account a/1" in [one.entity for one in finding.top_offenders]


def test_threshold_is_the_most_that_passes(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    record_alerts(lake, 0, 3, rule="velocity")
    assert evaluate_rule(lake, "velocity", threshold=3, now=NOW).passed
    assert not evaluate_rule(lake, "velocity", threshold=2, now=NOW).passed


def test_no_lake_means_no_alerts(tmp_path: Path) -> None:
    finding = evaluate_rule(Lake.at(tmp_path / "nothing"), "velocity")
    assert (finding.count, finding.passed, finding.top_offenders) == (0, True, ())
