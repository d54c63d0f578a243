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


pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(1200)]


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
    def output(self) -> str:
        return self._log.read_text()

    def over(self) -> None:
        self._over.touch()

    def end(self) -> None:
        """Wait for its end, which must be the expected one."""
        assert self.process.wait(PATIENCE) == self._ends, self.output[-3000:]

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
            assert one.process.poll() is None, f"it ended before it happened: {what}; {one.output[-3000:]}"
        assert time.monotonic() < deadline, f"it did not happen: {what}; {[one.output[-3000:] for one in live]}"
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
    ingested = bronze(settings, "card_transactions")["trans_num"].to_list()
    assert Counter(ingested) == Counter(f"{number:032x}" for number in cards)


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
            assert "did not respond" in first.output
            until_the_second_alerts()
        # rows written last, and the second process has ended: what is left is landed and delivered
        with Cycle(settings) as cycle:
            cycle.catch_up()
    assert Counter(told(receiver)).keys() == set(fired), "none is lost"
    repeated = [transaction for transaction, times in Counter(told(receiver)).items() if times > 1]
    assert len(repeated) <= 1, "at most the one that was being sent when the process was stopped"
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").filter(pl.col("rule") == "unknown_user")
    assert Counter(alerts["transaction_id"].to_list()) == Counter(fired)
    ingested = bronze(settings, "card_transactions")["trans_num"].to_list()
    assert Counter(ingested) == Counter(f"{number:032x}" for number in cards)
    rows = bronze(settings, "transactions")["transaction_id"].to_list()
    assert Counter(map(str, rows)) == Counter(fired)


RULE = """\
description: One card pays in two merchant categories within 60 seconds.
streams: [card_payments]
entity: card
state: live
severity: high
features:
  categories: {aggregate: distinct, measure: category, window: 60 seconds}
when: categories >= 2
reason: "{categories} categories within a minute"
"""


@pytest.mark.kafka
def test_a_rule_dropped_into_the_folder_of_a_running_process_fires_on_the_next_payment(
    kafka: Broker, tmp_path: Path
) -> None:
    """A broken edit of it is refused with its error, and the version before goes on."""
    topic = kafka.new_topic()
    folder = tmp_path / "pipeline"
    shutil.copytree(ROOT / "pipeline", folder)
    rule = folder / "rules" / "two_categories.yml"
    numbers = iter(range(60))

    with Receiver() as receiver:
        settings = load_settings(
            lake=str(tmp_path / "lake"),
            kafka_bootstrap_servers=kafka.bootstrap,
            kafka_topic=topic,
            pipeline=folder,
            alert_urls=receiver.url,
        )

        def pay(number: int, category: str) -> str:
            """A payment by the card of this number, a second after the one before; its id."""
            payment = card(next(numbers), cc_num=number, category=category)
            kafka.publish(topic, [encode(payment)])
            return payment.trans_num

        def fired() -> list[tuple[str, str, str]]:
            found = [one for one in list(receiver.received) if one.get("rule") == "two_categories"]
            return [(one["entity_type"], one["entity_id"], one["transaction_id"]) for one in found]

        def are_scored() -> int:
            lake = Lake.at(settings.lake)
            name = "card_transaction_features"
            return pl.read_delta(lake.uri("gold", name)).height if lake.exists("gold", name) else 0

        with Process(settings, tmp_path / "live") as live:
            pay(7, "food")
            until(lambda: are_scored() == 1, "the first payment is scored", live)
            rule.write_text(RULE)
            wanted = [("card", "7", pay(7, "travel"))]
            until(lambda: fired() == wanted, "the new rule has fired, with what it knows of before", live)
            rule.write_text(RULE.replace("categories >= 2", "categoriez >= 2"))
            pay(8, "food")
            wanted.append(("card", "8", pay(8, "travel")))
            until(lambda: fired() == wanted, "the version before has fired", live)
            until(lambda: "('rule two_categories', " in live.output, "the edit is refused", live)
            assert "rules/two_categories.yml:8" in live.output and "categories" in live.output
            rule.write_text(RULE.replace("categories >= 2", "categories >= 3"))
            pay(9, "food")
            pay(9, "travel")
            wanted.append(("card", "9", pay(9, "fuel")))
            until(lambda: fired() == wanted, "the mended edit has fired", live)
            until(lambda: "('rule " not in live.output.splitlines()[-1], "the edit is no longer refused", live)
