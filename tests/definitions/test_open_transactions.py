"""A hanging Kafka transaction as people meet it in Dagster: the check on bronze/card_transactions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.kafka.transactions import OpenTransaction
from tests.definitions.stand import AT

KEY = dg.AssetCheckKey(dg.AssetKey(["bronze", "card_transactions"]), "open_transactions")


def opened(seconds: float | None) -> OpenTransaction:
    """A transaction that has been open for so long; None: its records have no time."""
    return OpenTransaction("cards", 3, 10, 25, None if seconds is None else AT - timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "found, passed, severity",
    [
        ([], True, "ERROR"),
        ([opened(59.0), opened(None)], True, "ERROR"),
        ([opened(59.0), opened(60.0)], False, "ERROR"),
        (SourceError("no Kafka broker answers", "start it"), False, "WARN"),
    ],
)
def test_the_check_fails_for_a_transaction_that_hangs(
    stand: Callable[..., Any], instance: dg.DagsterInstance, found: Any, passed: bool, severity: str
) -> None:
    made = stand()
    made.new["transactions"] = found
    assert not made.definitions.resolve_asset_graph().get_check_spec(KEY).blocking
    result = made.materialize(instance, asset_selection=[KEY.asset_key])
    (evaluation,) = [one for one in result.get_asset_check_evaluations() if one.asset_check_key == KEY]
    assert (evaluation.passed, evaluation.severity.value) == (passed, severity)
    if not passed and severity == "ERROR":
        assert evaluation.metadata["waiting"].value == 15
        assert "abort --topic cards --partition 3 --start-offset 10" in str(evaluation.metadata["what to do"].value)


def test_there_is_no_such_check_without_kafka(stand: Callable[..., Any]) -> None:
    checks = stand(kafka_bootstrap_servers=None).definitions.resolve_asset_graph().asset_check_keys
    assert KEY not in checks
