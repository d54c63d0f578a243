"""`discover` on real servers: from a database or topic that nobody here designed to captured rows."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import conninfo, sql

from fraud_lakehouse import cli
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest import PostgresIngest
from fraud_lakehouse.pipeline import KafkaSource, PostgresSource, load_pipeline
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import Broker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]
RENTALS = """
create table customer (customer_id serial primary key, email text, last_update timestamptz default now());
create table staff (staff_id serial primary key, password text, last_update timestamptz default now());
create table film (film_id serial primary key, replacement_cost numeric(5,2), last_update timestamptz default now());
create table rental (
    rental_id serial primary key, rental_date timestamptz not null, customer_id int references customer);
create table payment (
    payment_id serial primary key, customer_id int not null references customer, staff_id int references staff,
    rental_id int references rental, amount numeric(5,2) not null, payment_date timestamptz not null);
create view spendings as select customer_id, sum(amount) from payment group by 1;
insert into customer (email) select 'a-secret-address' from generate_series(1, 20);
insert into staff (password) values ('a-secret-hash');
insert into rental (rental_date, customer_id) select now(), 1 + i % 20 from generate_series(1, 300) i;
insert into payment (customer_id, staff_id, rental_id, amount, payment_date)
select 1 + i % 20, 1, i, 4.99, now() from generate_series(1, 300) i;
"""
BENCH = """
create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
insert into pgbench_accounts select i, 1, 0 from generate_series(1, 100) i;
insert into pgbench_history select 1 + i % 10, 1, 1 + i % 100, i, now() from generate_series(1, 200) i;
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", "discover", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def source(database: str, monkeypatch: pytest.MonkeyPatch) -> psycopg.Connection:
    monkeypatch.setenv("SHOP_DSN", database)
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def transfer(number: int, chance: random.Random) -> bytes:
    sender, receiver = chance.randrange(30), chance.randrange(30)
    return json.dumps(
        {
            "transaction_id": f"T{number:06}",
            "sender_details": {"id": f"P{sender}", "email": "a-secret-address"},
            "receiver_details": {"id": f"P{receiver}", "email": "a-secret-address"},
            "amount": number / 100,
            "created": 1_700_000_000_000 + number,
        }
    ).encode()


@pytest.mark.postgres_versions
def test_what_is_proposed_for_a_database_is_captured(
    source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(RENTALS)
    source.execute("analyze")
    folder = tmp_path / "pipeline"
    assert run(monkeypatch, "--postgres", "SHOP_DSN", "--folder", str(folder)) == 0
    printed = capfd.readouterr()
    texts = "".join(path.read_text() for path in folder.iterdir() if path.name != "features.yml")
    assert "a-secret" not in texts + printed.out + printed.err
    pipeline = load_pipeline(folder, {})
    [declared], [stream] = pipeline.sources.values(), pipeline.streams.values()
    assert isinstance(declared, PostgresSource)
    assert set(declared.tables) == {"payment", "customer", "rental"}
    assert (stream.from_, stream.id, stream.time, stream.amount) == ("payment", "payment_id", "payment_date", "amount")
    assert list(stream.entities) == ["customer"]  # the only member of staff, and rentals of one payment, are no use
    assert "# - staff # payment.staff_id refers to it; its column password" in texts

    settings = Settings(lake=str(tmp_path / "lake"), pipeline=folder)
    lake = Lake.at(settings.lake)
    config = configured_sources(settings)["shop"]
    assert isinstance(config, PostgresConfig)
    with PostgresIngest(settings, lake, config) as ingest:
        while ingest.step(1_000):
            pass
    assert {name: lake.open("bronze", name).count() for name in declared.tables} == {
        "payment": 300,
        "customer": 20,
        "rental": 300,
    }


def test_a_table_without_a_key_becomes_a_stream_by_the_statement_that_is_proposed(
    source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(BENCH)
    assert run(monkeypatch, "--postgres", "SHOP_DSN") == 0
    line = next(one for one in capfd.readouterr().out.splitlines() if "- pgbench_history" in one)
    statement = line.partition(" -> ")[2].partition(", or ")[0]
    source.execute(statement)
    assert run(monkeypatch, "--postgres", "SHOP_DSN", "--folder", str(tmp_path / "new")) == 0
    [stream] = load_pipeline(tmp_path / "new", {}).streams.values()
    assert (stream.from_, stream.id, stream.amount, stream.time) == ("pgbench_history", "id", "delta", "mtime")
    account = stream.entities["account"]
    assert account.exists_in is not None
    assert (account.key, account.exists_in.table) == (("aid",), "pgbench_accounts")


@pytest.mark.postgres_versions
def test_tables_that_cannot_be_captured_are_listed_with_the_reason(
    source: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(RENTALS)
    source.execute("alter table payment replica identity nothing; create unlogged table notes (id int primary key)")
    source.execute('create schema "s p"; create table "s p"."a.b" (id int primary key, "x y" json)')
    assert run(monkeypatch, "--postgres", "SHOP_DSN") == 0
    printed = capfd.readouterr().out
    assert "# - payment # table public.payment has replica identity NOTHING" in printed
    assert "# - notes # table public.notes is not written to the log (unlogged)" in printed
    assert """- "\\"s p\\".\\"a.b\\"" #""" in printed


def test_a_topic_of_nested_records_is_a_second_source_of_a_folder(
    kafka: Broker, source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(RENTALS)
    topic, folder, chance = kafka.new_topic(2), str(tmp_path), random.Random(7)
    kafka.publish(topic, [transfer(number, chance) for number in range(1, 61)])
    kafka.publish(topic, [transfer(number, chance) for number in range(61, 121)], partition=1)
    assert run(monkeypatch, "--postgres", "SHOP_DSN", "--folder", folder) == 0
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    monkeypatch.setenv("WIRES_SERVERS", kafka.bootstrap)
    assert run(monkeypatch, "--kafka", "WIRES_SERVERS", "--folder", folder, "--sample", "50") == 0
    for name, text in before.items():
        assert (tmp_path / name).read_text().startswith(text.rstrip("\n"))
    pipeline = load_pipeline(tmp_path, {})
    wires = pipeline.sources["wires"]
    assert isinstance(wires, KafkaSource)
    declared = next(one for one in wires.topics if one.topic == topic)
    created = declared.fields["created"]
    assert (created.type, created.unit) == ("timestamptz", "ms")
    assert declared.fields["sender_id"].path == "sender_details.id"
    stream = next(one for one in pipeline.streams.values() if one.from_ == declared.table)
    assert (stream.kind, stream.id, stream.time, stream.amount) == ("events", "transaction_id", "created", "amount")
    assert list(stream.entities) == ["sender", "receiver"]


def test_a_server_that_does_not_answer_stops_no_other(
    source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(RENTALS)
    monkeypatch.setenv("LOST_DSN", "postgresql://someone:a-secret@127.0.0.1:1/nothing")
    code = run(monkeypatch, "--postgres", "LOST_DSN", "--postgres", "SHOP_DSN", "--folder", str(tmp_path))
    assert code == SourceError.exit_code
    printed = capfd.readouterr()
    [error] = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert "127.0.0.1" in error
    assert " -> " in error
    assert "a-secret" not in printed.out + printed.err
    assert list(load_pipeline(tmp_path, {}).streams) == ["shop_payments"]


def test_files_are_replaced_only_by_force(
    source: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(RENTALS)
    (tmp_path / "sources.yml").write_text("mine: {type: postgres, dsn_env: SHOP_DSN, tables: [rental]}\n")
    (tmp_path / "streams.yml").write_text("{}\n")
    arguments = ("--postgres", "SHOP_DSN", "--folder", str(tmp_path))
    assert run(monkeypatch, *arguments) == 0
    assert list(load_pipeline(tmp_path, {}).sources) == ["mine"]
    assert run(monkeypatch, *arguments, "--force") == 0
    assert list(load_pipeline(tmp_path, {}).sources) == ["shop"]


def test_what_keeps_a_role_from_capturing_is_named_with_its_remedy(
    source: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(RENTALS)
    role = f"reader_{uuid4().hex[:8]}"
    source.execute(sql.SQL("create role {} login password 'a-secret'").format(sql.Identifier(role)))
    try:
        source.execute(sql.SQL("grant select on payment, customer to {}").format(sql.Identifier(role)))
        monkeypatch.setenv("SHOP_DSN", conninfo.make_conninfo(database, user=role, password="a-secret"))
        assert run(monkeypatch, "--postgres", "SHOP_DSN") == 0
    finally:
        source.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))
    printed = capfd.readouterr()
    assert f'note: SHOP_DSN: user {role} has no REPLICATION right -> ALTER ROLE "{role}" REPLICATION' in printed.err
    assert f"  # before it can be captured: user {role} has no REPLICATION right" in printed.out
    assert (
        '# - rental # the user may not read table public.rental -> GRANT SELECT ON "public"."rental" TO' in printed.out
    )
    assert "TO the user of SHOP_DSN" in printed.out
    assert "\nshop_payments:\n" in printed.out
    assert "a-secret" not in printed.out + printed.err


def test_a_broker_that_does_not_answer_is_one_line_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOST_SERVERS", "127.0.0.1:1")
    assert run(monkeypatch, "--kafka", "LOST_SERVERS", "--folder", str(tmp_path)) == SourceError.exit_code
    assert list(tmp_path.iterdir()) == []
    printed = capfd.readouterr()
    [error] = printed.err.splitlines()
    assert printed.out == ""
    assert error.startswith("error: no Kafka broker answers at 127.0.0.1:1")
    assert "check LOST_SERVERS" in error
