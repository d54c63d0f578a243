"""A live process whose only source has a gap: it goes on once the command was run elsewhere, and loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psycopg
import pytest

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.live import CycleResult, run_live
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.project import prepare_project
from tests.fixtures_kafka import Broker, card
from tests.integration.test_live_run import ROOT, SCHEMA, Process, bronze, unknown_user, until
from tests.integration.test_resync import state
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def bank(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


def command(settings: Settings, *arguments: str) -> None:
    """Run `fraud-lakehouse ...` to its end in a process of its own."""
    environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "fraud_lakehouse.cli", *arguments]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def rows(settings: Settings, layer: str, table: str) -> pl.DataFrame:
    """The rows of a table; none while it does not exist."""
    lake = Lake.at(settings.lake)
    return pl.read_delta(lake.uri(layer, table)) if lake.exists(layer, table) else pl.DataFrame()


def ingested(settings: Settings, transaction: str) -> bool:
    found = rows(settings, "bronze", "transactions")
    return found.height > 0 and found.filter(pl.col("transaction_id") == int(transaction)).height > 0


def alerted(settings: Settings) -> list[str]:
    found = rows(settings, "gold", "alerts")
    return found.filter(pl.col("rule") == "unknown_user")["transaction_id"].to_list() if found.height else []


def lose_slot(bank: psycopg.Connection[Any], settings: Settings) -> None:
    """Drop the replication slot as soon as nobody reads it."""
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
    until(lambda: bank.execute(drop, [settings.postgres_slot]).rowcount, "the slot is dropped")


def assert_nothing_lost_or_doubled(
    settings: Settings, bank: psycopg.Connection[Any], fired: list[str], lost: list[str]
) -> None:
    """Bronze gives the source's rows; each transaction is one event but what was deleted again in the gap.

    Args:
        lost: transactions made in the gap; no log reported of them.
    """
    in_source = bank.execute("select transaction_id from transactions order by 1").fetchall()
    assert [(row["transaction_id"],) for row in state(settings, "transactions", "transaction_id")] == in_source
    events = bronze(settings, "transactions")
    assert Counter(events["transaction_id"].to_list()) == Counter(int(one) for one in (*fired, *lost))
    assert Counter(alerted(settings)) == Counter([*fired, *lost])


@pytest.mark.postgres
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_a_live_process_of_postgres_alone_survives_a_lost_slot(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path, delay: float
) -> None:
    slot = f"live_{tmp_path.name[-8:]}".lower().replace("-", "_")
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=slot, update_delay=delay)
    with Process(settings, tmp_path / "live") as live:
        fired = [unknown_user(bank)]
        until(lambda: alerted(settings) == fired, "the first alert", live)
        lose_slot(bank, settings)
        lost = [unknown_user(bank), unknown_user(bank)]
        until(lambda: "does not exist, but the lake has changes up to" in live.output, "the loss is a problem", live)
        command(settings, "resync")
        fired.append(unknown_user(bank))
        until(lambda: ingested(settings, fired[-1]), "capture goes on", live)
        fired.append(unknown_user(bank))
        until(lambda: set(fired + lost) <= set(alerted(settings)), "the last alert", live)
        until(lambda: "('bank', " not in live.output.splitlines()[-1], "no problem is left", live)
        assert_nothing_lost_or_doubled(settings, bank, fired, lost)
    gaps = [row.event for row in Audit(Lake.at(settings.lake)).rows("bank")]
    assert gaps == ["registered", "snapshot", "slot_lost", "resync_started", "resync"]


@pytest.mark.apache_kafka
def test_a_live_process_of_kafka_alone_goes_on_with_a_topic_made_anew(apache_kafka: Broker, tmp_path: Path) -> None:
    kafka, topic = apache_kafka, apache_kafka.new_topic()
    settings = load_settings(lake=str(tmp_path / "lake"), kafka_bootstrap_servers=kafka.bootstrap, kafka_topic=topic)

    def cards() -> list[str]:
        found = rows(settings, "bronze", "card_transactions")
        return sorted(found["trans_num"].to_list()) if found.height else []

    def published(*numbers: int) -> list[str]:
        kafka.publish(topic, [encode(card(number)) for number in numbers])
        return [f"{number:032x}" for number in numbers]

    with Process(settings, tmp_path / "live") as live:
        expected = published(0, 1)
        until(lambda: cards() == expected, "the first cards", live)
        kafka.delete(topic)
        kafka.create(topic)
        until(lambda: "accept-source cards" in live.output, "the gap is a problem", live)
        expected += published(2)
        command(settings, "accept-source", "cards")
        expected += published(3)
        until(lambda: len(cards()) >= len(expected), "capture goes on", live)
        until(lambda: "('cards', " not in live.output.splitlines()[-1], "no problem is left", live)
        assert cards() == expected


@pytest.mark.postgres
def test_a_live_run_of_dagster_goes_on_after_a_resync(
    bank: psycopg.Connection[Any], database: str, tmp_path: Path
) -> None:
    slot = f"live_{tmp_path.name[-8:]}".lower().replace("-", "_")
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_slot=slot, update_delay=0.0)
    stop, problems = threading.Event(), list[dict[str, str]]()

    def repeat(settings: Settings, _stop: Any, _is_over: Any, report: Callable[[CycleResult], None]) -> None:
        def noted(result: CycleResult) -> None:
            problems.append(result.problems)
            report(result)

        run_live(settings, stop.is_set, noted)

    definitions = build_definitions(
        settings, parts=Parts(repeat=repeat), manifest=json.loads(prepare_project(settings).manifest_path.read_text())
    )
    done = list[dg.ExecuteInProcessResult]()
    config = {"ops": {"repeat_cycle": {"config": {"report_seconds": 0.0}}}}

    def run() -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            job = definitions.resolve_job_def("live")
            done.append(job.execute_in_process(instance=instance, run_config=config, raise_on_error=False))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        fired = [unknown_user(bank)]
        until(lambda: alerted(settings) == fired, "the first alert")
        lose_slot(bank, settings)
        lost = [unknown_user(bank)]
        until(lambda: problems and "bank" in problems[-1], "the loss is a problem")
        command(settings, "resync")
        fired.append(unknown_user(bank))
        until(lambda: set(fired + lost) <= set(alerted(settings)), "the last alert")
        until(lambda: "bank" not in problems[-1], "no problem is left")
        assert_nothing_lost_or_doubled(settings, bank, fired, lost)
    finally:
        stop.set()
        thread.join(PATIENCE)
    (result,) = done
    assert result.success
    reported = [one for one in result.get_asset_check_evaluations() if one.check_name == "capture"]
    failed = [one for one in reported if not one.passed]
    assert {one.severity for one in failed} == {dg.AssetCheckSeverity.ERROR}, "it is evaluated, as a gap"
    assert "does not exist" in str(failed[0].description)
    assert reported[-1].passed
