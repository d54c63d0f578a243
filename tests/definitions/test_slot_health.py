"""The slot's health as people meet it: a check on bronze/transactions, and messages when it gets worse or well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.alerts import DestinationError
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.retention import Retention
from tests.alert_receiver import Receiver

HALF, MOST = Retention(True, 6 * 2**29, "reserved", None, 4 * 2**30), Retention(True, 15 * 2**28, "reserved")


def _tick(made: Any, instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    data = made.sensor("watch_slot").evaluate_tick(context)
    return data.skip_message or "", data.cursor


@pytest.mark.parametrize(
    "found, passed, severity", [(None, True, "WARN"), (HALF, False, "WARN"), (MOST, False, "ERROR")]
)
def test_the_check_shows_the_evidence_and_never_blocks(
    stand: Callable[..., Any],
    instance: dg.DagsterInstance,
    found: Retention | None,
    passed: bool,
    severity: str,
) -> None:
    made = stand()
    if found is not None:
        made.retention.append(found)
    key = dg.AssetCheckKey(dg.AssetKey(["bronze", "transactions"]), "slot_retention")
    assert not made.definitions.resolve_asset_graph().get_check_spec(key).blocking
    captured = [dg.AssetKey(["bronze", table]) for table in ("transactions", "users")]
    result = made.materialize(instance, asset_selection=captured)
    (evaluation,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "slot_retention"]
    assert (evaluation.passed, evaluation.severity.value) == (passed, severity)
    assert evaluation.metadata["retained_bytes"].value == (found.retained_bytes if found else 0)


def test_people_are_told_when_it_gets_worse_and_when_it_is_over_once_each(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        cursor: str | None = None
        for found in (made.retention[0], HALF, HALF, MOST, MOST, made.retention[0], HALF):
            made.retention.append(found)
            output, cursor = _tick(made, instance, cursor)
        assert "GiB of log are retained for the slot" in output
        reported = [(one["level"], one["title"]) for one in receiver.received]
    assert [level for level, _ in reported] == ["warning", "error", "ok", "warning"]
    assert "replication slot fraud_lakehouse is in danger" in reported[1][1]


def test_a_message_that_was_not_taken_is_sent_again(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    with Receiver(status=500) as receiver:
        made = stand(alert_urls=(receiver.url,))
        made.retention.append(MOST)
        with pytest.raises(DestinationError):
            _tick(made, instance, None)
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        made.retention.append(MOST)
        assert _tick(made, instance, None)[1] is not None
        assert len(receiver.received) == 1


def test_a_server_that_is_away_or_not_configured_is_no_alert(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    made.new["slot"] = SourceError("the server is down", "start it")
    assert _tick(made, instance, None) == ("Cannot read the slot of bank: the server is down. start it", None)
    assert "No PostgreSQL source is configured" in _tick(stand(postgres_dsn=None), instance, None)[0]


def test_a_slot_that_was_given_up_is_not_well_again_when_it_is_dropped(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        cursor: str | None = None
        for found in (Retention(True, None, "lost"), Retention(False), made.retention[0]):
            made.retention.append(found)
            output, cursor = _tick(made, instance, cursor)
        titles = [one["title"] for one in receiver.received]
    assert titles == [
        "[pipeline] replication slot fraud_lakehouse is lost",
        "[pipeline] replication slot fraud_lakehouse is healthy again",
    ]
    assert output == "The slot of bank is ok."
