"""The landing protocol against model sources: whatever is interrupted, bronze holds each event exactly once.

The model sources keep the real ones' contracts (redelivery, batches cut anywhere between transactions, an
acknowledgement that may be lost) and refuse an acknowledgement that runs ahead of the lake. The real sources are in
tests/integration.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_lakehouse.capture.kafka import KafkaBatch, PartitionLag
from fraud_lakehouse.capture.kafka_records import CARD_SCHEMA
from fraud_lakehouse.capture.kafka_source import KafkaTopic, RetentionGapError, TopicRecreatedError
from fraud_lakehouse.capture.postgres import PostgresLag
from fraud_lakehouse.capture.postgres_catalog import ColumnInfo, TableInfo
from fraud_lakehouse.capture.postgres_changes import ChangePiece
from fraud_lakehouse.capture.postgres_errors import SlotAheadError, SlotLostError, SourceIdentityError
from fraud_lakehouse.capture.postgres_timeline import Timeline
from fraud_lakehouse.capture.postgres_traces import Shape
from fraud_lakehouse.capture.postgres_types import ColumnType
from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.lake import failpoints
from fraud_lakehouse.lake.audit import Audit
from fraud_lakehouse.lake.batches import Batches
from fraud_lakehouse.lake.ingest_kafka import KafkaIngest, accept_kafka
from fraud_lakehouse.lake.ingest_postgres import PostgresIngest
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.postgres_orders import accept_postgres
from fraud_lakehouse.settings import Settings

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
INT8 = 20
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
KAFKA_POINTS = ["bronze.after_parquet", "bronze.after_commit", "kafka.before_group_commit", "control.after_parquet"]


class Crash(BaseException):
    """The process dies here (as far as the code under test can tell)."""


def crash() -> None:
    raise Crash


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def table_info(name: str) -> TableInfo:
    shape = Shape(1, ["id"], {}, {1: 1}, frozenset()).text()
    return TableInfo(name, "public", name, (ColumnInfo("id", ColumnType(INT8)),), ("id",), shape=shape)


@dataclass
class ModelServer:
    """A database: rows from before capture, and a log of transactions (end LSN, table -> ids)."""

    system: str = "1"
    before: dict[str, list[int]] = field(default_factory=dict)
    log: list[tuple[int, dict[str, list[int]]]] = field(default_factory=list)
    tables: list[str] = field(default_factory=lambda: ["a", "b"])
    current: int = 100
    confirmed: int | None = None
    durable: int = 0  # what a restart of the server goes back to

    def commit(self, changes: Mapping[str, Sequence[int]]) -> None:
        self.current += 10
        self.log.append((self.current, {table: list(ids) for table, ids in changes.items()}))

    def state_at(self, lsn: int, table: str) -> list[int]:
        logged = [i for end, changes in self.log if end <= lsn for i in changes.get(table, [])]
        return self.before.get(table, []) + logged


class ModelChanges:
    """The contract of Changes: its end is only known after its last piece."""

    def __init__(self, start: int, pieces: list[ChangePiece], end: int) -> None:
        self.start_lsn = self.end_lsn = start
        self._pieces, self._end = pieces, end

    def __iter__(self) -> Iterator[ChangePiece]:
        yield from self._pieces
        self.end_lsn = self._end


class ModelPostgres:
    """The contract of PostgresCapture over a ModelServer."""

    def __init__(self, server: ModelServer, lake: Lake) -> None:
        self.server = server
        self.lake = lake

    @property
    def app_id(self) -> str:
        return f"pg:{self.server.system}:slot"

    def app_id_of(self, table: str) -> str:
        return f"{self.app_id}:{table}"

    def preflight(self) -> None:
        pass

    def close(self) -> None:
        pass

    def forget_server(self) -> None:
        pass

    def timeline(self) -> Timeline:
        return Timeline(1)

    def slot_exists(self) -> bool:
        return self.server.confirmed is not None

    def tables(self) -> list[TableInfo]:
        return [table_info(name) for name in self.server.tables]

    def memberships(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        return {info.name: "1/1" for info in tables}

    publish = memberships

    def held(self, tables: Sequence[TableInfo]) -> AbstractContextManager[None]:
        return nullcontext()

    def resume(self, position: int) -> None:
        if self.server.confirmed is None:
            raise SlotLostError("replication slot slot does not exist", "accept")
        if self.server.confirmed > position:
            raise SlotAheadError("the slot was acknowledged past our position", "accept")

    @contextmanager
    def snapshot(self, tables: Sequence[TableInfo], *, permanent: bool) -> Iterator[Any]:
        lsn = self.server.current
        if permanent:
            self.server.confirmed = self.server.durable = lsn

        def chunks(info: TableInfo) -> Iterator[pl.DataFrame]:
            ids = self.server.state_at(lsn, info.name)
            for start in range(0, max(len(ids), 1), 2):
                yield self.frame([("r", lsn, start + n, i) for n, i in enumerate(ids[start : start + 2])])

        yield SimpleNamespace(lsn=lsn, tables=list(tables), chunks=chunks)

    @staticmethod
    def frame(events: list[tuple[str, int, int, int]]) -> pl.DataFrame:
        rows = [{"id": i, "_op": op, "_lsn": lsn, "_seq": seq, "_committed_at": NOON} for op, lsn, seq, i in events]
        return pl.DataFrame(rows, schema=table_info("a").frame_schema)

    def changes(
        self, after: Mapping[str, int], slot_position: int, max_rows: int, until: int | None = None
    ) -> ModelChanges:
        assert self.server.confirmed is not None
        self.resume(slot_position)
        events: dict[str, list[tuple[str, int, int, int]]] = {}
        end = slot_position
        rows = 0
        for lsn, changes in self.server.log:
            if lsn <= self.server.confirmed:
                continue
            if rows >= max_rows or (until is not None and lsn > until):
                break
            rows += sum(map(len, changes.values()))
            end = max(end, lsn)
            for table, ids in changes.items():
                if lsn > max(after.get(table, 0), slot_position):
                    events.setdefault(table, []).extend(("c", lsn, n, i) for n, i in enumerate(ids))
        if rows < max_rows:
            end = max(end, min(self.server.current, until or self.server.current))
        pieces = [
            ChangePiece({name: self.frame(found[start : start + 2])}, {name: table_info(name)})
            for name, found in events.items()
            for start in range(0, len(found), 2)
        ]
        return ModelChanges(slot_position, pieces, max(end, slot_position))

    def lag(self) -> PostgresLag:
        return PostgresLag(self.server.current, self.server.confirmed, 0, 0, "reserved")

    def acknowledge(self, lsn: int) -> None:
        position = Batches(self.lake).position(self.app_id)
        assert position is not None and lsn <= position, "acknowledged before it was durable"
        self.server.confirmed = lsn


def landed_ids(lake: Lake, table: str) -> list[int]:
    return pl.read_delta(lake.uri("bronze", table))["id"].sort().to_list() if lake.exists("bronze", table) else []


def drain(ingest: Any, *arguments: Any) -> None:
    for _ in range(200):
        if not ingest.step(*arguments):
            return
    raise AssertionError("never drained")


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
        ingest = PostgresIngest(SETTINGS, lake, ModelPostgres(server, lake))  # type: ignore[arg-type]
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
                    ingest = PostgresIngest(SETTINGS, lake, ModelPostgres(server, lake))  # type: ignore[arg-type]
                failpoints.disarm()
        drain(ingest, 3)
        for table in ("a", "b"):
            assert landed_ids(lake, table) == sorted(server.state_at(server.current, table))
        positions = Batches(lake).position("pg:1:slot")
        assert positions is not None and positions >= max((lsn for lsn, changes in server.log if changes), default=0)


def postgres(tmp_path: Path, server: ModelServer) -> PostgresIngest:
    lake = Lake.at(tmp_path)
    return PostgresIngest(SETTINGS, lake, ModelPostgres(server, lake))  # type: ignore[arg-type]


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
        ("postgres", "pg:1:slot:a", "a", 3),
        ("postgres", "pg:1:slot:b", "b", 0),
        ("postgres", "pg:1:slot:a", "a", 1),
        ("postgres", "pg:1:slot:b", "b", 2),
    ]
    assert [row.event for row in Audit(ingest.lake).rows("postgres")] == ["registered", "snapshot"]


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
    monkeypatch.setattr("fraud_lakehouse.lake.ingest_postgres.NEW_TABLES_SECONDS", 0.0)
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
    monkeypatch.setattr("fraud_lakehouse.lake.ingest_changes.IDLE_SECONDS", 0.0)
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


def test_two_snapshots_at_once_never_mix(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1, 2, 3, 4, 5]})
    one, two = postgres(tmp_path, server), postgres(tmp_path, server)

    def rival() -> None:
        server.current += 10
        two.step(10)

    failpoints.arm("postgres.in_snapshot", 2, action=rival)
    with pytest.raises(ConcurrentWriterError):
        one.step(10)
    drain(one, 10)
    assert landed_ids(one.lake, "a") == [1, 2, 3, 4, 5]


def test_another_system_fails_closed_until_accepted(tmp_path: Path) -> None:
    server = ModelServer(before={"a": [1]})
    drain(postgres(tmp_path, server), 10)
    other = ModelServer(system="2", before={"a": [7, 8]})
    ingest = postgres(tmp_path, other)
    for _ in range(3):
        with pytest.raises(SourceIdentityError, match="accept-source postgres"):
            ingest.step(10)
    assert landed_ids(ingest.lake, "a") == [1]
    assert accept_postgres(SETTINGS, ingest.lake, ModelPostgres(other, ingest.lake)) == "pg:2:slot"  # type: ignore[arg-type]
    drain(ingest, 10)
    assert landed_ids(ingest.lake, "a") == [7, 8]
    events = [row.event for row in Audit(ingest.lake).rows("postgres")]
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
    accept_postgres(SETTINGS, ingest.lake, ModelPostgres(server, ingest.lake))  # type: ignore[arg-type]
    failpoints.arm("postgres.before_snapshot_position", action=crash)
    with pytest.raises(Crash):
        ingest.step(10)
    drain(postgres(tmp_path, server), 10)
    server.commit({"a": [3]})
    drain(postgres(tmp_path, server), 10)
    assert landed_ids(ingest.lake, "a") == [1, 2, 3]
    events = [row.event for row in Audit(ingest.lake).rows("postgres")]
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


@dataclass
class ModelTopic:
    """A topic: partition -> values by offset; `start` is where retention has come to."""

    partitions: int = 2
    topic_id: str = "T1"
    records: dict[int, list[int]] = field(default_factory=dict)
    start: dict[int, int] = field(default_factory=dict)

    def publish(self, partition: int, value: int) -> None:
        self.records.setdefault(partition, []).append(value)


class ModelKafka:
    """The contract of KafkaCapture over a ModelTopic."""

    def __init__(self, model: ModelTopic) -> None:
        self.model = model
        self.group: dict[str, int] = {}

    @property
    def topic(self) -> KafkaTopic:
        return KafkaTopic("transaction", "C1", self.model.topic_id, self.model.partitions)

    def preflight(self) -> None:
        pass

    def close(self) -> None:
        pass

    def read(self, positions: Mapping[str, int | None], max_rows: int, timeout: float) -> KafkaBatch | None:
        assert timeout == 0
        rows: list[dict[str, Any]] = []
        after: dict[str, int] = {}
        first: dict[str, int] = {}
        for number in range(self.model.partitions):
            app_id = self.topic.app_id(number)
            known = positions.get(app_id)
            begin = self.model.start.get(number, 0) if known is None else known
            if begin < self.model.start.get(number, 0):
                raise RetentionGapError(f"partition {number}: {begin} is gone", "accept")
            values = self.model.records.get(number, [])[begin : begin + max_rows - len(rows)]
            for offset, value in enumerate(values, begin):
                rows.append({"user_id": value, "_partition": number, "_offset": offset, "_timestamp": NOON})
            after[app_id] = begin + len(values)
            if values:
                first[app_id] = begin
        return KafkaBatch(pl.DataFrame(rows, schema=CARD_SCHEMA), after, first, NOON) if rows else None

    def commit_group(self, positions: Mapping[str, int]) -> None:
        self.group = dict(positions)

    def lag(self, positions: Mapping[str, int | None]) -> Any:
        ends = {n: len(self.model.records.get(n, [])) for n in range(self.model.partitions)}
        found = {
            self.topic.app_id(n): PartitionLag(positions.get(self.topic.app_id(n)), self.model.start.get(n, 0), end, 0)
            for n, end in ends.items()
        }
        return SimpleNamespace(partitions=found)


def kafka(folder: Path | str, model: ModelTopic) -> KafkaIngest:
    return KafkaIngest(SETTINGS, Lake.at(folder), ModelKafka(model))  # type: ignore[arg-type]


def landed_cards(lake: Lake) -> list[int]:
    return pl.read_delta(lake.uri("bronze", "card_transactions"))["user_id"].sort().to_list()


kafka_actions = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.integers(0, 2), min_size=1, max_size=6)),
    st.tuples(st.just("step"), st.integers(1, 5)),
    st.tuples(st.just("crash"), st.tuples(st.sampled_from(KAFKA_POINTS), st.integers(1, 2))),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(kafka_actions, max_size=14))
def test_kafka_records_land_exactly_once_through_any_crash(actions: list[tuple[str, Any]]) -> None:
    numbers = iter(range(1_000_000))
    model = ModelTopic(partitions=3)
    with tempfile.TemporaryDirectory() as folder:
        ingest = kafka(folder, model)
        for action, value in actions:
            if action == "publish":
                for partition in value:
                    model.publish(partition, next(numbers))
            else:
                if action == "crash":
                    failpoints.arm(*value, action=crash)
                try:
                    ingest.step(value if action == "step" else 3, 0)
                except Crash:
                    ingest = kafka(folder, model)
                failpoints.disarm()
        drain(ingest, 3, 0)
        assert landed_cards(Lake.at(folder)) == sorted(v for values in model.records.values() for v in values)


def test_kafka_batches_are_one_commit_for_all_partitions(tmp_path: Path) -> None:
    model = ModelTopic()
    for value in range(6):
        model.publish(value % 2, value)
    ingest = kafka(tmp_path, model)
    (item,) = ingest.step(100, 0)
    assert (item.rows, item.from_position, item.to_position, item.version) == (6, 0, 6, 1)
    assert ingest.capture.group == {"kafka:C1:T1:0": 3, "kafka:C1:T1:1": 3}
    batches = Batches(ingest.lake).read()
    assert batches.sort("app_id").select("app_id", "from_position", "to_position", "rows").rows() == [
        ("kafka:C1:T1:0", 0, 3, 3),
        ("kafka:C1:T1:1", 0, 3, 3),
    ]
    assert ingest.step(100, 0) == []


def test_a_recreated_topic_fails_closed_until_accepted(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    fresh = ModelTopic(topic_id="T2")
    fresh.publish(0, 2)
    for again in (kafka(tmp_path, fresh), kafka(tmp_path, fresh)):
        with pytest.raises(TopicRecreatedError, match="accept-source kafka"):
            again.step(10, 0)
    assert landed_cards(ingest.lake) == [1]
    assert accept_kafka(SETTINGS, ingest.lake, ModelKafka(fresh)) == "kafka:C1:T2"  # type: ignore[arg-type]
    drain(kafka(tmp_path, fresh), 10, 0)
    assert landed_cards(ingest.lake) == [1, 2]
    assert [row.event for row in Audit(ingest.lake).rows("kafka")] == [
        "registered",
        "topic_recreated",
        "accepted",
        "resumed",
    ]


def test_a_topic_recreated_under_a_running_process_is_seen(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    model.topic_id = "T2"
    with pytest.raises(TopicRecreatedError):
        ingest.step(10, 0)
    assert landed_cards(ingest.lake) == [1]


def test_a_retention_gap_fails_closed_until_accepted(tmp_path: Path) -> None:
    model = ModelTopic(partitions=1)
    for value in range(3):
        model.publish(0, value)
    ingest = kafka(tmp_path, model)
    drain(ingest, 10, 0)
    for value in range(3, 9):
        model.publish(0, value)
    model.start[0] = 6
    for _ in range(2):
        with pytest.raises(RetentionGapError):
            ingest.step(10, 0)
    accept_kafka(SETTINGS, ingest.lake, ModelKafka(model))  # type: ignore[arg-type]
    drain(ingest, 10, 0)
    assert landed_cards(ingest.lake) == [0, 1, 2, 6, 7, 8]
    rows = Audit(ingest.lake).rows("kafka")
    assert [row.event for row in rows] == ["registered", "retention_gap", "accepted", "resumed"]
    assert rows[2].detail["moved"] == {"kafka:C1:T1:0": [3, 6]}
    assert json.dumps(rows[1].detail["problem"])


def test_two_kafka_processes_land_each_record_once(tmp_path: Path) -> None:
    model = ModelTopic()
    model.publish(0, 1)
    one, two = kafka(tmp_path, model), kafka(tmp_path, model)
    drain(one, 10, 0)
    drain(two, 10, 0)
    model.publish(1, 2)
    read = two.capture.read

    def read_while_the_other_lands(*arguments: Any) -> Any:
        batch = read(*arguments)
        one.step(10, 0)
        return batch

    two.capture.read = read_while_the_other_lands  # type: ignore[method-assign]
    with pytest.raises(ConcurrentWriterError):
        two.step(10, 0)
    two.capture.read = read  # type: ignore[method-assign]
    drain(two, 10, 0)
    assert landed_cards(one.lake) == [1, 2]
