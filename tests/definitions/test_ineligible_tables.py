"""Tables that are not captured: a check on bronze/transactions, and a message when one is left out or back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
from tests.alert_receiver import Receiver

KEYLESS = IneligibleTable("public.tmp", "table public.tmp has no primary key", "ALTER TABLE public.tmp ADD PRIMARY KEY")
HUGE = IneligibleTable("public.notes", "note of table public.notes has 300 bytes", "raise FRAUD_MAX_FIELD_BYTES")


def _tick(made: Any, instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    data = made.sensor("watch_tables").evaluate_tick(context)
    return data.skip_message or "", data.cursor


def test_the_check_names_the_table_the_reason_and_the_remedy(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    key = dg.AssetCheckKey(dg.AssetKey(["bronze", "transactions"]), "tables_captured")
    assert not made.definitions.resolve_asset_graph().get_check_spec(key).blocking
    captured = [dg.AssetKey(["bronze", table]) for table in ("transactions", "users")]
    for found, passed in (([], True), ([KEYLESS, HUGE], False)):
        made.ineligible[:] = found
        result = made.materialize(instance, asset_selection=captured)
        (evaluation,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "tables_captured"]
        assert (evaluation.passed, evaluation.metadata["tables"].value) == (passed, len(found))
        for one in found:
            assert f"{one.table}: {one.problem}. What to do: {one.fix}" in evaluation.metadata["not captured"].value


def test_people_get_one_message_for_each_change(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,))
        cursor: str | None = None
        for found in ([], [KEYLESS], [KEYLESS], [HUGE, KEYLESS], [HUGE], []):
            made.ineligible[:] = found
            output, cursor = _tick(made, instance, cursor)
        assert output == "Every table of bank is captured."
        titles = [one["title"] for one in receiver.received]
        again = [one["captured_again"] for one in receiver.received]
    assert titles == [
        "[pipeline] not captured: public.tmp",
        "[pipeline] not captured: public.notes, public.tmp",
        "[pipeline] not captured: public.notes",
        "[pipeline] every table of bank is captured",
    ]
    assert again == [[], [], ["public.tmp"], ["public.notes"]]


def test_a_server_that_does_not_answer_is_no_message(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()
    made.new["tables"] = SourceError("the server is down", "start it")
    expected = "Cannot read which tables of bank are captured: the server is down. start it"
    assert _tick(made, instance, None) == (expected, None)
    assert "No PostgreSQL source is configured" in _tick(stand(postgres_dsn=None), instance, None)[0]
