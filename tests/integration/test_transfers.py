"""Bank transfers through real processes: a validator that fails in every way, and a product that is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition

from fraud_lakehouse.checks.peek import peek
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.transfers import SEED, encode, transfers
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import GROUP
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker
from tests.patience import PATIENCE
from tests.soak.product import Product
from tests.validator_service import Mode, Service, is_fraudulent, judgements, record_transfers, transfer

pytestmark = [
    pytest.mark.usefixtures("shipped_pipeline"),
    pytest.mark.slow,
    pytest.mark.kafka,
    pytest.mark.timeout(1200),
]
TOPIC = "bank-transactions"


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own: the topic's name is that of the shipped pipeline."""
    with EmbeddedKafka(tmp_path / "kafka") as server:
        yield Broker(server.bootstrap)


def until(ready: Callable[[], bool], *products: Product) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        for product in products:
            assert product.running, product.output[-2000:]
        assert time.monotonic() < deadline, [product.output[-2000:] for product in products]
        time.sleep(0.1)


def rows(lake: Lake, table: str) -> list[dict[str, Any]]:
    if not lake.exists("gold", table):
        return []
    return pl.read_delta(lake.uri("gold", table)).to_dicts()


POINTS = ["validator.before_request:3", "validator.after_answer", "silver.before_commit", "silver.after_commit"]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_between_answer_and_commit_judges_nothing_twice(tmp_path: Path, point: str) -> None:
    lake = Lake.at(tmp_path / "lake")
    record_transfers(lake, *(transfer(f"t{number:03}") for number in range(40)))
    with Service() as service:
        given = {"FRAUD_LAKE": lake.root, "FRAUD_VALIDATOR_URL": service.url}
        with Product("validate", given, tmp_path / "killed", failpoint=point) as product:
            product.wait_killed()
        with Product("validate", given, tmp_path / "whole") as product:
            assert product.wait_ended() == 0, product.output
    assert [row["transaction_id"] for row in judgements(lake)] == [f"t{number:03}" for number in range(40)]


def test_nothing_is_lost_or_judged_twice_while_validator_and_product_fail(kafka: Broker, tmp_path: Path) -> None:
    made = list(islice(transfers(SEED), 900))
    lake = Lake.at(tmp_path / "lake")
    service = Service("silent")
    port = service.port
    given = {
        "FRAUD_LAKE": lake.root,
        "FRAUD_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "FRAUD_MAX_FUTURE": "0",
        "FRAUD_REPLICA_INTERVAL": "0",
        "FRAUD_VALIDATOR_URL": service.url,
        "FRAUD_VALIDATOR_TIMEOUT": "0.5",
        "FRAUD_VALIDATOR_CONCURRENCY": "1",  # fewer failures at once, so shorter pauses
    }
    kafka.create(TOPIC)
    product = Product("live", given, tmp_path / "live")
    with service:
        kafka.publish(TOPIC, [encode(one) for one in made[:700]])
        until(lambda: len(service.asked) > 0 and len(rows(lake, "alerts")) > 0, product)
        assert judgements(lake) == [], "alerts do not wait for a validator that is silent"
        modes: tuple[Mode, ...] = ("error", "nonsense")
        for mode in modes:
            asked = len(service.asked)
            service.mode = mode
            until(lambda: len(service.asked) > asked, product)  # noqa: B023
        service.mode = "answer"
        until(lambda: len(judgements(lake)) > 0, product)
    product.kill()
    with Service(port=port), Product("live", given, tmp_path / "again") as product:
        kafka.publish(TOPIC, [encode(one) for one in made[700:]])
        unidentified = sorted(one.transaction_id for one in made if one.record["evaluation"] == "unidentified")
        until(lambda: len(judgements(lake)) >= len(unidentified), product)
        expected = {one.transaction_id: "rule" for one in made if one.record["evaluation"] == "fraudulent"}
        expected |= {name: "validator" for name in unidentified if is_fraudulent(name)}
        until(lambda: len(rows(lake, "fraudulent_transactions_result")) >= len(expected), product)
    assert [row["transaction_id"] for row in judgements(lake)] == unidentified
    results = rows(lake, "fraudulent_transactions_result")
    assert {row["transaction_id"]: row["source_process"] for row in results} == expected
    assert len(results) == len(expected)


def test_a_look_into_a_topic_moves_nothing(kafka: Broker, tmp_path: Path) -> None:
    made = list(islice(transfers(SEED), 60))
    settings = Settings(lake=str(tmp_path / "lake"), kafka_bootstrap_servers=kafka.bootstrap)
    kafka.create(TOPIC, 2)
    for partition in range(2):
        part = made[partition * 25 : partition * 25 + 25]
        kafka.publish(TOPIC, [*(encode(one) for one in part), b"{"], partition)

    (newest,) = peek(settings, "transfers", rows=3, where="amount > 0")
    assert newest.height == 3 and newest["_time"].null_count() == 0
    (unreadable,) = peek(settings, "transfers", where="_error is not null")
    assert sorted(unreadable["_position"]) == ["0/25", "1/25"]
    last = made[49].transaction_id
    (found,) = peek(settings, "transfers", topic=TOPIC, where=f"transaction_id = '{last}'")
    assert found["_position"].to_list() == ["1/24"]

    ended, seen = threading.Event(), list[str]()
    for frame in peek(settings, "transfers", rows=1, where="_error is null", stop=ended.is_set):
        seen += frame["transaction_id"].to_list()
        if len(seen) < 2:
            kafka.publish(TOPIC, [encode(one) for one in made[50:]])
        elif len(seen) >= 11:
            ended.set()
    assert seen[-10:] == [one.transaction_id for one in made[50:]]

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": GROUP})
    try:
        committed = consumer.committed([TopicPartition(TOPIC, partition) for partition in range(2)], PATIENCE)
    finally:
        consumer.close()
    assert {one.offset for one in committed} == {OFFSET_INVALID}
    assert not Path(settings.lake).exists(), "a look writes nothing"
