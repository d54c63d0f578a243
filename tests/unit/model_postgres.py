"""A database and its capture, as a model: it redelivers, cuts batches anywhere between transactions, may forget.

It keeps the contract of `PostgresCapture` and refuses an acknowledgement that runs ahead of the lake. What is tested
against it lies in `test_postgres_ingest`; the real server is in tests/integration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import polars as pl
from pydantic import SecretStr

from fraud_lakehouse.ingest.batches import Batches
from fraud_lakehouse.sources.postgres.catalog import ColumnInfo, TableInfo
from fraud_lakehouse.sources.postgres.changes import ChangePiece
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.errors import SlotAheadError, SlotLostError
from fraud_lakehouse.sources.postgres.fingerprint import Shape
from fraud_lakehouse.sources.postgres.lag import PostgresLag
from fraud_lakehouse.sources.postgres.timeline import Timeline
from fraud_lakehouse.sources.postgres.types import ColumnType
from fraud_lakehouse.storage.lake import Lake

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
INT8 = 20
CONFIG = PostgresConfig("bank", SecretStr("dbname=bank"), "slot", "slot", "FRAUD_POSTGRES_DSN")


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
        self.config = CONFIG
        self.refused: list[Ineligibility] = []

    @property
    def app_id(self) -> str:
        return f"pg:{self.server.system}:slot"

    def app_id_of(self, table: str) -> str:
        return f"{self.app_id}:{table}"

    def preflight(self, position: int | None = None) -> None:
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

    @property
    def seen_tables(self) -> list[TableInfo]:
        return self.tables()

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
        self,
        after: Mapping[str, int],
        slot_position: int,
        max_rows: int,
        until: int | None = None,
        waiting: Collection[int] = (),
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
