"""Live processes: one hands over to the next while rows flow; the dbt project is changed under a running one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import LeaseLostError, is_held
from tests.alert_receiver import Receiver
from tests.fixtures_kafka import Broker, card
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
LIVE = """
import sys
from pathlib import Path
from fraud_lakehouse.storage.lease import LeaseLostError
from fraud_lakehouse.live import CycleResult, run_live
from fraud_lakehouse.settings import load_settings

over, stop = map(Path, sys.argv[1:])

def report(result: CycleResult) -> None:
    print(f"{result.rows} rows", *result.problems.items(), flush=True)

try:
    run_live(load_settings(), stop.exists, report, is_over=over.exists)
except LeaseLostError as lost:
    print(lost, flush=True)
    sys.exit(lost.exit_code)
"""
SCHEMA = """
create table users (user_id int primary key, name text, email text, registration_date timestamp);
create table transactions
  (transaction_id serial primary key, user_id int, transaction_date timestamp, amount decimal(10,2));
insert into users values (1, 'user 1', 'u@example.org', now());
"""
UNKNOWN = (
    "insert into transactions (user_id, transaction_date, amount) values (9999, now(), 50) returning transaction_id"
)


pytestmark = [pytest.mark.postgres, pytest.mark.timeout(1200)]


@pytest.fixture
def bank(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


class Process:
    """A live process. It ends once a successor stands by after `over` was called, and after `stop` in any case.

    Args:
        ends: its exit code then.
    """

    def __init__(self, settings: Settings, folder: Path, root: Path = ROOT, ends: int = 0) -> None:
        folder.mkdir()
        self._ends = ends
        self._over, self._stop, self._log = folder / "over", folder / "stop", folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LIVE, str(self._over), str(self._stop)],
                cwd=root,
                env={**os.environ, **settings.environment(), "PYTHONPATH": str(root)},
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def over(self) -> None:
        self._over.touch()

    def end(self) -> None:
        """Wait for its end, which must be the expected one."""
        assert self.process.wait(PATIENCE) == self._ends, self.said[-3000:]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.touch()
        try:
            self.end()
        finally:
            self.process.kill()
            self.process.wait()


def until(ready: Callable[[], object], what: str, *live: Process, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        for one in live:
            assert one.process.poll() is None, f"it ended before it happened: {what}; {one.said[-3000:]}"
        assert time.monotonic() < deadline, f"it did not happen: {what}; {[one.said[-3000:] for one in live]}"
        time.sleep(0.05)


def unknown_user(bank: psycopg.Connection[Any]) -> str:
    """A transaction that raises an alert; its id."""
    row = bank.execute(UNKNOWN).fetchone()
    assert row is not None
    return str(row[0])


def bronze(settings: Settings, table: str) -> pl.DataFrame:
    return pl.read_delta(f"{settings.lake}/bronze/{table}")


def told(receiver: Receiver) -> list[str]:
    """Transactions of the alerts delivered that a user is unknown."""
    return [str(one["transaction_id"]) for one in list(receiver.received) if one.get("rule") == "unknown_user"]


@contextmanager
def flowing(bank: psycopg.Connection[Any], kafka: Broker, topic: str) -> Iterator[tuple[list[str], list[int]]]:
    """Rows of both sources, one of each after the other; the transactions and the cards so far."""
    fired, cards, stop = list[str](), list[int](), threading.Event()

    def write() -> None:
        while not stop.wait(0.1):
            fired.append(unknown_user(bank))
            kafka.publish(topic, [encode(card(len(cards)))])
            cards.append(len(cards))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield fired, cards
    finally:
        stop.set()
        thread.join()


@pytest.mark.kafka
def test_a_live_process_hands_over_to_the_next_while_rows_flow(
    bank: psycopg.Connection[Any], database: str, kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    with Receiver() as receiver:
        settings = load_settings(
            lake=str(tmp_path / "lake"),
            postgres_dsn=database,
            kafka_bootstrap_servers=kafka.bootstrap,
            kafka_topic=topic,
            alert_urls=receiver.url,
            alert_burst=10_000,
        )
        with Process(settings, tmp_path / "first") as first, ExitStack() as successor:
            with flowing(bank, kafka, topic) as (fired, cards):
                until(lambda: told(receiver), "the first alert", first)
                second = successor.enter_context(Process(settings, tmp_path / "second"))
                until(lambda: is_held(settings.work_dir / "live.queue"), "the second stands by", first, second)
                first.over()
                first.end()
                before = len(fired)
                until(lambda: set(fired[before:]) & set(told(receiver)), "an alert of the second", second)
            until(lambda: set(fired) <= set(told(receiver)), "the last alert", second)
            until(lambda: bronze(settings, "card_transactions").height >= len(cards), "the last card", second)
    assert Counter(told(receiver)) == Counter(fired), "none is lost, none is told twice"
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").filter(pl.col("rule") == "unknown_user")
    assert Counter(alerts["transaction_id"].to_list()) == Counter(fired)
    landed = bronze(settings, "card_transactions")["trans_num"].to_list()
    assert Counter(landed) == Counter(f"{number:032x}" for number in cards)


@pytest.mark.kafka
@pytest.mark.crash
def test_a_live_process_that_is_stopped_is_replaced_and_harms_nothing_when_it_goes_on(
    bank: psycopg.Connection[Any], database: str, kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    with Receiver() as receiver:
        settings = load_settings(
            lake=str(tmp_path / "lake"),
            postgres_dsn=database,
            kafka_bootstrap_servers=kafka.bootstrap,
            kafka_topic=topic,
            alert_urls=receiver.url,
            alert_burst=10_000,
        )
        with ExitStack() as processes, flowing(bank, kafka, topic) as (fired, cards):
            first = processes.enter_context(Process(settings, tmp_path / "first", ends=LeaseLostError.exit_code))
            until(lambda: told(receiver), "the first alert", first)
            second = processes.enter_context(Process(settings, tmp_path / "second"))
            until(lambda: is_held(settings.work_dir / "live.queue"), "the second stands by", first, second)

            def until_the_second_alerts() -> None:
                before = len(fired)
                until(lambda: set(fired[before:]) & set(told(receiver)), "an alert of the second", second)

            first.process.send_signal(signal.SIGSTOP)
            until_the_second_alerts()
            first.process.send_signal(signal.SIGCONT)
            until_the_second_alerts()
            first.end()
            assert "had not answered" in first.said
            until_the_second_alerts()
        # rows written last, and the second process has ended: what is left is landed and delivered
        with Cycle(settings) as cycle:
            cycle.catch_up()
    assert Counter(told(receiver)).keys() == set(fired), "none is lost"
    repeated = [transaction for transaction, times in Counter(told(receiver)).items() if times > 1]
    assert len(repeated) <= 1, "at most the one that was being sent when the process was stopped"
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").filter(pl.col("rule") == "unknown_user")
    assert Counter(alerts["transaction_id"].to_list()) == Counter(fired)
    landed = bronze(settings, "card_transactions")["trans_num"].to_list()
    assert Counter(landed) == Counter(f"{number:032x}" for number in cards)
    rows = bronze(settings, "transactions")["transaction_id"].to_list()
    assert Counter(map(str, rows)) == Counter(fired)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A copy of the package with its dbt project and pipeline, to be changed."""
    for name in ("fraud_lakehouse", "dbt_project", "pipeline"):
        shutil.copytree(ROOT / name, tmp_path / "product" / name, ignore=shutil.ignore_patterns("target", "logs"))
    return tmp_path / "product"


def test_a_broken_rule_is_refused_by_a_running_loop_and_taken_once_it_is_mended(
    bank: psycopg.Connection[Any], database: str, product: Path, tmp_path: Path
) -> None:
    rule, project = product / "dbt_project/models/gold/rule_unknown_user.sql", product / "dbt_project/dbt_project.yml"
    good = rule.read_text()
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, cache=tmp_path / "cache")

    def version(transaction: str) -> int | None:
        """Of the rule that raised an alert of a transaction; None: there is none."""
        if not Lake.at(settings.lake).exists("gold", "alerts"):
            return None
        found = pl.read_delta(f"{settings.lake}/gold/alerts").filter(transaction_id=transaction)
        return int(found["rule_version"][0]) if found.height else None

    def alerted(live: Process) -> int | None:
        """The version of the rule that raises an alert of a new transaction."""
        transaction = unknown_user(bank)
        until(lambda: version(transaction), "an alert", live)
        return version(transaction)

    with Process(settings, tmp_path / "live", product) as live:
        assert alerted(live) == 1
        rule.write_text(good.replace("user_exists = false", "no_such_column = false"))
        project.write_text(project.read_text().replace("unknown_user: {version: 1", "unknown_user: {version: 2"))
        until(lambda: "('project', " in live.said, "the change is refused", live)
        assert "model rule_unknown_user cannot run" in live.said and "no_such_column" in live.said
        assert "('model " not in live.said, "no model of the hot lane failed"
        assert alerted(live) == 1
        rule.write_text(good)
        until(lambda: alerted(live) == 2, "the mended change is used", live)
        until(lambda: "('project', " not in live.said.splitlines()[-1], "nothing is told any more", live)
