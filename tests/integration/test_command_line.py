"""`fraud-lakehouse` as a person calls it: what it prints, its exit codes, and its message for each wrong input."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psycopg
import pytest

from fraud_lakehouse import cli
from fraud_lakehouse.demo.card_record import encode
from tests.fixtures_kafka import Broker, card


@dataclass
class Outcome:
    """What a call left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call the command line with settings (of FRAUD_<NAME>), in a lake of its own unless one is given."""
    for name in [name for name in os.environ if name.startswith("FRAUD_") and name != "FRAUD_PIPELINE"]:
        monkeypatch.delenv(name)

    def call(*arguments: str, **settings: str) -> Outcome:
        with monkeypatch.context() as patch:
            for name, value in {"lake": str(tmp_path / "lake"), **settings}.items():
                patch.setenv(f"FRAUD_{name.upper()}", value)
            patch.setattr(sys, "argv", ["fraud-lakehouse", *arguments])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        printed = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    return call


def assert_refused(outcome: Outcome, *output: str) -> None:
    """A message and what to do, no traceback, exit code not 0."""
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert re.search(r"^  -> \S", outcome.err, re.MULTILINE), outcome.err
    for part in output:
        assert part in outcome.err


def test_catch_up_then_status(run: Run, database: str, kafka: Broker) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table payments (id int primary key, amount numeric(10,2))")
        connection.execute("insert into payments select i, i from generate_series(1, 7) i")
    topic = kafka.new_topic()
    kafka.publish(topic, [encode(card(1))])
    sources = {"postgres_dsn": database, "kafka_bootstrap_servers": kafka.bootstrap, "kafka_topic": topic}
    done = run("catch-up", **sources)
    assert done.code == 0, done.err
    assert "bronze/payments: 7 rows" in done.out
    assert "caught up: 8 rows landed" in done.out
    status = json.loads(run("status", "--json", **sources).out)
    assert {source["name"]: source["error"] for source in status["sources"]} == {"bank": None, "cards": None}
    assert {table["table"]: table["rows"] for table in status["layers"]["silver"]}["payments"] == 7
    assert "payments" in run("status", **sources).out


def test_no_source(run: Run) -> None:
    assert_refused(run("catch-up"), "no source is configured", "FRAUD_POSTGRES_DSN")


def test_a_setting_of_the_wrong_type(run: Run) -> None:
    assert_refused(run("catch-up", update_delay="soon"), "FRAUD_UPDATE_DELAY", "seconds between updates")


def test_a_server_that_is_not_there(run: Run) -> None:
    assert_refused(run("catch-up", postgres_dsn="host=127.0.0.1 port=1 dbname=x password=s3cret"), "127.0.0.1")


def test_a_connection_string_that_is_none(run: Run) -> None:
    assert_refused(run("catch-up", postgres_dsn="this is no connection string"), "FRAUD_POSTGRES_DSN")


def test_a_wrong_password(run: Run, database: str) -> None:
    wrong = re.sub(r"password=\S+", "password=s3cret", database)
    outcome = run("catch-up", postgres_dsn=wrong)
    assert_refused(outcome, "password")
    assert "s3cret" not in outcome.err


def test_a_missing_database(run: Run, database: str) -> None:
    assert_refused(run("catch-up", postgres_dsn=re.sub(r"dbname=\S+", "dbname=nowhere", database)), "nowhere")


def test_a_missing_table(run: Run, database: str) -> None:
    assert_refused(run("catch-up", postgres_dsn=database, postgres_tables="public.nothing"), "nothing")


def test_a_missing_topic(run: Run, kafka: Broker) -> None:
    kafka.create(topic := "0-first-of-all")  # twenty are listed, by name
    outcome = run("catch-up", kafka_bootstrap_servers=kafka.bootstrap, kafka_topic="no-such-topic")
    assert_refused(outcome, "no-such-topic", topic)


def test_a_broker_that_is_not_there(run: Run) -> None:
    assert_refused(run("catch-up", kafka_bootstrap_servers="127.0.0.1:1"), "127.0.0.1:1")


def test_an_unwritable_lake(run: Run, database: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_refused(
        run("catch-up", postgres_dsn=database, lake=str(tmp_path / "file/lake")), str(tmp_path / "file/lake")
    )


def test_replay_of_what_is_no_such_csv(run: Run, kafka: Broker, tmp_path: Path) -> None:
    broker = {"kafka_bootstrap_servers": kafka.bootstrap}
    assert_refused(run("replay", str(tmp_path / "absent.csv"), **broker), "absent.csv")
    other = tmp_path / "other.csv"
    pl.DataFrame({"a": [1]}).write_csv(other)
    assert_refused(run("replay", str(other), **broker), "other.csv", "trans_num")


def test_an_unknown_benchmark(run: Run) -> None:
    assert_refused(run("bench", "nothing"), "nothing", "catch_up")


def test_accepting_a_source_that_is_not_set(run: Run) -> None:
    assert_refused(run("accept-source", "cards"), "FRAUD_KAFKA_BOOTSTRAP_SERVERS")


def test_a_lake_no_delta_table_can_lie_in(run: Run, database: str, tmp_path: Path) -> None:
    assert_refused(run("catch-up", postgres_dsn=database, lake=str(tmp_path / "a[1]")), "square bracket", "FRAUD_LAKE")


def test_rebuild_says_what_it_built(run: Run) -> None:
    assert_refused(run("rebuild", "alerts"), "gold/alerts keeps its rows")
    done = run("rebuild", "user_avg", "gold/user_trans_amt_last_360min_versions")
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert first.startswith("user_trans_amt_last_360min_versions: 0 rows in ")
    assert second.startswith("user_avg: 0 rows in ")


def test_resync_and_forget_slot_say_what_they_did(run: Run, database: str) -> None:
    assert_refused(run("resync"), "FRAUD_POSTGRES_DSN")
    assert_refused(run("forget-slot"), "FRAUD_POSTGRES_DSN")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table payments (id int primary key)")
        connection.execute("insert into payments select generate_series(1, 7)")
        source = {"postgres_dsn": database, "postgres_slot": "command_line"}
        assert "7 rows in the source; of bronze 0 new, 0 changed, 0 gone" in run("resync", **source).out
        assert_refused(run("resync", "nobody", **source), "no table nobody is captured", "payments")
        dropped = run("forget-slot", **source)
        assert "slot command_line dropped; the next capture makes it anew" in dropped.out
        connection.execute("delete from payments where id > 5")
        connection.execute("insert into payments values (8)")
        output = run("resync", "public.payments", **source).out
        assert "6 rows in the source; of bronze 1 new, 0 changed, 2 gone" in output
        assert "was not there" in run("forget-slot", postgres_dsn=database, postgres_slot="nothing_here").out
