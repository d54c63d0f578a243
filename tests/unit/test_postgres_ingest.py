"""Landing of PostgreSQL against a model of it: whatever is interrupted, bronze holds each event exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse import failpoints
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import first_properties, resync_reason
from fraud_lakehouse.ingest.operator_actions import accept_postgres
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import SlotLostError, SourceIdentityError
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.drained import drain
from tests.interruption import Crash, crash
from tests.unit.model_postgres import ModelPostgres, ModelServer

SETTINGS = Settings(lake="unused")
POSTGRES_POINTS = [
    "bronze.after_parquet",
    "bronze.after_commit",
    "postgres.before_position",
    "control.after_parquet",
    "control.after_commit",
    "postgres.before_acknowledge",
    "postgres.after_acknowledge",
    "postgres.in_snapshot",
    "postgres.before_snapshot_position",
]


def landed_ids(lake: Lake, table: str) -> list[int]:
    return pl.read_delta(lake.uri("bronze", table))["id"].sort().to_list() if lake.exists("bronze", table) else []


transactions = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 3), min_size=0, max_size=2)
postgres_actions = st.one_of(
    st.tuples(st.just("write"), st.lists(transactions, min_size=1, max_size=4)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("crash"), st.tuples(st.sampled_from(POSTGRES_POINTS), st.integers(1, 4))),
    st.tuples(st.just("server restarts"), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=st.integers(0, 5), actions=st.lists(postgres_actions, max_size=14))
def test_postgres_events_land_exactly_once_through_any_crash(before: int, actions: list[tuple[str, Any]]) -> None:
    numbers = iter(range(1_000_000))
    server = ModelServer(before={"a": [next(numbers) for _ in range(before)]})
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        ingest = PostgresIngest(SETTINGS, lake, capture=ModelPostgres(server, lake))  # type: ignore[arg-type]
        for action, value in actions:
            if action == "write":
                for shape in value:
                    server.commit({table: [next(numbers) for _ in range(n)] for table, n in shape.items()})
            elif action == "server restarts" and server.confirmed is not None:
                server.confirmed = server.durable  # an acknowledged position is not crash-safe
            elif action in ("step", "crash"):
                if action == "crash":
                    failpoints.arm(*value, action=crash)
                try:
                    ingest.step(value if action == "step" else 3)
                except Crash:
                    ingest = PostgresIngest(SETTINGS, lake, capture=ModelPostgres(server, lake))  # type: ignore[arg-type]
                failpoints.disarm()
        drain(ingest, 3)
        for table in ("a", "b"):
            assert landed_ids(lake, table) == sorted(server.state_at(server.current, table))
        positions = Batches(lake).position("pg:1:slot")
        assert positions is not None and positions >= max((lsn for lsn, changes in server.log if changes), default=0)


def postgres(tmp_path: Path, server: ModelServer) -> PostgresIngest:
    lake = Lake.at(tmp_path)
    return PostgresIngest(SETTINGS, lake, capture=ModelPostgres(server, lake))  # type: ignore[arg-type]


def test_snapshot_then_log_with_batches_and_audit(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1, 2, 3]})
    ingest = postgres(tmp_path, server)
    first = ingest.step(100)
    assert [(item.table, item.rows, item.to_position) for item in first] == [("a", 3, 100)]
    server.commit({"a": [4], "b": [5, 6]})
    second = ingest.step(100)
    assert {(item.table, item.rows, item.from_position, item.to_position) for item in second} == {
        ("a", 1, 100, 110),
        ("b", 2, 100, 110),
    }
    assert second[0].run_key == "a:100-110"
    assert ingest.step(100) == []
    assert server.confirmed == 110
    batches = Batches(ingest.lake).read().sort("landed_at", "table")
    assert batches.select("source", "app_id", "table", "rows").rows() == [
        ("bank", "pg:1:slot:a", "a", 3),
        ("bank", "pg:1:slot:b", "b", 0),
        ("bank", "pg:1:slot:a", "a", 1),
        ("bank", "pg:1:slot:b", "b", 2),
    ]
    assert [row.event for row in Audit(ingest.lake).rows("bank")] == ["registered", "snapshot"]


@pytest.mark.parametrize("point", ["postgres.before_position", "postgres.before_acknowledge"])
def test_a_batch_that_holds_only_what_we_have_does_not_look_drained(tmp_path: Path, point: str) -> None:
    server = ModelServer()
    ingest = postgres(tmp_path, server)
    drain(ingest, 10)
    server.commit({"a": [1, 2, 3]})
    server.commit({"a": [4]})
    failpoints.arm(point, action=crash)
    with pytest.raises(Crash):
        ingest.step(3)
    again = postgres(tmp_path, server)
    assert [item.rows for item in again.step(3)] == [1]
    assert landed_ids(again.lake, "a") == [1, 2, 3, 4]


def test_a_table_created_later_is_backfilled_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_lakehouse.ingest.postgres.NEW_TABLES_SECONDS", 0.0)
    server = ModelServer(before={"a": [1]})
    ingest = postgres(tmp_path, server)
    drain(ingest, 10)
    server.tables.append("c")
    server.before["c"] = [7, 8]
    server.commit({"c": [9]})
    drain(ingest, 10)
    server.commit({"c": [10], "a": [2]})
    drain(ingest, 10)
    assert landed_ids(ingest.lake, "c") == [7, 8, 9, 10]
    assert landed_ids(ingest.lake, "a") == [1, 2]


def test_idle_log_moves_the_position_only_when_worth_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ModelServer()
    ingest = postgres(tmp_path, server)
    drain(ingest, 10)
    version = Batches(ingest.lake).version
    server.current += 5000
    assert ingest.step(10) == []
    assert Batches(ingest.lake).version == version
    server.current += 16 * 1024 * 1024
    assert ingest.step(10) == []
    assert server.confirmed == server.current
    server.current += 1
    monkeypatch.setattr("fraud_lakehouse.ingest.changes.IDLE_SECONDS", 0.0)
    assert ingest.step(10) == []
    assert server.confirmed == server.current
    assert Batches(ingest.lake).position("pg:1:slot") == server.current


def test_a_second_process_is_refused_then_continues(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1]})
    one, two = postgres(tmp_path, server), postgres(tmp_path, server)
    drain(one, 10)
    drain(two, 10)
    server.commit({"a": [2]})

    read = two.capture.changes

    def read_while_the_other_lands(*arguments: Any) -> Any:
        batch = read(*arguments)
        one.step(10)
        return batch

    two.capture.changes = read_while_the_other_lands  # type: ignore[method-assign]
    with pytest.raises(ConcurrentWriterError):
        two.step(10)
    two.capture.changes = read  # type: ignore[method-assign]
    server.commit({"a": [3]})
    drain(two, 10)
    server.commit({"a": [4]})
    drain(one, 10)
    assert landed_ids(one.lake, "a") == [1, 2, 3, 4]


@pytest.mark.parametrize(("rows", "piece"), [(5, 2), (2, 1)], ids=["of several pieces", "of one piece"])
def test_two_snapshots_at_once_never_mix(tmp_path: Path, rows: int, piece: int) -> None:
    ids = list(range(rows))
    server = ModelServer(before={"a": ids})
    one, two = postgres(tmp_path, server), postgres(tmp_path, server)

    def rival() -> None:
        server.current += 10
        two.step(10)

    failpoints.arm("postgres.in_snapshot", piece, action=rival)
    with pytest.raises(ConcurrentWriterError):
        one.step(10)
    drain(one, 10)
    assert landed_ids(one.lake, "a") == ids


def test_a_small_table_is_landed_by_two_commits(tmp_path: Path) -> None:
    ingest = postgres(tmp_path, ModelServer(before={"a": [1]}))
    drain(ingest, 10)
    (found,) = (info for info in ingest.capture.tables() if info.name == "a")
    table = ingest.lake.open("bronze", "a")
    assert table.version() == 1, "it is made with its properties, and gets its rows with their position"
    assert table.metadata().configuration.items() >= first_properties(found, "1/1", "bank").items()
    assert landed_ids(ingest.lake, "a") == [1]


def test_tables_that_agree_with_the_catalog_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = postgres(tmp_path, ModelServer(before={"a": [1]}))
    drain(ingest, 10)
    compared: list[str] = []

    def counted(table: BronzeTable, info: TableInfo, member: str | None) -> str | None:
        compared.append(info.name)
        return resync_reason(table, info, member)

    monkeypatch.setattr("fraud_lakehouse.ingest.postgres.resync_reason", counted)
    monkeypatch.setattr("fraud_lakehouse.ingest.postgres.NEW_TABLES_SECONDS", 0.0)
    ingest._start_over()
    ingest.step(10)
    assert compared == ["a", "b"]
    ingest.step(10)
    assert compared == ["a", "b"]
    monkeypatch.setattr(ingest.capture, "memberships", lambda tables: {"a": "1/1", "b": "2/1"})
    ingest.step(10)
    assert compared == ["a", "b", "b"], "the publication has b anew"


def test_another_system_fails_closed_until_accepted(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1]})
    drain(postgres(tmp_path, server), 10)
    other = ModelServer(system="2", before={"a": [7, 8]})
    ingest = postgres(tmp_path, other)
    for _ in range(3):
        with pytest.raises(SourceIdentityError, match="accept-source bank"):
            ingest.step(10)
    assert landed_ids(ingest.lake, "a") == [1]
    assert accept_postgres(ingest.lake, ModelPostgres(other, ingest.lake)) == "pg:2:slot"  # type: ignore[arg-type]
    drain(ingest, 10)
    assert landed_ids(ingest.lake, "a") == [7, 8]
    events = [row.event for row in Audit(ingest.lake).rows("bank")]
    assert events == ["registered", "snapshot", "source_identity", "accepted", "snapshot"]


def test_a_lost_slot_fails_closed_until_accepted(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1]})
    ingest = postgres(tmp_path, server)
    drain(ingest, 10)
    server.confirmed = None
    server.commit({"a": [2]})
    ingest = postgres(tmp_path, server)
    for _ in range(2):
        with pytest.raises(SlotLostError):
            ingest.step(10)
    accept_postgres(ingest.lake, ModelPostgres(server, ingest.lake))  # type: ignore[arg-type]
    failpoints.arm("postgres.before_snapshot_position", action=crash)
    with pytest.raises(Crash):
        ingest.step(10)
    drain(postgres(tmp_path, server), 10)
    server.commit({"a": [3]})
    drain(postgres(tmp_path, server), 10)
    assert landed_ids(ingest.lake, "a") == [1, 2, 3]
    events = [row.event for row in Audit(ingest.lake).rows("bank")]
    assert events == ["registered", "snapshot", "slot_lost", "accepted", "snapshot"]


def test_an_unwritable_lake_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ModelServer(before={"a": [1]})
    ingest = postgres(tmp_path, server)
    drain(ingest, 10)
    server.commit({"a": [2]})
    with monkeypatch.context() as patch:

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(LakeError, match=r"bronze/a(?s:.)*free space"):
            ingest.step(10)
    assert server.confirmed == 100
    drain(ingest, 10)
    assert landed_ids(ingest.lake, "a") == [1, 2]
