"""Every failpoint of the product is one that the soak can arm, or that a test of its own arms."""

from __future__ import annotations

from pathlib import Path

from fraud_lakehouse.failpoints import POINTS
from tests.soak import landing_faults, live_faults

TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    "log.before_clean": "unit/test_lake_housekeeping.py",  # needs more commits than a soak makes
    "log.after_clean": "unit/test_lake_housekeeping.py",
    "quarantine.before_append": "unit/test_quarantine.py",  # a command of an operator
    "publish.before_produce": "integration/test_publish.py",  # needs Apache Kafka
    "publish.before_position": "integration/test_publish.py",
    "publish.before_commit": "integration/test_publish.py",
    "publish.after_commit": "integration/test_publish.py",
    "validator.before_request": "integration/test_transfers.py",  # needs a validator
    "validator.after_answer": "integration/test_transfers.py",
}
"""Failpoints that no soak comes by, and where each is armed."""


def written_out(point: str) -> list[str]:
    """The names that a pattern stands for."""
    layers = [point.replace("{layer}", layer) for layer in ("bronze", "control", "gold")]
    tables = live_faults.stored_tables()
    return sorted({name.replace("{model}", table) for name in layers for table in tables})


def test_every_failpoint_can_be_armed_in_a_soak_or_has_a_test_of_its_own() -> None:
    faults = [*landing_faults.SNAPSHOT, *landing_faults.LOG, *landing_faults.APACHE]
    lives = [*live_faults.KILLS, *live_faults.MORE_KILLS, *live_faults.model_kills()]
    armed = {fault.point for fault in faults} | {fault.point for fault in lives}
    missing = {name for point in POINTS for name in written_out(point)} - armed
    assert missing == set(ELSEWHERE)
    for point, test in ELSEWHERE.items():
        assert point.partition(".")[2] in (TESTS / test).read_text(), f"{test} does not arm {point}"


def test_every_model_that_stores_a_table_is_among_them() -> None:
    assert {"card_feature_vectors", "daily_report", "transfers_history", "alerts"} < live_faults.stored_tables().keys()
    spine = "user_trans_amt_last_360min_windowed_spine"
    assert spine not in live_faults.stored_tables(), "a view has no commit"
