"""Several declared topics of one cluster and of two, in one lake: each by itself, each exactly once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.checks.contracts import check_bronze
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.ingest.quarantine import Quarantine, Selection
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.topic import TopicMissingError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.declared import bank_and_cards
from tests.fixtures_kafka import Broker, card
from tests.patience import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.crash]

WIRES = """
wires:
  type: kafka
  servers_env: WIRES_SERVERS
  topics:
    - topic: wires
      topic_env: WIRES_TOPIC
      table: bank_wires
      fields:
        id: string
        at: timestamptz
        amount: "decimal(12,2)"
        sender: {path: parties.sender.account, type: int64}
        purpose: {path: lines.0.text, type: string, optional: true}
    - {topic: late-topic, topic_env: LATE_TOPIC, table: late_wires, fields: {id: string}}
"""
PROCESS = """
import json, os, sys
from fraud_lakehouse.failpoints import arm_from
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.storage.lake import Lake
settings = load_settings()
topic = next(one for one in declared_topics(settings) if one.name == sys.argv[1])
arm_from(sys.argv[2])
with KafkaIngest(settings, Lake.at(settings.lake), topic) as ingest:
    while ingest.step(40, 0.5):
        pass
"""


def wire(number: int) -> bytes:
    record = {
        "id": f"w{number}",
        "at": f"2024-05-01T12:00:{number % 60:02}.5+02:00",
        "amount": number + 0.5 if number % 2 else f"{number}.50",
        "parties": {"sender": {"account": number, "bank": "B"}},
    }
    return json.dumps(record | ({"lines": [{"text": f"rent {number}"}]} if number % 3 == 0 else {})).encode()


@pytest.fixture(params=["one cluster", "two clusters"])
def other(request: pytest.FixtureRequest, kafka: Broker, tmp_path: Path) -> Iterator[Broker]:
    """The broker of the second source."""
    if request.param == "one cluster":
        yield kafka
        return
    with EmbeddedKafka(tmp_path / "kafka") as server:
        yield Broker(server.bootstrap)


@pytest.fixture
def environment(kafka: Broker, other: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of two sources; the second topic of the second one does not exist."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    for name in ("sources.yml", "streams.yml"):
        text = (bank_and_cards() / name).read_text()
        (folder / name).write_text(text + (WIRES if name == "sources.yml" else ""))
    wires = other.new_topic(1)
    given = {
        "FRAUD_LAKE": str(tmp_path / "lake"),
        "FRAUD_PIPELINE": str(folder),
        "FRAUD_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "FRAUD_KAFKA_TOPIC": kafka.new_topic(2),
        "WIRES_SERVERS": other.bootstrap,
        "WIRES_TOPIC": wires,
        "LATE_TOPIC": f"{wires}-late",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


def killed_at(point: str, unit: str) -> None:
    """Run a process that ingests one topic, and see it killed at the failpoint."""
    command = [sys.executable, "-c", PROCESS, unit, point]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, f"{point} was never reached: {done.stderr}"


def drained(lake: Lake, topic: TopicConfig) -> dict[str, int]:
    """Ingest all there is of a topic; its positions, by partition."""
    with KafkaIngest(Settings(), lake, topic) as ingest:
        while ingest.step(40, 0.5):
            pass
        names = ingest.capture.partitions()
    positions = {name: lake.open("bronze", topic.table).transaction_version(name) for name in names}
    return {name.rpartition(":")[2]: at for name, at in positions.items() if at is not None}


def places(lake: Lake, table: str) -> list[tuple[int, int]]:
    return sorted(pl.read_delta(lake.uri("bronze", table)).select("_partition", "_offset").iter_rows())


def test_each_topic_is_ingested_exactly_once_whatever_happens_to_another(
    kafka: Broker, other: Broker, environment: dict[str, str]
) -> None:
    lake = Lake.at(environment["FRAUD_LAKE"])
    topics = {topic.name: topic for topic in declared_topics(Settings())}
    assert topics.keys() == {"cards", "wires.bank_wires", "wires.late_wires"}
    cards, wires, late = topics.values()
    for partition in range(2):
        kafka.publish(cards.topic, [*(encode(card(number)) for number in range(50)), b"{"], partition)
    numbers = [*range(60), 7, 7]  # a producer that sends again
    other.publish(wires.topic, [*map(wire, numbers), b'{"id":"x"}', None])

    killed_at("bronze.before_commit:2", wires.name)
    assert len(places(lake, wires.table)) == 40, "of the second batch nothing is seen"
    with pytest.raises(TopicMissingError, match="set LATE_TOPIC to one of those"):
        drained(lake, late)
    assert drained(lake, cards) == {"0": 51, "1": 51}
    assert drained(lake, wires) == {"0": 64}
    assert places(lake, cards.table) == [(partition, offset) for partition in range(2) for offset in range(51)]
    assert places(lake, wires.table) == [(0, offset) for offset in range(64)]

    rows = pl.read_delta(lake.uri("bronze", wires.table)).sort("_offset")
    good = rows.filter(pl.col("_error").is_null())
    assert good["id"].to_list() == [f"w{number}" for number in numbers]
    assert good["amount"].to_list() == [Decimal(f"{number}.50") for number in numbers]
    assert good["sender"].to_list() == numbers
    assert good["purpose"].to_list() == [None if number % 3 else f"rent {number}" for number in numbers]
    assert good["at"].dtype == pl.Datetime("us", "UTC") and str(good["at"][5]) == "2024-05-01 10:00:05.500000+00:00"
    assert json.loads(good["_extra"][1]) == {"parties": {"sender": {"bank": "B"}}}
    assert rows["_error"].drop_nulls().to_list() == ["$.at: required field is missing", "no value (a tombstone)"]
    assert [one["offset"] for one in Quarantine(lake, wires).records(Selection())] == [62]

    other.create(late.topic)
    other.publish(late.topic, [b'{"id":"a"}'])
    assert drained(lake, late) == {"0": 1}
    for topic in topics.values():
        assert [one.contract for one in check_bronze(lake, topic.table, topic) if not one.passed] == []
        assert [row.event for row in Audit(lake).rows(topic.name)] == ["registered"]
    batches = Batches(lake).read().group_by("source", "table").agg(pl.col("rows").sum()).sort("source").rows()
    assert batches == [
        ("cards", "card_transactions", 102),
        ("wires.bank_wires", "bank_wires", 64),
        ("wires.late_wires", "late_wires", 1),
    ]
    for topic in topics.values():
        before = places(lake, topic.table)
        drained(lake, topic)
        assert places(lake, topic.table) == before, "nothing is read again"
