"""What fails in the capture or the models of one source stops no alert of the other; what waited is alerted once."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from fraud_lakehouse import cli
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.live import Cycle, CycleResult, run_until
from fraud_lakehouse.live import cycle as cycle_module
from fraud_lakehouse.live.background import BackgroundWorker
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.kafka import chunk as kafka_chunk
from fraud_lakehouse.transform.runner import Transformer
from tests.alert_receiver import Receiver
from tests.faulty_project import BAD, FaultyProject
from tests.fixtures_kafka import Broker, card
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(1200)]

SCHEMA = """
create table users (user_id int primary key, name text, email text, registration_date timestamp);
create table transactions
  (transaction_id serial primary key, user_id int, transaction_date timestamp, amount decimal(10,2));
insert into users values (1, 'user 1', 'u@example.org', now());
"""
PAY = "insert into transactions (user_id, transaction_date, amount) values (9999, now(), %s) returning transaction_id"


class Sources:
    """A bank whose payments are all of an unknown user, and a topic of cards that all pay more than they should."""

    def __init__(self, bank: psycopg.Connection[Any], kafka: Broker, topic: str) -> None:
        self._bank, self._kafka, self._topic = bank, kafka, topic
        self._cards = 0

    def pay(self, amount: float = 50.0) -> str:
        row = self._bank.execute(PAY, (amount,)).fetchone()
        assert row is not None
        return str(row[0])

    def swipe(self) -> str:
        self._cards += 1
        record = card(self._cards, user_id=self._cards, amt=5000.0)
        self._kafka.publish(self._topic, [encode(record)])
        return str(record.trans_num)


@pytest.fixture
def topic(kafka: Broker) -> str:
    return kafka.new_topic()


@pytest.fixture
def sources(database: str, kafka: Broker, topic: str) -> Iterator[Sources]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield Sources(connection, kafka, topic)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyProject:
    """The project that the cycle builds."""
    faulty = FaultyProject(tmp_path)
    monkeypatch.setattr(cycle_module, "Transformer", lambda settings: Transformer(settings, faulty.path))
    return faulty


class NoDeferredModels(BackgroundWorker):
    """Starts no process: it would build by the shipped project."""

    def _keep_running(self) -> None:
        pass


@contextmanager
def running(settings: Settings) -> Iterator[list[CycleResult]]:
    """The live loop in a thread; what its cycles did."""
    stop, results, errors = threading.Event(), list[CycleResult](), list[BaseException]()

    def repeat() -> None:
        try:
            with Cycle(settings) as cycle:
                run_until(cycle, NoDeferredModels(settings), stop.is_set, results.append)
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield results
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


def until(ready: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.05)


def test_a_failing_model_and_a_defect_in_capture_stop_no_alert_of_the_other_source(
    sources: Sources,
    project: FaultyProject,
    database: str,
    kafka: Broker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Receiver() as receiver:
        settings = load_settings(
            lake=str(tmp_path / "lake"),
            postgres_dsn=database,
            kafka_bootstrap_servers=kafka.bootstrap,
            kafka_topic=topic,
            alert_urls=receiver.url,
        )

        def received() -> set[str]:
            return {str(one["transaction_id"]) for one in receiver.received}

        def raise_overflow(*_: object) -> None:
            raise OverflowError("date value out of range")

        with running(settings) as results:

            def problem(part: str) -> str:
                return results[-1].problems.get(part, "") if results else ""

            known = {sources.pay(), sources.swipe()}
            until(lambda: known <= received(), "alerts of both sources")
            until(lambda: results and not any(one.rows for one in results[-1].behind.values()), "all is scored")

            project.fail("transactions_ledger")
            waiting = sources.pay(BAD)
            until(lambda: "met its value" in problem("model transactions_ledger"), "the ledger fails")
            for _ in range(5):
                known.add(sources.swipe())
                until(lambda: known <= received(), "alerts of the cards while the ledger fails")
            assert "rows of transactions wait for it" in problem("model transactions_ledger")
            until(lambda: not results[-1].behind["cards"].rows, "the cards are scored")
            assert results[-1].behind["bank"].rows == 1 and waiting not in received()
            project.mend("transactions_ledger")
            known.add(waiting)
            until(lambda: known <= received(), "the payment that the ledger had failed on")
            until(lambda: not results[-1].problems and not results[-1].behind["bank"].rows, "all is well")

            with monkeypatch.context() as patched:
                patched.setattr(kafka_chunk, "failpoint", raise_overflow)
                waiting = sources.swipe()
                until(lambda: problem("cards") == "OverflowError: date value out of range", "the defect is reported")
                for _ in range(3):
                    known.add(sources.pay())
                    until(lambda: known <= received(), "alerts of the bank while the topic cannot be read")
                assert waiting not in received() and problem("cards")
            known.add(waiting)
            until(lambda: known <= received(), "the record that could not be read")
            until(lambda: not results[-1].problems, "all is well")
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts")
    assert set(alerts["transaction_id"]) == known and alerts["alert_id"].is_unique().all()
    assert set(Counter(one["alert_id"] for one in receiver.received).values()) == {1}
    cards = pl.read_delta(f"{settings.lake}/bronze/card_transactions")["_offset"].sort().to_list()
    assert cards == list(range(len(cards)))


def test_catch_up_builds_all_it_can_and_ends_with_the_error_of_the_model(
    sources: Sources,
    project: FaultyProject,
    database: str,
    kafka: Broker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        postgres_dsn=database,
        kafka_bootstrap_servers=kafka.bootstrap,
        kafka_topic=topic,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", "catch-up"])
    cards = {sources.swipe(), sources.swipe()}
    bank = {sources.pay(BAD), sources.pay()}

    def catch_up() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    def alerted() -> set[str]:
        return set(pl.read_delta(f"{settings.lake}/gold/alerts")["transaction_id"])

    project.fail("transactions_ledger")
    code, output = catch_up()
    assert code == 7 and "transactions_ledger met its value" in output and "rows of transactions wait for it" in output
    assert alerted() == cards
    assert pl.read_delta(f"{settings.lake}/silver/transactions").height == len(bank)
    project.mend("transactions_ledger")
    code, output = catch_up()
    assert code == 0, output
    assert alerted() == cards | bank
