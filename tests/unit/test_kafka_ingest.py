"""Landing of Kafka against a model of it: whatever is interrupted, bronze holds each record exactly once."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse import failpoints
from fraud_lakehouse.checks.contracts import check_positions
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError, SourceError
from fraud_lakehouse.ingest import bronze
from fraud_lakehouse.ingest import kafka as ingest_kafka
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.kafka import KafkaIngest, accept_kafka
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.topic import RetentionGapError, TopicRecreatedError
from fraud_lakehouse.storage import audit
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.drained import drain
from tests.interruption import Crash, crash
from tests.unit.model_kafka import ModelKafka, ModelTopic

SETTINGS = Settings(lake="unused", kafka_bootstrap_servers="broker:9092")
KAFKA_POINTS = ["bronze.after_parquet", "bronze.after_commit", "kafka.before_group_commit", "control.after_parquet"]


class Yesterday:
    """Stands in for `datetime` where rows are stamped: a clock that went back by a day."""

    @staticmethod
    def now(_zone: object) -> datetime:
        return datetime.now(UTC) - timedelta(days=1)


def kafka(folder: Path | str, model: ModelTopic) -> KafkaIngest:
    return KafkaIngest(SETTINGS, Lake.at(folder), capture=ModelKafka(model))  # type: ignore[arg-type]


def landed_cards(lake: Lake) -> list[int]:
    return pl.read_delta(lake.uri("bronze", "card_transactions"))["user_id"].sort().to_list()


kafka_actions = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.integers(0, 2), min_size=1, max_size=6)),
    st.tuples(st.just("step"), st.integers(1, 5)),
    st.tuples(st.just("crash"), st.tuples(st.sampled_from(KAFKA_POINTS), st.integers(1, 2))),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(kafka_actions, max_size=14), partitions=st.sampled_from([1, 3]))
def test_kafka_records_land_exactly_once_through_any_crash(actions: list[tuple[str, Any]], partitions: int) -> None:
    numbers = iter(range(1_000_000))
    model = ModelTopic(partitions)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_kafka, "PIECE_ROWS", 2)
        ingest = kafka(folder, model)
        for action, value in actions:
            if action == "publish":
                for partition in value:
                    model.publish(partition % partitions, next(numbers))
            else:
                if action == "crash":
                    failpoints.arm(*value, action=crash)
                try:
                    ingest.step(value if action == "step" else 3, 0)
                except Crash:
                    ingest = kafka(folder, model)
                failpoints.disarm()
        drain(ingest, 3, 0)
        assert landed_cards(Lake.at(folder)) == sorted(v for values in model.records.values() for v in values)


def test_kafka_batches_are_one_commit_for_all_partitions(tmp_path: Path) -> None:
    model = ModelTopic()
    for value in range(6):
        model.publish(value % 2, value)
    ingest = kafka(tmp_path, model)
    (item,) = ingest.step(100, 0)
    assert (item.rows, item.from_position, item.to_position, item.version) == (6, 0, 6, 1)
    assert ingest.capture.group == {"kafka:C1:T1:0": 3, "kafka:C1:T1:1": 3}
    batches = Batches(ingest.lake).read()
    assert batches.sort("app_id").select("app_id", "from_position", "to_position", "rows").rows() == [
        ("kafka:C1:T1:0", 0, 3, 3),
        ("kafka:C1:T1:1", 0, 3, 3),
    ]
    assert ingest.step(100, 0) == []


def backlog(monkeypatch: pytest.MonkeyPatch, folder: Path, rows: int) -> KafkaIngest:
    """A landing of one partition with so many records, read in pieces of three."""
    monkeypatch.setattr(ingest_kafka, "PIECE_ROWS", 3)
    model = ModelTopic(partitions=1)
    for value in range(rows):
        model.publish(0, value)
    return kafka(folder, model)


def data_files(folder: Path) -> int:
    return len(list((folder / "bronze" / "card_transactions").glob("*.parquet")))


def test_a_backlog_is_written_in_pieces_and_committed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ingest = backlog(monkeypatch, tmp_path, 12)
    (item,) = ingest.step(8, 0)
    assert (item.rows, item.from_position, item.to_position, item.version) == (8, 0, 8, 1)
    assert data_files(tmp_path) == 3
    (item,) = ingest.step(8, 0)
    assert (item.rows, item.from_position, item.to_position, item.version) == (4, 8, 12, 2)
    assert landed_cards(ingest.lake) == list(range(12))
    batches = Batches(ingest.lake).read().select("from_position", "to_position", "rows").sort("from_position")
    assert batches.rows() == [(0, 8, 8), (8, 12, 4)]


def test_what_was_read_before_the_source_failed_is_landed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ingest = backlog(monkeypatch, tmp_path, 10)
    read = ingest.capture.read

    def read_until_it_fails(positions: Any, *arguments: Any, **options: Any) -> Any:
        if positions["kafka:C1:T1:0"] == 6:
            raise SourceError("the broker is away", "wait")
        return read(positions, *arguments, **options)

    ingest.capture.read = read_until_it_fails  # type: ignore[method-assign]
    (item,) = ingest.step(100, 0)
    assert (item.rows, item.to_position) == (6, 6)
    with pytest.raises(SourceError, match="away"):
        ingest.step(100, 0)
    ingest.capture.read = read  # type: ignore[method-assign]
    drain(ingest, 100, 0)
    assert landed_cards(ingest.lake) == list(range(10))


def test_a_piece_that_cannot_be_written_leaves_none_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ingest = backlog(monkeypatch, tmp_path, 10)
    failpoints.arm("bronze.before_parquet", 3, failpoints.ACTIONS["enospc"])
    with pytest.raises(LakeError, match="space"):
        ingest.step(100, 0)
    assert data_files(tmp_path) == 0
    (item,) = ingest.step(100, 0)
    assert (item.rows, item.version) == (10, 1)


def test_a_batch_of_large_records_ends_at_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ingest = backlog(monkeypatch, tmp_path, 10)
    monkeypatch.setattr(ingest_kafka, "BATCH_BYTES", 1)
    assert [item.rows for _ in range(4) for item in ingest.step(100, 0)] == [3, 3, 3, 1]


def test_a_recreated_topic_fails_closed_until_accepted(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    fresh = ModelTopic(topic_id="T2")
    fresh.publish(0, 2)
    for again in (kafka(tmp_path, fresh), kafka(tmp_path, fresh)):
        with pytest.raises(TopicRecreatedError, match="accept-source kafka"):
            again.step(10, 0)
    assert landed_cards(ingest.lake) == [1]
    assert accept_kafka(SETTINGS, ingest.lake, capture=ModelKafka(fresh)) == "kafka:C1:T2"  # type: ignore[arg-type]
    drain(kafka(tmp_path, fresh), 10, 0)
    assert landed_cards(ingest.lake) == [1, 2]
    assert [row.event for row in Audit(ingest.lake).rows("cards")] == [
        "registered",
        "topic_recreated",
        "accepted",
        "resumed",
    ]


def test_an_acceptance_counts_though_the_clock_went_back_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock the registration of the topic of before, and its records, are the newer ones."""
    old, fresh = ModelTopic(), ModelTopic(topic_id="T2")
    old.publish(0, 1)
    drain(kafka(tmp_path, old), 10, 0)
    fresh.publish(0, 2)
    monkeypatch.setattr(audit, "datetime", Yesterday)
    monkeypatch.setattr(bronze, "datetime", Yesterday)
    with pytest.raises(TopicRecreatedError):
        kafka(tmp_path, fresh).step(10, 0)
    accept_kafka(SETTINGS, Lake.at(tmp_path), capture=ModelKafka(fresh))  # type: ignore[arg-type]
    ingest = kafka(tmp_path, fresh)
    drain(ingest, 10, 0)
    assert landed_cards(ingest.lake) == [1, 2]
    assert check_positions(ingest.lake, "card_transactions").passed
    assert [row.event for row in Audit(ingest.lake).rows("cards")][-2:] == ["accepted", "resumed"]


def test_two_processes_record_at_once(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    one, two = Audit(lake), Audit(lake)
    for number in range(3):
        one.record("cards", f"one {number}", {})
        two.record("cards", f"two {number}", {})
    events = [f"{name} {number}" for number in range(3) for name in ("one", "two")]
    assert [row.event for row in Audit(lake).rows("cards")] == events == [row.event for row in one.rows("cards")]


def test_a_topic_recreated_under_a_running_process_is_seen(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    model.topic_id = "T2"
    with pytest.raises(TopicRecreatedError):
        ingest.step(10, 0)
    assert landed_cards(ingest.lake) == [1]


def test_a_retention_gap_fails_closed_until_accepted(tmp_path: Path) -> None:
    model = ModelTopic(partitions=1)
    for value in range(3):
        model.publish(0, value)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    for value in range(3, 9):
        model.publish(0, value)
    model.start[0] = 6
    for _ in range(2):
        with pytest.raises(RetentionGapError):
            ingest.step(10, 0)
    accept_kafka(SETTINGS, ingest.lake, capture=ModelKafka(model))  # type: ignore[arg-type]
    drain(ingest, 10, 0)
    assert landed_cards(ingest.lake) == [0, 1, 2, 6, 7, 8]
    rows = Audit(ingest.lake).rows("cards")
    assert [row.event for row in rows] == ["registered", "retention_gap", "accepted", "resumed"]
    assert rows[2].detail["moved"] == {"kafka:C1:T1:0": [3, 6]}
    assert json.dumps(rows[1].detail["problem"])


def test_two_kafka_processes_land_each_record_once(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    one, two = kafka(tmp_path, model), kafka(tmp_path, model)
    drain(one, 10, 0)
    drain(two, 10, 0)
    model.publish(1, 2)
    read = two.capture.read

    def read_while_the_other_lands(*arguments: Any, **options: Any) -> Any:
        batch = read(*arguments, **options)
        one.step(10, 0)
        return batch

    two.capture.read = read_while_the_other_lands  # type: ignore[method-assign]
    with pytest.raises(ConcurrentWriterError):
        two.step(10, 0)
    two.capture.read = read  # type: ignore[method-assign]
    drain(two, 10, 0)
    assert landed_cards(one.lake) == [1, 2]
