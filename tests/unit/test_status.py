from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from pydantic import SecretStr

from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse.checks import status as module
from fraud_lakehouse.checks.status import collect, to_json
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest.batches import Batch, Batches
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.live import CycleResult
from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.live.metrics import Metrics
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.transactions import OpenTransaction
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.retention import Retention
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import process_lock
from tests.alert_receiver import Receiver, record_alerts
from tests.fixtures_kafka import CARD_SCHEMA

PG = "pg:7001:fraud_lakehouse"
KAFKA = "kafka:cluster:topic"
CONFIG = PostgresConfig("bank", SecretStr("x"), "slot", "slot", "FRAUD_POSTGRES_DSN")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


@pytest.fixture
def refused() -> Iterator[str]:
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def settings(lake: Lake, **values: Any) -> Settings:
    return Settings(lake=lake.root, **values)


def fill(lake: Lake) -> None:
    """A lake after one batch of each source, of rows committed 40 seconds ago."""
    committed = datetime.now(UTC) - timedelta(seconds=40)
    audit = Audit(lake)
    audit.record("bank", "registered", {"identity": PG, "scope": ""})
    audit.record("cards", "registered", {"identity": KAFKA, "scope": "transaction"})
    batches = Batches(lake)
    batches.commit([Batch("bank", f"{PG}:users", "users", 0, 4096, 20, committed, 0.25)], {PG: 4096})
    batches.commit([Batch("cards", f"{KAFKA}:0", "card_transactions", 0, 7, 7, committed, 0.5)], {})
    BronzeTable.open_or_create(lake, "card_transactions", CARD_SCHEMA, []).append(
        pl.DataFrame({"_offset": list(range(7))}), {f"{KAFKA}:0": 7}
    )
    write_deltalake(lake.uri("silver", "users"), pl.DataFrame({"user_id": [1, 2, 3]}))


def test_without_a_lake_it_says_so(lake: Lake) -> None:
    report = collect(settings(lake))
    assert "there is no lake" in str(report.message)
    assert "no lake" in render(report)
    plain = json.loads(to_json(report))
    assert plain["sources"] == []
    assert plain["layers"] == {"bronze": [], "silver": [], "gold": []}
    assert plain["alerts"]["open"] == 0
    assert not Path(lake.root).exists(), "asking creates nothing"


def test_a_source_that_is_down_shows_its_error_and_what_the_lake_knows(lake: Lake, refused: str) -> None:
    fill(lake)
    dsn = f"postgresql://ann:s3cr3tword@{refused}/bank"
    report = collect(settings(lake, postgres_dsn=dsn))
    (source,) = report.sources
    assert source.error
    assert "s3cr3tword" not in to_json(report) + render(report)
    assert source.position == "0/1000"
    assert source.last_batch is not None
    assert (source.last_batch["rows"], source.last_batch["seconds"]) == (20, 0.25)
    assert source.lag_bytes is None
    assert "ERROR" in render(report)


def answering(monkeypatch: pytest.MonkeyPatch, current_lsn: int, end: int, open_seconds: float = 0.0) -> None:
    """Put sources that answer in the place of real ones (the integration tests have those)."""

    class Answering:
        config = CONFIG

        def __enter__(self) -> Answering:
            return self

        def __exit__(self, *_: object) -> None: ...

        def partitions(self) -> list[str]:
            return [f"{KAFKA}:0", f"{KAFKA}:1"]

        def open_transactions(self) -> list[OpenTransaction]:
            since = datetime.now(UTC) - timedelta(seconds=open_seconds)
            return [OpenTransaction("cards", 1, 6, 14, since)] if open_seconds else []

        refused = (Ineligibility("public.tmp", SourceError("table public.tmp has no key", "give it one")),)
        seen_tables: tuple[object, ...] = ()

        def tables(self) -> list[object]:
            return []

        def retention(self) -> Retention:
            return Retention(True, 3 * 2**30, "reserved")

        def lag(self, positions: Mapping[str, int | None] | None = None) -> SimpleNamespace:
            if positions is None:
                return SimpleNamespace(
                    current_lsn=current_lsn, bytes_behind=1, retained_bytes=99, wal_status="reserved"
                )
            return SimpleNamespace(rows=sum(end - (at or 0) for at in positions.values()))

    monkeypatch.setattr(module, "open_capture", lambda *_: Answering())
    monkeypatch.setattr(module, "KafkaCapture", lambda *_: Answering())


def test_lag_in_rows_bytes_and_seconds(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    answering(monkeypatch, current_lsn=5096, end=10)
    postgres, kafka = collect(settings(lake, postgres_dsn="x", kafka_bootstrap_servers="x")).sources
    assert (postgres.position, postgres.lag_bytes, postgres.error) == ("0/1000", 1000, None)
    assert postgres.slot_health is not None
    assert (postgres.slot_health["level"], postgres.slot_health["used_share"]) == ("ok", 0.3)
    assert postgres.lag_seconds == pytest.approx(40, abs=5)
    assert (kafka.position, kafka.lag_rows, kafka.error) == ({"0": 7}, 13, None)
    assert kafka.lag_seconds == pytest.approx(40, abs=5)
    assert kafka.last_batch is not None
    assert kafka.last_batch["rows"] == 7


def test_a_slot_in_danger_shows_why(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    answering(monkeypatch, current_lsn=5096, end=10)
    report = collect(settings(lake, postgres_dsn="x", slot_retained_bytes=2**30))
    assert json.loads(to_json(report))["sources"][0]["slot_health"]["level"] == "error"
    assert "slot error: 3.0 GiB of log are retained for the slot, of 1.0 GiB" in render(report)


def test_a_table_that_is_left_out_shows_with_what_mends_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    answering(monkeypatch, current_lsn=5096, end=10)
    report = collect(settings(lake, postgres_dsn="x"))
    (shown,) = json.loads(to_json(report))["sources"][0]["left_out"]
    assert shown == {"table": "public.tmp", "problem": "table public.tmp has no key", "fix": "give it one"}
    assert "left out public.tmp: table public.tmp has no key -> give it one" in render(report)


def test_nothing_behind_is_no_lag(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    answering(monkeypatch, current_lsn=4096, end=0)
    BronzeTable.open_or_create(lake, "card_transactions", CARD_SCHEMA, []).append(
        pl.DataFrame({"_offset": [0]}), {f"{KAFKA}:0": 0}
    )
    sources = collect(settings(lake, postgres_dsn="x", kafka_bootstrap_servers="x")).sources
    assert [(one.lag_rows, one.lag_bytes, one.lag_seconds) for one in sources] == [(None, 0, 0.0), (0, None, 0.0)]


def test_other_tables_wal_is_as_old_as_the_last_look_at_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    Batches(lake).commit([], {PG: 5000})
    answering(monkeypatch, current_lsn=5096, end=10)
    (postgres,) = collect(settings(lake, postgres_dsn="x")).sources
    assert postgres.lag_bytes == 96
    assert postgres.lag_seconds == pytest.approx(0, abs=5)


def test_layers_show_rows_versions_and_freshness_despite_compaction(lake: Lake) -> None:
    fill(lake)
    write_deltalake(lake.uri("silver", "users"), pl.DataFrame({"user_id": [4]}), mode="append")
    before = collect(settings(lake)).layers["silver"][0]
    time.sleep(0.05)
    DeltaTable(lake.uri("silver", "users")).optimize.compact()
    report = collect(settings(lake))
    assert [row["table"] for row in report.layers["bronze"]] == ["card_transactions"]
    (users,) = report.layers["silver"]
    assert (users["rows"], users["version"]) == (4, 2)
    assert users["freshness_seconds"] > before["freshness_seconds"]
    assert "users" in render(report)


def test_an_unreadable_table_hides_no_other(lake: Lake) -> None:
    fill(lake)
    log = Path(lake.uri("gold", "broken")) / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020}.json").write_text("not a commit")
    report = collect(settings(lake))
    assert report.layers["gold"][0]["error"]
    assert report.layers["silver"][0]["rows"] == 3
    assert "broken" in render(report)


@pytest.mark.parametrize("open_seconds, hanging", [(0.0, None), (5.0, False), (90.0, True)])
def test_a_hanging_transaction_is_shown_and_one_in_progress_is_not(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, open_seconds: float, hanging: bool | None
) -> None:
    fill(lake)
    answering(monkeypatch, current_lsn=5096, end=10, open_seconds=open_seconds)
    report = collect(settings(lake, kafka_bootstrap_servers="broker:9092"))
    found = json.loads(to_json(report))["sources"][0]["open_transactions"]
    assert [one["hanging"] for one in found] == ([] if hanging is None else [hanging])
    if hanging:
        (one,) = found
        assert (one["partition"], one["last_stable_offset"], one["high_watermark"], one["waiting"]) == (1, 6, 14, 8)
        assert one["open_seconds"] == pytest.approx(90, abs=20)
        assert "has been open for 9" in one["problem"] and "last stable offset 6" in one["problem"]
        assert "--bootstrap-server broker:9092 abort --topic cards --partition 1 --start-offset 6`" in one["fix"]
        assert f"hanging transaction: {one['problem']}" in render(report)
    else:
        assert "hanging transaction:" not in render(report)


def test_alerts_open_and_undelivered(lake: Lake) -> None:
    record_alerts(lake, 0, 5)
    none = collect(settings(lake))
    assert none.alerts["open"] == 5
    assert none.alerts["by_rule"] == {"velocity": 3, "amount_above_mean": 2}
    assert none.alerts["by_severity"] == {"medium": 3, "high": 2}
    assert none.alerts["by_stream"] == {}, "alerts of before that column"
    assert none.alerts["undelivered"] == 0
    assert "no destination configured" in render(none)
    with Receiver() as good, Receiver(status=500) as bad:
        chosen = settings(lake, alert_urls=(good.url, bad.url))
        Delivery(chosen, lake).deliver_pending(wait=5)
        alerts = collect(chosen).alerts
    assert alerts["undelivered"] == 5
    assert [(one["pending"], one["failures"]) for one in alerts["destinations"]] == [(0, 0), (5, 1)]
    assert "500" in alerts["destinations"][1]["error"]


def test_a_gap_is_a_problem_until_capture_resumes(lake: Lake) -> None:
    audit = Audit(lake)
    audit.record("bank", "slot_lost", {"problem": "slot is lost", "fix": "accept", "gap": True})
    report = collect(settings(lake))
    assert report.problems[0]["event"] == "slot_lost"
    assert "slot is lost -> accept" in render(report)
    audit.record("bank", "resumed", {})
    assert collect(settings(lake)).problems == []


def test_it_is_quick_over_many_tables_and_versions(lake: Lake) -> None:
    for number in range(20):
        write_deltalake(lake.uri("gold", f"table_{number}"), pl.DataFrame({"a": [1]}))
    for version in range(60):
        commit = CommitProperties(app_transactions=[Transaction("x", version)])
        write_deltalake(lake.uri("silver", "users"), pl.DataFrame({"a": [1]}), mode="append", commit_properties=commit)
    collect(settings(lake))
    began = time.monotonic()
    collect(settings(lake))
    assert time.monotonic() - began < 1


def test_the_live_cycle_is_shown_with_its_figures(lake: Lake) -> None:
    chosen = settings(lake)
    assert collect(chosen).live is None
    chosen.work_dir.mkdir(parents=True)
    metrics = Metrics(chosen.work_dir)
    for step, seconds in {"capture": 0.05, "build": 0.4, "check": 0.1, "deliver": 0.01, "total": 0.9}.items():
        metrics.observe(step, seconds)
    problems = {"model transactions_ledger": "Out of Range\nError (rows of transactions wait for it)"}
    metrics.note(CycleResult(problems=problems, behind={"cards": Behind(42.0, 30_000, 5_000)}))
    with process_lock(chosen.work_dir / "live.lock", 0, "runs"):
        report = collect(chosen)
    shown = json.loads(to_json(report))["live"]
    assert shown["running"] and shown["age_seconds"] < 60 and shown["cycles"] == 1
    assert shown["lease"]["pid"] == os.getpid() and shown["lease"]["age"] < 60
    assert f"Live cycle runs (process {os.getpid()}, heartbeat " in render(report)
    assert set(shown["histograms"]) == {"capture", "build", "check", "deliver", "total"}
    assert shown["behind"]["cards"]["rows"] == 30_000
    assert "cards waits for 42.0 s, 30,000 rows not scored, 5,000 rows in the source" in render(report)
    assert shown["problems"] == problems
    line = "problem of model transactions_ledger: Out of Range Error (rows of transactions wait for it)"
    assert line in render(report) and line not in render(collect(chosen))
    report.live = {**shown, "running": False, "lease": {"pid": 7, "age": 45.0}}
    assert "Live cycle hangs (process 7, heartbeat 45.0 s ago): a process that stands by takes over" in render(report)
    assert "Live cycle does not run" in render(collect(chosen))


def test_features_of_another_definition_are_named_with_what_computes_them_anew(lake: Lake) -> None:
    write_deltalake(lake.uri("gold", "card_feature_vectors"), pl.DataFrame({"trans_num": ["a"]}).to_arrow())
    report = collect(settings(lake))
    (found,) = report.outdated
    assert found["table"] == "card_feature_vectors"
    assert "user_amt_count_10min" in found["features"]
    assert "`fraud-lakehouse rebuild card_feature_vectors` recomputes them" in render(report)
    assert json.loads(to_json(report))["outdated"] == [found]

    log = Path(lake.uri("gold", "card_feature_vectors")) / "_delta_log"
    next(iter(log.glob("*.json"))).write_text("no log")
    broken = collect(settings(lake))
    assert broken.layers["gold"][0]["error"] and not broken.outdated
