from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.checks.anomaly_rate import RateDrift, evaluate_drift
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import FIRED


def drift(root: Path, hours: list[tuple[int, int]]) -> RateDrift:
    """Evaluate a lake with (alerts, transactions) per hour; the first is the last hour, each 30 minutes in."""
    lake = Lake.at(root)
    rows = [
        {"source": "kafka.transaction", "transaction_id": f"{ago}-{n}", "landed_at": at, "fires": n < alerts}
        for ago, (alerts, transactions) in enumerate(hours)
        for at in [FIRED - timedelta(hours=ago, minutes=30)]
        for n in range(transactions)
    ]
    if rows:
        frame = pl.DataFrame(rows)
        write_deltalake(lake.uri("gold", "card_transaction_features"), frame.drop("fires"))
        write_deltalake(lake.uri("gold", "alerts"), frame.filter("fires").drop("fires"))
    return evaluate_drift(lake, ["card_transaction_features"], now=FIRED)


STEADY = [(10, 1000), (12, 1000), (9, 1000), (11, 1000), (8, 1000)]


@pytest.mark.parametrize(
    "recent, passed",
    [((10, 1000), True), ((18, 1000), True), ((60, 1000), False), ((60, 6000), True), ((0, 5000), False)],
)
def test_drift_is_a_matter_of_rate_and_certainty(tmp_path: Path, recent: tuple[int, int], passed: bool) -> None:
    found = drift(tmp_path, [recent, *STEADY])
    assert found.passed is passed, found.reason
    assert (found.recent_alerts, found.recent_transactions) == recent
    assert (found.baseline_alerts, found.baseline_transactions, found.hours) == (50, 5000, 5)
    assert found.baseline_rate == 0.01
    assert found.expected == pytest.approx(recent[1] * 0.01)


def test_bursts_in_the_past_allow_for_a_burst_now(tmp_path: Path) -> None:
    bursty = [(2, 1000), (70, 1000), (1, 1000), (55, 1000), (3, 1000), (2, 1000)]
    assert drift(tmp_path / "bursty", [(60, 1000), *bursty]).passed
    assert not drift(tmp_path / "steady", [(60, 1000), *STEADY]).passed


def test_alerts_after_none_at_all_are_drift(tmp_path: Path) -> None:
    found = drift(tmp_path, [(20, 1000), *[(0, 1000)] * 5])
    assert not found.passed
    assert found.ratio is None


@pytest.mark.parametrize(
    "hours", [[], [(5, 100)], [(50, 100), (1, 100), (1, 100)], [(3, 10), (0, 10), (0, 10), (0, 10)], [(0, 0), *STEADY]]
)
def test_too_little_data_passes_and_says_so(tmp_path: Path, hours: list[tuple[int, int]]) -> None:
    found = drift(tmp_path, hours)
    assert found.passed
    assert found.reason.startswith("too little data")


def test_evidence_is_json(tmp_path: Path) -> None:
    assert json.loads(json.dumps(drift(tmp_path, [(60, 1000), *STEADY]).evidence()))["recent_rate"] == 0.06


def test_two_rules_on_one_transaction_count_once(tmp_path: Path) -> None:
    drift(tmp_path, [(10, 1000), *STEADY])
    lake = Lake.at(tmp_path)
    pl.read_delta(lake.uri("gold", "alerts")).write_delta(lake.uri("gold", "alerts"), mode="append")
    assert evaluate_drift(lake, ["card_transaction_features"], now=FIRED).recent_alerts == 10
