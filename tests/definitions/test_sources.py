"""The wiring on real sources: sensor ticks, requested runs, a lake filled by them, drained and failing sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl
import psycopg
import pytest

from fraud_lakehouse.checks.slot_health import Level
from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.positions import new_data
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.ingest import forget_postgres_slot, resync
from fraud_lakehouse.live import CycleResult
from fraud_lakehouse.live.source import sources
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.errors import SlotLostError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import Receiver
from tests.fixtures_kafka import Broker, card

SCHEMA = """
create table users (user_id serial primary key, name varchar(100), email varchar(100),
  registration_date timestamp default now());
create table transactions (transaction_id serial primary key, user_id int,
  transaction_date timestamp default now(), amount decimal(10,2));
insert into users (name, email) select 'user ' || n, 'user' || n || '@example.org' from generate_series(1, 20) n;
"""


@pytest.fixture
def bank(database: str) -> Iterator[psycopg.Connection[Any]]:
    """The reference database with 20 users."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


def _pay(bank: psycopg.Connection[Any], user: int, *amounts: float) -> None:
    for amount in amounts:
        bank.execute("insert into transactions (user_id, amount) values (%s, %s)", (user, amount))


def _tick(definitions: dg.Definitions, instance: dg.DagsterInstance, sensor: str) -> tuple[list[dg.RunRequest], str]:
    data = definitions.resolve_sensor_def(sensor).evaluate_tick(dg.build_sensor_context(instance=instance))
    return list(data.run_requests or []), data.skip_message or ""


def _run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, request: dg.RunRequest
) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def("update")
    return job.execute_in_process(instance=instance, tags=request.tags, asset_selection=request.asset_selection)


def _read(settings: Settings, table: str) -> pl.DataFrame:
    return pl.read_delta(f"{settings.lake}/{table}")


@pytest.mark.postgres
@pytest.mark.kafka
def test_from_ticks_to_alerts_to_materialize_all(
    bank: psycopg.Connection[Any], database: str, kafka: Broker, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    _pay(bank, 1, *[100.0] * 6)
    topic = kafka.new_topic(1)
    kafka.publish(topic, [msgspec.json.encode(card(number)) for number in range(3)])
    settings = kafka.settings(topic, lake=str(tmp_path / "lake"), postgres_dsn=database, update_delay=60.0)
    definitions = build_definitions(settings)

    (first,), _ = _tick(definitions, instance, "new_data_bank")
    assert first.run_key == "bank:snapshot"
    assert _run(definitions, instance, first).success
    assert _read(settings, "silver/transactions").height == 6
    assert _read(settings, "silver/card_transactions").height == 0, "only its own source"
    assert _tick(definitions, instance, "new_data_bank") == ([], "Nothing new in bank.")

    _pay(bank, 1, 5000.0)
    (second,), _ = _tick(definitions, instance, "new_data_bank")
    (again,), _ = _tick(definitions, instance, "new_data_bank")
    assert second.run_key == again.run_key, "the same data twice is one run"
    assert _run(definitions, instance, second).success
    assert _read(settings, "gold/alerts")["rule"].to_list().count("amount_above_mean") == 1
    assert _tick(definitions, instance, "new_data_bank")[0] == []

    result = definitions.resolve_job_def("update").execute_in_process(instance=instance)
    assert result.success
    graph = definitions.resolve_asset_graph()
    assert {event.asset_key for event in result.get_asset_materialization_events()} == set(graph.get_all_asset_keys())
    checks = {one.asset_check_key: one for one in result.get_asset_check_evaluations()}
    assert set(checks) == set(graph.asset_check_keys)
    found = checks[dg.AssetCheckKey(dg.AssetKey(["gold", "alerts"]), "rule_amount_above_mean")]
    assert not found.passed
    assert "user 1" in str(found.metadata["top offenders"].value)
    assert [key for key, one in checks.items() if not one.passed and one.severity == dg.AssetCheckSeverity.ERROR] == []
    assert _read(settings, "silver/card_transactions").height == 3


@pytest.mark.postgres
def test_log_of_other_tables_is_not_new_data(
    bank: psycopg.Connection[Any],
    database: str,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    manifest: dict[str, Any],
) -> None:
    settings = load_settings(
        lake=str(tmp_path / "lake"), postgres_dsn=database, postgres_tables=("users",), update_delay=60.0
    )
    definitions = build_definitions(settings, manifest=manifest)
    job = definitions.resolve_job_def("update")
    assert job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["bronze", "users"])]).success
    assert _read(settings, "bronze/users").height == 20
    _pay(bank, 1, 10.0)
    assert new_data(postgres_source(settings), settings) is None
    bank.execute("update users set name = 'Ann' where user_id = 1")
    assert new_data(postgres_source(settings), settings) is not None


@pytest.mark.postgres
def test_a_slot_that_was_dropped_is_recorded_and_told_until_a_resync(
    bank: psycopg.Connection[Any],
    database: str,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    manifest: dict[str, Any],
) -> None:
    with Receiver() as receiver:
        settings = load_settings(
            lake=str(tmp_path / "lake"), postgres_dsn=database, update_delay=60.0, alert_urls=(receiver.url,)
        )
        lake, definitions = Lake.at(settings.lake), build_definitions(settings, manifest=manifest)
        cursors: dict[str, str | None] = {}

        def watch() -> list[str]:
            before = len(receiver.received)
            for sensor in ("watch_sources", "watch_slot"):
                context = dg.build_sensor_context(instance=instance, cursor=cursors.get(sensor))
                cursors[sensor] = definitions.resolve_sensor_def(sensor).evaluate_tick(context).cursor
            return [one["title"] for one in receiver.received[before:]]

        health = Parts().slot(postgres_source(settings), settings)
        assert health.level is Level.OK, "there is nothing to lose before the first snapshot"
        (snapshot,), _ = _tick(definitions, instance, "new_data_bank")
        keys = [dg.AssetKey(["bronze", table]) for table in ("users", "transactions")]
        assert _run(definitions, instance, dg.RunRequest(asset_selection=keys, tags=snapshot.tags)).success
        assert watch() == []

        bank.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
        for user in (1, 2):
            _pay(bank, user, 10.0)  # the log's end is in the error's words
            with pytest.raises(SlotLostError, match="fraud-lakehouse resync"):
                _tick(definitions, instance, "new_data_bank")
        assert [row.event for row in Audit(lake).rows("bank")][-2:] == ["snapshot", "slot_lost"], "once"
        slot = f"[pipeline] replication slot {settings.postgres_slot}"
        assert watch() == ["[pipeline] capture of bank has stopped and needs a person", f"{slot} is lost"]
        assert watch() == []

        assert Parts().slot(postgres_source(settings), settings).lost
        forget_postgres_slot(settings, lake)
        assert not Parts().slot(postgres_source(settings), settings).lost, "its position was given up"
        resync(settings, lake, [])
        assert _read(settings, "bronze/transactions").height == 2
        _tick(definitions, instance, "new_data_bank")
        assert watch() == ["[pipeline] bank is captured again", f"{slot} is healthy again"]


@pytest.mark.postgres
def test_live_and_batch_runs_go_on_where_the_other_stopped(
    bank: psycopg.Connection[Any],
    database: str,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    manifest: dict[str, Any],
) -> None:
    def land_only(settings: Settings, _stop: Any, _is_over: Any, report: Callable[[CycleResult], None]) -> None:
        (postgres,) = sources(settings, Lake.at(settings.lake))
        while ingested := postgres.land(settings.work_dir, settings.batch_rows):
            report(CycleResult(ingested))
        postgres.ingest.close()

    given = {"lake": str(tmp_path / "lake"), "postgres_dsn": database}
    batch = build_definitions(load_settings(**given, update_delay=60.0), manifest=manifest)
    live_settings = load_settings(**given, update_delay=0.0)
    live = build_definitions(live_settings, parts=Parts(repeat=land_only), manifest=manifest)
    keys = [dg.AssetKey(["bronze", table]) for table in ("users", "transactions")]

    def batch_run() -> str:
        (request,), _ = _tick(batch, instance, "new_data_bank")
        assert _run(batch, instance, dg.RunRequest(asset_selection=keys, tags=request.tags)).success
        return str(request.run_key)

    _pay(bank, 1, 10.0)
    assert batch_run() == "bank:snapshot"
    _pay(bank, 2, 20.0, 21.0)
    assert _tick(live, instance, "new_data_bank")[0] == []
    assert live.resolve_job_def("live").execute_in_process(instance=instance).success
    _pay(bank, 3, 30.0)
    assert batch_run().startswith("bank:0/"), "from the position that the live run left"
    _pay(bank, 4, 40.0, 41.0)
    assert live.resolve_job_def("live").execute_in_process(instance=instance).success
    captured = _read(live_settings, "bronze/transactions").sort("_lsn", "_seq")
    assert captured["amount"].cast(pl.Float64).to_list() == [10.0, 20.0, 21.0, 30.0, 40.0, 41.0]
    assert captured["_op"].to_list() == ["r", "c", "c", "c", "c", "c"]


@pytest.mark.kafka
def test_offsets_name_the_run_of_a_topic(
    kafka: Broker, tmp_path: Path, instance: dg.DagsterInstance, manifest: dict[str, Any]
) -> None:
    topic = kafka.new_topic(2)
    settings = kafka.settings(topic, lake=str(tmp_path / "lake"), update_delay=60.0)
    definitions = build_definitions(settings, manifest=manifest)
    assert _tick(definitions, instance, "new_data_cards") == ([], "Nothing new in cards.")

    kafka.publish(topic, [msgspec.json.encode(card(number)) for number in range(5)])
    kafka.publish(topic, [b"{broken"], partition=1)
    (request,), _ = _tick(definitions, instance, "new_data_cards")
    assert request.run_key == f"{topic}:0:0-5,1:0-1"
    cards = dg.AssetKey(["bronze", "card_transactions"])
    job = definitions.resolve_job_def("update")
    result = job.execute_in_process(instance=instance, asset_selection=[cards])
    assert {one.check_name for one in result.get_asset_check_evaluations()} >= {"columns", "positions", "quarantine"}
    bronze = _read(settings, "bronze/card_transactions")
    assert (bronze.height, bronze["_error"].null_count()) == (6, 5)
    assert _tick(definitions, instance, "new_data_cards") == ([], "Nothing new in cards.")


@pytest.mark.kafka
def test_a_quiet_topic_gets_a_run_when_time_closes_its_windows(
    kafka: Broker, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """The only payment is 2 s before the end of its window, and the topic is taken for idle after one."""
    topic = kafka.new_topic(1)
    kafka.publish(topic, [msgspec.json.encode(card(6 * 3600 - 2))])
    settings = kafka.settings(
        topic,
        lake=str(tmp_path / "lake"),
        update_delay=60.0,
        window_idle_seconds=1.0,
        idle_seconds=1e6,  # or the last feature vector would ask for a run, where the others took so long
        allowed_lateness=0.0,
    )
    definitions = build_definitions(settings)
    (request,), _ = _tick(definitions, instance, "new_data_cards")
    assert _run(definitions, instance, request).success
    table = "gold/user_trans_amt_last_360min_windowed"
    assert _read(settings, table).height == 0

    deadline = time.monotonic() + 500
    while _read(settings, table).height == 0 and time.monotonic() < deadline:
        requests, why = _tick(definitions, instance, "new_data_cards")
        assert requests or why == "Nothing new in cards."
        for request in requests:
            assert str(request.run_key).startswith(f"{topic}:idle-")
            assert _run(definitions, instance, request).success
        time.sleep(0.2)
    assert _read(settings, table)["user_trans_count_last_360min"].to_list() == [1]
    assert _read(settings, "bronze/card_transactions").height == 1
    assert _tick(definitions, instance, "new_data_cards") == ([], "Nothing new in cards.")


def test_an_unreachable_server_is_a_sentence_without_the_password(
    tmp_path: Path, instance: dg.DagsterInstance, manifest: dict[str, Any]
) -> None:
    settings = load_settings(
        lake=str(tmp_path / "lake"),
        postgres_dsn="postgresql://reader:hunter2@127.0.0.1:1/bank?connect_timeout=2",
        update_delay=60.0,
    )
    requests, why = _tick(build_definitions(settings, manifest=manifest), instance, "new_data_bank")
    assert requests == []
    assert "127.0.0.1" in why and "hunter2" not in why
