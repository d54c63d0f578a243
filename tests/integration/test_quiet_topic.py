"""A topic with one partition falls quiet: its last window closes and its last vector is told, without a record."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest.idle_partitions import TABLE
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker, card
from tests.integration.test_live_run import Process, until
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(1200)]

WINDOWS = "user_trans_amt_last_360min_windowed"
END = 6 * 3600
WAITS = {"window_idle_seconds": 1.0, "idle_seconds": 1.0, "allowed_lateness": 0.0}


def told(settings: Settings, table: str) -> list[str | int]:
    """Payments with a vector, or the counts of closed windows; sorted."""
    if not Lake.at(settings.lake).exists("gold", table):
        return []
    column = "trans_num" if table == "card_feature_vectors" else "user_trans_count_last_360min"
    return pl.read_delta(f"{settings.lake}/gold/{table}")[column].sort().to_list()


def observations(settings: Settings) -> pl.DataFrame:
    return pl.read_delta(Lake.at(settings.lake).uri(*TABLE)).sort("observed_at")


def test_a_live_process_closes_the_last_window_by_time_and_so_does_the_next(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    settings = kafka.settings(topic, lake=str(tmp_path / "lake"), replica_interval=0.0, **WAITS)
    kafka.publish(topic, [encode(card(END - 30)), encode(card(END - 2))])
    with Process(settings, tmp_path / "first") as live:
        until(lambda: told(settings, WINDOWS) == [2], "the window closes", live)
        until(lambda: len(told(settings, "card_feature_vectors")) == 2, "the last vector is told", live)
        assert observations(settings)["position"].unique().to_list() == [2]
        kafka.publish(topic, [encode(card(2 * END - 2))])
        until(lambda: bronze_rows(settings) == 3, "the next one is landed", live)
    with Process(settings, tmp_path / "second") as live:
        until(lambda: told(settings, WINDOWS) == [1, 2], "its window closes after a restart", live)
        until(lambda: len(told(settings, "card_feature_vectors")) == 3, "its vector is told", live)
    assert bronze_rows(settings) == 3
    assert observations(settings).height < 10, "then it is left alone"


def bronze_rows(settings: Settings) -> int:
    return pl.read_delta(f"{settings.lake}/bronze/card_transactions").height


def test_catch_up_closes_what_is_due(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    settings = kafka.settings(topic, lake=str(tmp_path / "lake"), **WAITS)
    kafka.publish(topic, [encode(card(END - 2))])
    deadline = time.monotonic() + PATIENCE
    while told(settings, WINDOWS) != [1]:
        assert time.monotonic() < deadline
        with Cycle(settings) as cycle:
            cycle.catch_up()
    assert len(told(settings, "card_feature_vectors")) == 1


def test_nothing_is_observed_of_a_broker_that_is_away(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka") as server:
        server.create_topic("t", 1)
        broker = Broker(server.bootstrap)
        settings = broker.settings("t", lake=str(tmp_path / "lake"), **(WAITS | {"idle_seconds": 0.0}))
        lake = Lake.at(settings.lake)
        with KafkaIngest(settings, lake) as ingest:
            broker.publish("t", [encode(card(1))])
            while not ingest.step(100, 0.0):
                pass
            ingest.capture.set_blocking(False)
            server.stop()
            refused = 0
            while not refused:
                try:
                    assert ingest.step(100, 0.0) == []
                except SourceError:
                    refused += 1
                assert not ingest.has_observed
        assert not lake.exists(*TABLE)
