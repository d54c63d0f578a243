"""A lake on an S3-compatible store holds what one in a folder holds, also after kills and under two writers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import polars as pl
import psycopg
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from fraud_lakehouse.cli import app
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import arm
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage import object_store
from fraud_lakehouse.storage.lake import LAYERS, Lake, data_files
from fraud_lakehouse.storage.maintenance import maintain
from tests.fixtures_kafka import Broker, card
from tests.integration.test_end_to_end import content, create_bank, lake_rows, operate, source_rows
from tests.soak.product import Product

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.kafka, pytest.mark.object_store]

NOT_COMPARED = {"batches", "audit", "alert_deliveries", "idle_partitions", "time_to_detect"}
"""Tables about the runs themselves, and their moments."""
OF_A_SLOT = {"_lsn", "_committed_at", "valid_from", "valid_to", "source_committed_at"}
OF_A_RUN = {"_ingested_at", "landed_at", "_commit", "_bronze_commit"}
"""Columns that differ between two lakes over one source: each has a snapshot and commits of its own."""


@pytest.fixture
def settings_of(database: str, kafka: Broker, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Settings of a lake over the test's own database and topic, as environment variables without their prefix."""
    topic = kafka.new_topic(2)

    def given(lake: str) -> dict[str, str]:
        name = uuid4().hex[:12]
        return {
            "lake": lake,
            "work": str(tmp_path / f"work-{name}"),
            "postgres_dsn": database,
            "postgres_slot": f"s_{name}",
            "postgres_publication": f"p_{name}",
            "kafka_bootstrap_servers": kafka.bootstrap,
            "kafka_topic": topic,
        }

    return given


def publish(kafka: Broker, settings: Settings, first: int, last: int) -> None:
    """Payments with these numbers, spread over both partitions; every tenth is large."""
    for number in range(first, last):
        payment = card(number, amt=5_000.0 if number % 10 == 9 else 20.0)
        kafka.publish(settings.kafka_topic, [encode(payment)], partition=number % 2)


def assert_same_lakes(one: Settings, other: Settings) -> None:
    """Every table of the one has the rows of the other's."""
    compared = 0
    for layer in LAYERS[1:]:
        names = Lake.at(one.lake).tables(layer)
        assert names == Lake.at(other.lake).tables(layer)
        for name in sorted(set(names) - NOT_COMPARED):
            others = {*OF_A_SLOT, *OF_A_RUN, *({"_seq"} if name == "labels" else ())}  # there a place in the commit
            ours, theirs = (content(settings, layer, name).drop(others, strict=False) for settings in (one, other))
            assert_frame_equal(ours.sort(pl.all()), theirs.sort(pl.all()), check_column_order=False)
            compared += 1
    assert compared > 20


def test_an_object_store_holds_what_a_folder_holds(
    remote_lake: str, settings_of: Callable[..., dict[str, str]], database: str, kafka: Broker, tmp_path: Path
) -> None:
    create_bank(database, users=20, transactions=200)
    remote, local = (load_settings(**settings_of(lake)) for lake in (remote_lake, str(tmp_path / "lake")))
    with Cycle(remote) as there, Cycle(local) as here:
        for number in range(3):
            publish(kafka, remote, 40 * number, 40 * (number + 1))
            operate(database, seed=number, operations=30)
            there.catch_up()
            here.catch_up()
    for table, key in (("users", "user_id"), ("transactions", "transaction_id")):
        assert lake_rows(remote, table, key) == source_rows(database, table, key)
    assert_same_lakes(remote, local)
    maintain(Lake.at(remote.lake))
    for layer in LAYERS:
        for name in Lake.at(remote.lake).tables(layer):
            for file in data_files(Lake.at(remote.lake).open(layer, name)):
                stored = pq.read_schema(file.removeprefix("s3://"), filesystem=object_store._client(file))
                assert not [field for field in stored if "view" in str(field.type)], file


def test_columns_are_added_and_retyped_while_running(
    remote_lake: str, settings_of: Callable[..., dict[str, str]], database: str
) -> None:
    given = settings_of(remote_lake) | {"kafka_bootstrap_servers": ""}
    settings = load_settings(**{name: value for name, value in given.items() if value})
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id int primary key, amount int)")
        connection.execute("insert into payments select i, i from generate_series(1, 5) i")
        with Cycle(settings) as cycle:
            cycle.catch_up()
        connection.execute("alter table payments alter amount type numeric(12, 2), add note text default 'none'")
        connection.execute("insert into payments values (6, 1.25, 'new')")
        with Cycle(settings) as cycle:  # a new process reads the catalog at once
            cycle.catch_up()
    assert lake_rows(settings, "payments", "id") == source_rows(database, "payments", "id")


def test_of_two_writers_the_slower_one_is_refused_and_goes_on(
    remote_lake: str, settings_of: Callable[..., dict[str, str]], kafka: Broker
) -> None:
    settings = load_settings(**settings_of(remote_lake))
    lake = Lake.at(remote_lake)
    publish(kafka, settings, 0, 4)
    with KafkaIngest(settings, lake) as first, KafkaIngest(settings, lake) as second:

        def overtake() -> None:
            assert second.step(100, 5.0)

        assert first.step(100, 5.0)
        publish(kafka, settings, 4, 8)
        arm("kafka.before_read", action=overtake)
        with pytest.raises(ConcurrentWriterError):
            first.step(100, 5.0)
        publish(kafka, settings, 8, 12)
        assert first.step(100, 5.0)
    rows = pl.read_delta(lake.uri("bronze", "card_transactions"))
    assert sorted(rows["trans_num"]) == sorted(card(number).trans_num for number in range(12))


@pytest.mark.crash
@pytest.mark.parametrize(
    "point",
    [
        "bronze.after_commit",
        "model.transactions_ledger.after_commit",
        "model.alerts.before_commit",
    ],
)
def test_what_a_killed_process_began_another_one_finishes(
    remote_lake: str,
    settings_of: Callable[..., dict[str, str]],
    database: str,
    kafka: Broker,
    tmp_path: Path,
    point: str,
) -> None:
    create_bank(database, users=5, transactions=40)
    given, beside = settings_of(remote_lake), settings_of(str(tmp_path / "lake"))
    remote, local = load_settings(**given), load_settings(**beside)
    with Cycle(remote) as there, Cycle(local) as here:
        for cycle in (there, here):
            cycle.catch_up()
    publish(kafka, remote, 0, 40)
    operate(database, seed=1, operations=20)
    environment = {f"FRAUD_{name.upper()}": value for name, value in given.items()}
    with Product("catch-up", environment, tmp_path / "killed.log", failpoint=point) as product:
        assert product.wait_ended() == -signal.SIGKILL, product.output
    publish(kafka, remote, 40, 60)
    with Cycle(remote) as there, Cycle(local) as here:
        for cycle in (there, here):
            cycle.catch_up()
    assert lake_rows(remote, "transactions", "transaction_id") == source_rows(
        database, "transactions", "transaction_id"
    )
    assert_same_lakes(remote, local)


def test_commands_work_on_an_object_store(
    remote_lake: str,
    settings_of: Callable[..., dict[str, str]],
    database: str,
    kafka: Broker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    create_bank(database, users=5, transactions=40)
    given = settings_of(remote_lake)
    for name, value in given.items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", value)
    settings = load_settings(**given)
    publish(kafka, settings, 0, 20)
    with Cycle(settings) as cycle:
        cycle.catch_up()
    before = content(settings, "gold", "card_transaction_features")
    labels = pl.DataFrame({"user_id": [card(0).user_id], "event_time": ["2030-01-01 00:00:00"]})
    labels.write_csv(tmp_path / "labels.csv")
    for arguments in (
        ["rebuild", "card_transaction_features"],
        ["resync"],
        ["features", "as-of", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "features.csv")],
        ["quarantine", "list"],
        ["status"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output}"
    assert "card_transaction_features" in done.output
    assert pl.read_csv(tmp_path / "features.csv").height == 1
    assert maintain(Lake.at(remote_lake))
    assert content(settings, "gold", "card_transaction_features").equals(before)
    assert lake_rows(settings, "transactions", "transaction_id") == source_rows(
        database, "transactions", "transaction_id"
    )
