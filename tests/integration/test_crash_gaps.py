"""Sources that lost rows or became another one: capture stops, says so once in control/audit, resumes when accepted."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.ingest import KafkaIngest, PostgresIngest, accept, resync
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.topic import TopicRecreatedError
from fraud_lakehouse.sources.postgres.errors import SlotAheadError, SlotLostError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker, card


def postgres_settings(tmp_path: Path, database: str) -> Settings:
    return Settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=f"s_{uuid4().hex[:12]}")  # type: ignore[arg-type]


def land(settings: Settings) -> None:
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        while ingest.step(1000):
            pass


def bronze_ids(settings: Settings, table: str) -> list[int]:
    return pl.read_delta(Lake.at(settings.lake).uri("bronze", table))["id"].sort().to_list()


@pytest.mark.postgres
@pytest.mark.parametrize("cause", [SlotLostError, SlotAheadError])
def test_a_slot_that_lost_changes(database: str, tmp_path: Path, cause: type[Exception]) -> None:
    settings = postgres_settings(tmp_path, database)
    lake = Lake.at(settings.lake)
    slot = settings.postgres_slot
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key)")
        connection.execute("insert into payments default values")
        land(settings)
        connection.execute("insert into payments default values")
        if cause is SlotLostError:
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        else:
            connection.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        for _ in range(2):
            with pytest.raises(cause, match="fraud-lakehouse resync"):
                land(settings)
        assert bronze_ids(settings, "payments") == [1]
        resync(settings, lake, [])
        connection.execute("insert into payments default values")
        land(settings)
    assert bronze_ids(settings, "payments") == [1, 2, 3]
    event = "slot_lost" if cause is SlotLostError else "slot_ahead"
    assert [row.event for row in Audit(lake).rows("bank")] == [
        "registered",
        "snapshot",
        event,
        "resync_started",
        "resync",
    ]


@pytest.mark.postgres
def test_tables_created_and_columns_added_while_running(database: str, tmp_path: Path) -> None:
    settings = postgres_settings(tmp_path, database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id serial primary key)")
        connection.execute("insert into payments default values")
        land(settings)
        connection.execute("create table people (id serial primary key)")
        connection.execute("insert into people default values")
        land(settings)
        connection.execute("insert into people default values")
        connection.execute("alter table payments add column note text")
        connection.execute("insert into payments (note) values ('new')")
        land(settings)
    assert bronze_ids(settings, "people") == [1, 2]
    payments = pl.read_delta(Lake.at(settings.lake).uri("bronze", "payments")).sort("id")
    assert payments["note"].to_list() == [None, "new"]


@pytest.mark.kafka
def test_a_topic_created_anew(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic(1)
    settings = kafka.settings(topic, lake=str(tmp_path / "lake"))
    lake = Lake.at(settings.lake)

    def land_cards() -> list[int]:
        with KafkaIngest(settings, lake) as ingest:
            while ingest.step(1000, 0.2):
                pass
        return pl.read_delta(lake.uri("bronze", "card_transactions"))["user_id"].to_list()

    kafka.publish(topic, [encode(card(0, user_id=1)), encode(card(1, user_id=2))])
    assert land_cards() == [1, 2]
    kafka.delete(topic)
    kafka.create(topic)
    kafka.publish(topic, [encode(card(2, user_id=3))])
    for _ in range(2):
        with pytest.raises(TopicRecreatedError, match="accept-source cards"):
            land_cards()
    accept(settings, lake, "kafka")
    assert sorted(land_cards()) == [1, 2, 3]
    assert [row.event for row in Audit(lake).rows("cards")] == [
        "registered",
        "topic_recreated",
        "accepted",
        "resumed",
    ]
