"""Precision and recall from alerts in a real Delta table and a truth that grows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.demo.cards import CardStream, first_checkpoint
from fraud_lakehouse.demo.scoreboard import Scoreboard, describe, percent
from fraud_lakehouse.demo.truth import Anomaly, CardTruth, Generated
from fraud_lakehouse.storage.lake import Lake

SOURCE = "kafka.transaction"
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def alert(number: int, transaction: str, rule: str = "velocity", source: str = SOURCE) -> dict[str, object]:
    return {
        "alert_id": f"a{number}",
        "rule": rule,
        "source": source,
        "transaction_id": transaction,
        "user_id": 1,
        "amount": 2000.0,
        "evidence": "{}",
        "fired_at": at(number),
    }


def record(lake: Lake, *alerts: dict[str, object]) -> None:
    pl.DataFrame(list(alerts)).write_delta(lake.uri("gold", "alerts"), mode="append")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


@pytest.fixture
def truth(tmp_path: Path) -> CardTruth:
    return CardTruth(tmp_path)


def test_no_alert_and_no_truth_has_no_score(lake: Lake, truth: CardTruth) -> None:
    board = Scoreboard(lake, [truth])
    assert board.refresh({}) == []
    assert (board.scores[SOURCE].precision, board.scores[SOURCE].recall) == (None, None)
    assert percent(None) == "-"


def test_counts_per_transaction_and_only_what_is_due(lake: Lake, truth: CardTruth) -> None:
    truth.append(
        [Anomaly("t1", "large", "c1", at(1)), Anomaly("t2", "large", "c2", at(2)), Anomaly("t3", "large", "c2", at(9))]
    )
    record(lake, alert(1, "t1"), alert(2, "t1", "amount_above_mean"), alert(3, "fine"))
    board = Scoreboard(lake, [truth])
    fresh = board.refresh({SOURCE: at(5)})
    score = board.scores[SOURCE]
    assert [each["alert_id"] for each in fresh] == ["a1", "a2", "a3"]
    assert (score.alerts, board.alerts, board.by_rule["velocity"]) == (3, 3, 2)
    assert score.precision == pytest.approx(1 / 2)
    assert score.recall == pytest.approx(1 / 2)  # t3 is not due yet
    assert score.cases == (1, 2)

    record(lake, alert(4, "t3"))
    assert [each["alert_id"] for each in board.refresh({SOURCE: at(9)})] == ["a4"]
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == pytest.approx(2 / 3)
    assert score.cases == (2, 2)
    assert board.refresh({SOURCE: at(9)}) == []


def test_compaction_repeats_no_alert(lake: Lake, truth: CardTruth) -> None:
    board = Scoreboard(lake, [truth])
    record(lake, alert(1, "t1"))
    record(lake, alert(2, "t2"))
    board.refresh({})
    DeltaTable(lake.uri("gold", "alerts")).optimize.compact()
    record(lake, alert(3, "t3"))
    assert [each["alert_id"] for each in board.refresh({})] == ["a3"]
    assert board.alerts == 3


def test_an_anomaly_made_again_after_a_crash_counts_once(lake: Lake, truth: CardTruth) -> None:
    board = Scoreboard(lake, [truth])
    truth.append([Anomaly("t1", "large", "c1", at(1))])
    board.refresh({SOURCE: at(5)})
    truth.append([Anomaly("t1", "large", "c1", at(7))])
    board.refresh({SOURCE: at(9)})
    assert board.scores[SOURCE].due == {"t1"}


def test_description_says_who_how_much_and_why() -> None:
    text = describe({**alert(1, "t1"), "evidence": '{"reason":"too much"}'})
    assert text == 'velocity on kafka.transaction transaction t1 of user 1, amount 2,000.00: {"reason":"too much"}'


def test_truth_is_read_in_whole_lines(truth: CardTruth, tmp_path: Path) -> None:
    assert truth.read_new() == []
    truth.append([Anomaly("t1", "large", "c1", at(1))])
    file = tmp_path / "truth" / "cards.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:10])  # the writer is in the middle of a line
    assert [each.transaction_id for each in truth.read_new()] == ["t1"]
    file.write_bytes(whole + whole.replace(b"t1", b"t2"))
    assert [each.transaction_id for each in truth.read_new()] == ["t2"]
    assert truth.read_new() == []


def test_progress_and_checkpoints_are_kept(truth: CardTruth) -> None:
    assert truth.generated() == Generated(0, None)
    truth.save_progress(Generated(12, at(3)))
    assert truth.generated() == Generated(12, at(3))
    stream = CardStream(7, first_checkpoint(50))
    assert truth.checkpoint_before(5) is None
    truth.add_checkpoint(stream.checkpoint())
    for _ in range(10):
        next(stream)
    later = stream.retime(100)
    truth.add_checkpoint(later)
    assert truth.checkpoint_before(9) == first_checkpoint(50)
    assert truth.checkpoint_before(10) == later
    truth.forget_after(9)
    assert truth.checkpoint_before(10) == first_checkpoint(50)
