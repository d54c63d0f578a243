"""The live loop under pressure: bursts, dead destinations, slow readers, runs beside it, runs between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psycopg
import pytest

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.live import Cycle, CycleResult, run_until
from fraud_lakehouse.live.background import BackgroundWorker
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.writer_lock import BESIDE, HOT, is_held, writer_lock
from fraud_lakehouse.transform.runner import Transformer
from tests.alert_receiver import Receiver
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

SCHEMA = """
create table users (user_id int primary key, name text, email text, registration_date timestamp);
create table transactions
  (transaction_id serial primary key, user_id int, transaction_date timestamp, amount decimal(10,2));
insert into users select n, 'user ' || n, 'u@example.org', now() from generate_series(1, 50) n;
"""
PAY = (
    "insert into transactions (user_id, transaction_date, amount)"
    " select 1 + n %% 50, timestamp '2026-01-01' + n * interval '1 hour', 50 from generate_series(1, %s) n"
)
UNKNOWN = (
    "insert into transactions (user_id, transaction_date, amount) values (9999, now(), 50) returning transaction_id"
)


@pytest.fixture
def bank(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


class Live:
    """What a live loop in a thread has reported."""

    def __init__(self) -> None:
        self.results: list[CycleResult] = []
        self.ended = False
        self.error: BaseException | None = None

    @property
    def batches(self) -> list[int]:
        """Rows of `transactions` in each batch landed."""
        return [batch.rows for one in list(self.results) for batch in one.ingested if batch.table == "transactions"]

    def __str__(self) -> str:
        last = self.results[-1] if self.results else None
        return (
            f"ended: {self.ended}, error: {self.error!r}, batches: {self.batches}, last of {len(self.results)}: {last}"
        )

    @property
    def is_behind(self) -> bool:
        """Whether rows that were landed are not scored."""
        return not self.results or any(one.rows for one in self.results[-1].behind.values())


@contextmanager
def running(settings: Settings) -> Iterator[Live]:
    """The live loop in a thread."""
    stop, live = threading.Event(), Live()

    def repeat() -> None:
        try:
            with Cycle(settings) as cycle, BackgroundWorker(settings) as beside:
                run_until(cycle, beside, stop.is_set, live.results.append)
        except BaseException as error:  # noqa: BLE001  told below
            live.error = error
        finally:
            live.ended = True

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield live
    finally:
        stop.set()
        thread.join()
    assert live.error is None, live.error


def until(ready: Callable[[], object], what: str, live: Live, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert not live.ended, f"the loop ended before it happened: {what} ({live})"
        assert time.monotonic() < deadline, f"it did not happen: {what} ({live})"
        time.sleep(0.05)


def unknown_user(bank: psycopg.Connection[Any]) -> str:
    """A transaction that raises an alert; its id."""
    row = bank.execute(UNKNOWN).fetchone()
    assert row is not None
    return str(row[0])


def delivered(live: Live) -> int:
    """Alerts that the loop reports as delivered."""
    return sum(one.delivery.delivered for one in live.results if one.delivery)


def told(receiver: Receiver) -> list[str]:
    return [str(one["transaction_id"]) for one in receiver.received]


def table(settings: Settings, layer: str, name: str) -> pl.DataFrame:
    return pl.read_delta(f"{settings.lake}/{layer}/{name}")


def alerted(settings: Settings, transaction: str) -> bool:
    lake = Lake.at(settings.lake)
    if not lake.exists("gold", "alerts"):
        return False
    return scan(lake.open("gold", "alerts")).filter(transaction_id=transaction).collect().height > 0


@pytest.mark.postgres
def test_a_burst_is_taken_in_larger_batches_and_nothing_is_dropped(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, batch_rows=2_000)
    with running(settings) as live:
        for _ in range(5):
            bank.execute(PAY, (10,))
        until(lambda: sum(live.batches) == 50 and not live.is_behind, "the calm before", live)
        calm = max(live.batches)
        for _ in range(60):
            bank.execute(PAY, (200,))
        most = 0
        while sum(live.batches) < 12_050 or live.is_behind:
            most = max([most, *(one.rows for one in live.results[-1].behind.values())])
            time.sleep(0.05)
        assert max(live.batches) > 4 * calm, "batches grow with the backlog"
        # A batch is as large as asked for, but for its last transaction; one more is landed while one is scored.
        assert most < 3 * settings.batch_rows, "what waits in memory is bounded, the rest stays in the source"
        last = unknown_user(bank)
        until(lambda: alerted(settings, last), "calm again", live)
    for layer, name in (("bronze", "transactions"), ("gold", "transaction_features")):
        ids = table(settings, layer, name)["transaction_id"]
        assert (len(ids), ids.n_unique()) == (12_051, 12_051), name


@pytest.mark.postgres
def test_alerts_flow_past_a_dead_and_a_hanging_destination_and_a_slow_reader(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    bank.execute(PAY, (20,))
    with Receiver() as good, Receiver(status=503) as dead, Receiver(delay=300.0) as hanging:
        settings = load_settings(
            lake=str(tmp_path / "lake"), postgres_dsn=database, alert_urls=f"{hanging.url},{dead.url},{good.url}"
        )
        with running(settings) as live:
            first = unknown_user(bank)
            until(lambda: first in told(good), "the first alert", live)
            alerts = scan(Lake.at(settings.lake).open("gold", "alerts"))  # a reader begins, and takes its time
            before = alerts.collect()
            later = []
            for _ in range(5):
                later.append(unknown_user(bank))
                until(lambda: later[-1] in told(good), "an alert past what is slow or dead", live)
            assert hanging.received == [] and dead.received == []
            assert alerts.collect().equals(before), "the reader has its version to the end"
            hanging.released.set()
        assert Counter(told(good)) == Counter([first, *later])


@pytest.mark.postgres
def test_alerts_flow_beside_a_run_that_builds_everything(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    bank.execute(PAY, (5_000,))
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    fired = []
    with running(settings) as live:
        until(lambda: not live.is_behind, "the start", live)
        everything = subprocess.Popen(
            [sys.executable, "-m", "fraud_lakehouse.cli", "catch-up"],
            env={**os.environ, **settings.environment()},
            stdout=subprocess.DEVNULL,
        )
        while everything.poll() is None:
            fired.append(unknown_user(bank))
            until(lambda: alerted(settings, fired[-1]), "an alert while everything is built", live)
        assert everything.returncode == 0
        until(lambda: not live.is_behind, "the end", live)
    assert len(fired) > 1, "at least one came while the other process built"
    counted = Counter(table(settings, "gold", "alerts").filter(rule="unknown_user")["transaction_id"].to_list())
    assert counted == Counter(fired)


@pytest.mark.postgres
def test_a_catch_up_keeps_no_turn_of_the_hot_lane_while_it_waits_for_the_other(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    bank.execute(PAY, (20,))
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle, ThreadPoolExecutor(1) as thread:
        with writer_lock(settings.work_dir, 0, BESIDE):
            catching_up = thread.submit(cycle.catch_up)
            while not is_held(settings.work_dir / "beside.queue"):
                assert not catching_up.done(), catching_up.exception()
                time.sleep(0.05)
            with writer_lock(settings.work_dir, 0, HOT):
                pass
        catching_up.result(120)
    assert table(settings, "silver", "transactions").height == 20


@pytest.mark.postgres
def test_an_update_delay_drains_more_than_a_batch_at_once(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    bank.execute(PAY, (20,))
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, batch_rows=10, update_delay=3600.0)
    with Cycle(settings) as cycle:
        cycle.capture()
    for _ in range(40):
        unknown_user(bank)
    with running(settings) as live:
        until(lambda: sum(live.batches) == 40, "all of them in the first interval", live)
        assert len(live.batches) > 2
    assert table(settings, "gold", "alerts").filter(rule="unknown_user").height == 40


@pytest.mark.postgres
def test_what_another_process_records_is_delivered_while_it_still_has_the_turn(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    bank.execute(PAY, (20,))
    with Receiver() as receiver:
        settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, alert_urls=receiver.url)
        with running(settings) as live, closing(Transformer(settings)) as other:
            first = unknown_user(bank)
            until(lambda: first in told(receiver), "the first alert", live)
            with writer_lock(settings.work_dir, 60.0, HOT):
                second = unknown_user(bank)
                until(lambda: table(settings, "bronze", "transactions").height == 22, "the landing", live)
                until(lambda: is_held(settings.work_dir / "hot.queue"), "the loop waits for the turn", live)
                other.build_tier("alerts").raise_for_errors()
                until(lambda: second in told(receiver), "delivered by a loop that waits", live)
            third = unknown_user(bank)
            until(lambda: third in told(receiver), "the turn is taken again", live)
            until(lambda: delivered(live) == 3, "none of them is left out of the loop's reports", live)
        assert Counter(told(receiver)) == Counter([first, second, third])


@pytest.mark.postgres
def test_switching_between_live_and_runs_loses_no_position(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    lake, fired = str(tmp_path / "lake"), list[str]()

    def live_cycle(delay: float) -> None:
        settings = load_settings(lake=lake, postgres_dsn=database, update_delay=delay)
        with running(settings) as live:
            fired.append(unknown_user(bank))
            until(lambda: alerted(settings, fired[-1]), f"an alert of a cycle every {delay} s", live)

    def requested_run() -> None:
        definitions = build_definitions(load_settings(lake=lake, postgres_dsn=database, update_delay=60.0))
        fired.append(unknown_user(bank))
        sensor, job = definitions.resolve_sensor_def("new_data_bank"), definitions.resolve_job_def("update")
        with dg.DagsterInstance.ephemeral() as instance:
            (request,) = sensor.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests or []
            assert job.execute_in_process(
                instance=instance, tags=request.tags, asset_selection=request.asset_selection
            ).success

    live_cycle(0.0)
    requested_run()
    live_cycle(0.0)
    live_cycle(0.5)
    requested_run()
    settings = load_settings(lake=lake, postgres_dsn=database)
    bronze = table(settings, "bronze", "transactions")
    assert sorted(bronze["transaction_id"].to_list()) == sorted(map(int, fired)), "each once"
    counted = Counter(table(settings, "gold", "alerts")["transaction_id"].to_list())
    assert counted == Counter(fired)
    batches = table(settings, "control", "batches").filter(table="transactions").sort("to_position")
    assert (batches["from_position"] < batches["to_position"]).all()
    assert (batches["to_position"].shift(1).fill_null(0) <= batches["from_position"]).all(), "no range twice"
