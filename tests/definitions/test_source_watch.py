"""A source that is not captured: the check that shows it, and what people are told of it, once each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.defs.alerts import DestinationError
from fraud_lakehouse.defs.capture_check import (
    ASKED_SECONDS,
    CHECK,
    REPEAT_SECONDS,
    CaptureProblem,
    Evaluated,
    LiveCaptureChecks,
    capture_evaluation,
    newest_evaluation,
    report_poll,
)
from fraud_lakehouse.defs.positions import NewData
from fraud_lakehouse.defs.source_watch import LASTING_SECONDS, next_state
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import Receiver
from tests.definitions.stand import ingested

BANK, CARDS = table_key("bronze", "transactions"), table_key("bronze", "card_transactions")
GAP = GapError("the slot was dropped", "run `fraud-lakehouse resync`")
AWAY = SourceError("no answer from db:5432", "check that it runs")


def _tick(made: Any, instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    data = made.sensor("watch_sources").evaluate_tick(dg.build_sensor_context(instance=instance, cursor=cursor))
    return data.skip_message or "", data.cursor


def _poll(made: Any, instance: dg.DagsterInstance, found: NewData | Exception | None) -> None:
    """A tick of the sensor that looks for new data in PostgreSQL."""
    made.new["bank"] = found
    sensor = made.sensor("new_data_bank")
    if isinstance(found, GapError):
        with pytest.raises(GapError):
            sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    else:
        sensor.evaluate_tick(dg.build_sensor_context(instance=instance))


def test_a_gap_that_a_tick_finds_is_told_at_once_and_when_it_is_over(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    with Receiver() as receiver:
        made = stand(alert_urls=(receiver.url,), kafka_bootstrap_servers=None)
        cursor: str | None = None
        for found in (None, GAP, GAP, None, NewData("bank", "0/1-0/2")):
            _poll(made, instance, found)
            said, cursor = _tick(made, instance, cursor)
        stopped, well = receiver.received
    assert stopped["title"] == "[pipeline] capture of bank has stopped and needs a person"
    assert (stopped["problem"], stopped["what_to_do"]) == (GAP.problem, GAP.fix)
    assert well["title"] == "[pipeline] bank is captured again"
    assert said == "bank: captured"


def test_a_gap_is_over_when_capture_has_resumed_not_when_a_look_sees_none(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    lake = Lake.at(stand().settings.lake)
    audit = Audit(lake)
    with pytest.raises(GapError), audit.gaps("cards"):
        raise GapError("records 5 to 9 are gone", "run accept-source")
    report_poll(instance, lake, "cards", CARDS, CaptureProblem.of(GAP))
    report_poll(instance, lake, "cards", CARDS, None)
    found = newest_evaluation(instance, CARDS)
    assert found is not None and found.problem_found is not None and found.problem_found.is_gap
    audit.resumed("cards")
    report_poll(instance, lake, "cards", CARDS, None)
    found = newest_evaluation(instance, CARDS)
    assert found is not None and found.problem_found is None


def test_a_gap_is_one_row_of_the_audit_though_its_words_change(stand: Callable[..., Any]) -> None:
    audit = Audit(Lake.at(stand().settings.lake))
    for end in ("0/10", "0/20"):
        with pytest.raises(GapError), audit.gaps("bank"):
            raise GapError(f"those up to {end} are not in the log any more")
    audit.resumed("bank")
    with pytest.raises(GapError), audit.gaps("bank"):
        raise GapError("again")
    assert [row.event for row in audit.rows("bank")] == ["gap", "resumed", "gap"]


def test_a_source_that_is_away_is_told_when_it_lasts() -> None:
    away = CaptureProblem.of(AWAY)
    state = {"level": "well", "since": None, "number": 0}
    seen = []
    for at, problem_found in [
        (0.0, None),
        (10.0, away),
        (20.0, None),  # a restart of its server
        (30.0, away),
        (29.0 + LASTING_SECONDS, away),
        (30.0 + LASTING_SECONDS, away),
        (90.0 + LASTING_SECONDS, away),
        (99.0 + LASTING_SECONDS, CaptureProblem.of(GAP)),
        (120.0 + LASTING_SECONDS, away),
        (150.0 + LASTING_SECONDS, None),
    ]:
        state = next_state(state, Evaluated(at, problem_found))
        seen.append((state["level"], state["number"]))
    assert seen == [
        *[("well", 0)] * 5,
        *[("away", 1)] * 2,
        *[("stopped", 2)] * 2,
        ("well", 3),
    ]


def test_a_message_that_was_not_taken_is_sent_again(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(capture_evaluation(CARDS, CaptureProblem.of(GAP)))
    with Receiver(status=500) as receiver, pytest.raises(DestinationError):
        _tick(stand(alert_urls=(receiver.url,)), instance, None)
    with Receiver() as receiver:
        cursor = _tick(stand(alert_urls=(receiver.url,)), instance, None)[1]
        assert cursor is not None and json.loads(cursor)["cards"]["level"] == "stopped"
        assert [one["source"] for one in receiver.received] == ["cards"]


def test_without_destinations_or_captures_nothing_is_sent(
    stand: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    made = stand()
    assert _tick(made, instance, None)[0] == "Nothing has been captured yet."
    _poll(made, instance, AWAY)
    assert _tick(made, instance, None)[0] == "bank: no answer from db:5432"


def test_trouble_that_lasts_is_an_evaluation_a_minute_not_one_a_tick(
    stand: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(stand().settings.lake)

    def evaluations() -> int:
        return len(
            instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(BANK, CHECK), limit=50)
        )

    for _ in range(3):
        report_poll(instance, lake, "bank", BANK, CaptureProblem.of(AWAY))
    assert evaluations() == 1
    monkeypatch.setattr("fraud_lakehouse.defs.capture_check.REPEAT_SECONDS", 0.0)
    report_poll(instance, lake, "bank", BANK, CaptureProblem.of(AWAY))
    assert evaluations() == 2
    for _ in range(3):
        report_poll(instance, lake, "bank", BANK, None)
    assert evaluations() == 3, "that all is well is said once"


def test_a_run_that_captures_evaluates_the_check(stand: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    made = stand()

    def problems_found() -> list[CaptureProblem | None]:
        found = [newest_evaluation(instance, asset) for asset in (BANK, CARDS)]
        return [one.problem_found for one in found if one is not None]

    made.ingests["bank"].steps = [[ingested("users", 3, 10, 20)]]
    made.ingests["cards"].steps = [GAP]
    assert not made.materialize(instance).success
    assert problems_found() == [None, CaptureProblem.of(GAP)]
    made.ingests["cards"].steps = [AWAY]
    assert not made.materialize(instance).success
    assert problems_found() == [None, CaptureProblem.of(AWAY)]
    assert made.materialize(instance).success
    assert problems_found() == [None, None], "the next run continues"
    assert not made.definitions.resolve_asset_graph().get_check_spec(dg.AssetCheckKey(CARDS, CHECK)).blocking


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_live_run_says_of_each_source_when_trouble_comes_and_goes(stand: Callable[..., Any]) -> None:
    clock, lake = Clock(), Lake.at(stand().settings.lake)
    checks = LiveCaptureChecks(lake, {"bank": BANK, "cards": CARDS}, clock)

    def said(problems: dict[str, str]) -> dict[str, tuple[bool, str | None]]:
        sources = {BANK: "bank", CARDS: "cards"}
        return {sources[one.asset_key]: (one.passed, one.description) for one in checks.evaluations(problems)}

    away = {"bank": "no answer from db:5432\n  -> check that it runs", "models": "others' trouble"}
    assert said({}) == {}, "it may not have been asked yet"
    assert said(away) == {"bank": (False, "no answer from db:5432")}
    assert said(away) == {}
    clock.now += ASKED_SECONDS
    assert said(away) == {"cards": (True, None)}, "one source with trouble beside a healthy one"
    clock.now += REPEAT_SECONDS
    assert said(away) == {"bank": (False, "no answer from db:5432"), "cards": (True, None)}
    assert said({}) == {"bank": (True, None)}


def test_a_live_run_tells_a_gap_from_a_source_that_is_away(stand: Callable[..., Any]) -> None:
    lake = Lake.at(stand().settings.lake)
    with pytest.raises(GapError), Audit(lake).gaps("bank"):
        raise GAP
    (found,) = LiveCaptureChecks(lake, {"bank": BANK}).evaluations({"bank": str(GAP)})
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["what to do"].value == GAP.fix
