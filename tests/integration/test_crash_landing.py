"""kill -9 at named failpoints of landing, then a restart: no event lost, none doubled. Real PostgreSQL, real broker.

A process of the product runs until the failpoint kills it; a second one, in the test, lands the rest. What this does
not show is a power loss: for that see the fsync tests in tests/unit/test_lake_appender.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.errors import ConcurrentWriterError
from fraud_lakehouse.failpoints import arm
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker, card
from tests.patience import PATIENCE

pytestmark = pytest.mark.crash

PROCESS = """
import json, sys
from fraud_lakehouse.failpoints import arm_from
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.settings import Settings
source, point, max_rows, given = sys.argv[1:]
settings = Settings(**json.loads(given))
if source == "postgres":
    from fraud_lakehouse.ingest.postgres import PostgresIngest as Ingest
else:
    from fraud_lakehouse.ingest import kafka as ingest_kafka
    from fraud_lakehouse.ingest.kafka import KafkaIngest as Ingest
    ingest_kafka.PIECE_ROWS = min(ingest_kafka.PIECE_ROWS, int(max_rows) // 5)  # a full batch is several pieces
extra = () if source == "postgres" else (0.5,)
arm_from(point)
with Ingest(settings, Lake.at(settings.lake)) as ingest:
    while ingest.step(int(max_rows), *extra):
        pass
"""


def killed_at(source: str, point: str, max_rows: int, given: dict[str, str]) -> None:
    """Run a process of the product and see it killed at the failpoint."""
    command = [sys.executable, "-c", PROCESS, source, point, str(max_rows), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, f"{point} was never reached: {done.stderr}"


def write_log(dsn: str, rounds: int) -> None:
    """Some transactions on both tables: inserts, updates, deletes, one of several rows each."""
    with psycopg.connect(dsn) as connection:
        for number in range(rounds):
            connection.execute("insert into payments (amount) select g from generate_series(1, 5) g")
            connection.execute("update payments set amount = amount + 1 where id = %s", (number + 1,))
            connection.execute("delete from payments where id = (select max(id) from payments)")
            connection.execute("insert into people (name) values (%s)", (f"person {number}",))
            connection.commit()


def replayed(lake: Lake, table: str, columns: list[str]) -> list[tuple[object, ...]]:
    """The current rows that bronze's events add up to."""
    events = pl.read_delta(lake.uri("bronze", table)).sort("_lsn", "_seq")
    newest = events.group_by("id", maintain_order=True).last().filter(pl.col("_op") != "d")
    return sorted(newest.select(columns).rows())


def source_rows(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return sorted(connection.execute(statement).fetchall())  # type: ignore[call-overload]


@pytest.mark.postgres
@pytest.mark.parametrize(
    "point",
    [
        "bronze.after_parquet",  # between Parquet and commit
        "bronze.after_commit",
        "postgres.before_position",
        "postgres.before_acknowledge",  # between commit and acknowledgement
        "postgres.after_acknowledge",
    ],
)
def test_postgres_killed_while_landing_the_log(database: str, tmp_path: Path, point: str) -> None:
    given = {"lake": str(tmp_path / "lake"), "postgres_dsn": database, "postgres_slot": f"s_{uuid4().hex[:12]}"}
    settings = Settings(**given)  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    with psycopg.connect(database) as connection:
        connection.execute("create table payments (id serial primary key, amount numeric(10, 2))")
        connection.execute("create table people (id serial primary key, name text)")
        connection.execute("insert into payments (amount) select g from generate_series(1, 40) g")
    with PostgresIngest(settings, lake) as ingest:
        assert [(item.table, item.rows) for item in ingest.step(1000)] == [("payments", 40)]
    write_log(database, 4)
    killed_at("postgres", point, 20, given)
    write_log(database, 2)
    with PostgresIngest(settings, lake) as ingest:
        while ingest.step(20):
            pass
        lag = ingest.capture.lag()
        assert lag.confirmed_lsn == Batches(lake).position(ingest.capture.app_id)
    for table, columns in (("payments", ["id", "amount"]), ("people", ["id", "name"])):
        events = pl.read_delta(lake.uri("bronze", table))
        assert not events.select("_lsn", "_seq").is_duplicated().any()
        assert replayed(lake, table, columns) == source_rows(database, f"select {', '.join(columns)} from {table}")
    counts = dict(pl.read_delta(lake.uri("bronze", "payments")).group_by("_op").len().iter_rows())
    assert counts == {"r": 40, "c": 30, "u": 6, "d": 6}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "point", ["postgres.in_snapshot:2", "postgres.in_snapshot:9", "postgres.before_snapshot_position"]
)
def test_postgres_killed_in_the_snapshot(database: str, tmp_path: Path, point: str) -> None:
    given = {
        "lake": str(tmp_path / "lake"),
        "postgres_dsn": database,
        "postgres_slot": f"s_{uuid4().hex[:12]}",
        "batch_rows": "10",
    }
    settings = Settings(**given)  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    with psycopg.connect(database) as connection:
        connection.execute("create table payments (id serial primary key, amount numeric(10, 2))")
        connection.execute("create table people (id serial primary key, name text)")
        connection.execute("insert into payments (amount) select g from generate_series(1, 120) g")
    killed_at("postgres", point, 1000, given)
    write_log(database, 2)
    with PostgresIngest(settings, lake) as ingest:
        while ingest.step(1000):
            pass
    events = pl.read_delta(lake.uri("bronze", "payments"))
    assert not events.select("_lsn", "_seq").is_duplicated().any()
    current = source_rows(database, "select id, amount from payments")
    assert replayed(lake, "payments", ["id", "amount"]) == current
    assert set(events["_op"]) == {"r"}
    assert events.height == len(current)


@pytest.mark.postgres
def test_postgres_server_crash_gives_no_row_twice(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> None:
    """An acknowledged position is not crash-safe in PostgreSQL: after an immediate stop the slot goes back."""
    settings = Settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=f"s_{uuid4().hex[:12]}")  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    with psycopg.connect(database) as connection:
        connection.execute("create table payments (id serial primary key, amount numeric(10, 2))")
        connection.execute("create table people (id serial primary key, name text)")
    with PostgresIngest(settings, lake) as ingest:
        ingest.step(1000)
        write_log(database, 3)
        while ingest.step(10):
            pass
        postgres.stop("immediate")
        postgres.start()
        write_log(database, 2)
        while ingest.step(10):
            pass
    events = pl.read_delta(lake.uri("bronze", "payments"))
    assert not events.select("_lsn", "_seq").is_duplicated().any()
    assert replayed(lake, "payments", ["id", "amount"]) == source_rows(database, "select id, amount from payments")
    assert events.height == 5 * 7


@pytest.mark.postgres
def test_a_rival_that_lands_and_acknowledges_meanwhile_is_no_gap(database: str, tmp_path: Path) -> None:
    settings = Settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=f"s_{uuid4().hex[:12]}")  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    with psycopg.connect(database) as connection:
        connection.execute("create table payments (id serial primary key, amount numeric(10, 2))")
        connection.execute("create table people (id serial primary key, name text)")
    with PostgresIngest(settings, lake) as ingest, PostgresIngest(settings, lake) as rival:
        ingest.step(1000)
        write_log(database, 3)

        def overtake() -> None:
            while rival.step(1000):
                pass

        arm("postgres.before_read", action=overtake)
        with pytest.raises(ConcurrentWriterError, match="meanwhile"):
            ingest.step(1000)
        assert ingest.step(1000) == []
        write_log(database, 1)
        while ingest.step(1000):
            pass
    events = pl.read_delta(lake.uri("bronze", "payments"))
    assert not events.select("_lsn", "_seq").is_duplicated().any()
    assert replayed(lake, "payments", ["id", "amount"]) == source_rows(database, "select id, amount from payments")
    assert [row.event for row in Audit(lake).rows("bank")] == ["registered", "snapshot"]


def publish(broker: Broker, topic: str, numbers: range) -> None:
    for partition in range(3):
        mine = [number for number in numbers if number % 3 == partition]
        values = [b"not json" if n % 50 == 49 else encode(card(n, user_id=n)) for n in mine]
        broker.publish(topic, values, partition)


@pytest.mark.kafka
@pytest.mark.parametrize(
    "point",
    [
        "bronze.after_parquet:2",  # between Parquet and commit, of the second batch
        "bronze.after_commit:2",
        "kafka.before_group_commit",  # between commit and acknowledgement
    ],
)
def test_kafka_killed_while_landing(kafka: Broker, tmp_path: Path, point: str) -> None:
    topic = kafka.new_topic(3)
    publish(kafka, topic, range(300))
    given = {
        "lake": str(tmp_path / "lake"),
        "kafka_bootstrap_servers": kafka.bootstrap,
        "kafka_topic": topic,
    }
    settings = Settings(**given)  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    killed_at("kafka", point, 100, given)
    publish(kafka, topic, range(300, 400))
    with KafkaIngest(settings, lake) as ingest:
        while ingest.step(100, 0.5):
            pass
    ingested = pl.read_delta(lake.uri("bronze", "card_transactions"))
    assert ingested.height == 400
    assert not ingested.select("_partition", "_offset").is_duplicated().any()
    good = ingested.filter(pl.col("_error").is_null())
    assert sorted(good["user_id"]) == [number for number in range(400) if number % 50 != 49]
    bad = ingested.filter(pl.col("_error").is_not_null())
    assert bad["_raw"].to_list() == [b"not json"] * 8


@pytest.mark.kafka
@pytest.mark.parametrize("point", ["kafka.after_decode:3", "bronze.after_parquet:3", "bronze.before_commit"])
def test_kafka_killed_between_the_pieces_of_one_batch(kafka: Broker, tmp_path: Path, point: str) -> None:
    topic = kafka.new_topic(1)
    kafka.publish(topic, [encode(card(number, user_id=number)) for number in range(1_000)])
    given = {"lake": str(tmp_path / "lake"), "kafka_bootstrap_servers": kafka.bootstrap, "kafka_topic": topic}
    settings = Settings(**given)  # type: ignore[arg-type]
    lake = Lake.at(settings.lake)
    killed_at("kafka", point, 1_000, given)
    assert list(Path(lake.uri("bronze", "card_transactions")).glob("*.parquet")), "a piece was written"
    assert pl.read_delta(lake.uri("bronze", "card_transactions")).height == 0, "and none is seen"
    with KafkaIngest(settings, lake) as ingest:
        while ingest.step(1_000, 0.5):
            pass
    ingested = pl.read_delta(lake.uri("bronze", "card_transactions"))
    assert sorted(ingested["_offset"]) == list(range(1_000))
