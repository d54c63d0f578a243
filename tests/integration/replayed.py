"""A model of a table: the events of bronze replayed by their meaning, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import psycopg

from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA, TableInfo

Row = dict[str, Any]


@dataclass(frozen=True)
class ChangeBatch:
    """All pieces of one look at the log together, as `Changes` describes them."""

    end_lsn: int
    frames: dict[str, pl.DataFrame]
    tables: dict[str, TableInfo]
    newest_committed_at: datetime | None


def read_whole(capture: PostgresCapture, after: Mapping[str, int], position: int, max_rows: int) -> ChangeBatch | None:
    """The next whole transactions in memory; None when the log holds nothing new."""
    changes = capture.changes(after, position, max_rows)
    frames: dict[str, list[pl.DataFrame]] = {}
    for piece in changes:
        for name, frame in piece.frames.items():
            frames.setdefault(name, []).append(frame)
    if changes.end_lsn == position:
        return None
    whole = {name: pl.concat(pieces, how="diagonal_relaxed") for name, pieces in frames.items()}
    return ChangeBatch(changes.end_lsn, whole, changes.tables, changes.newest_committed_at)


class Replayed:
    """Rows by key, for each table, after `r`, `c`, `u`, `d` and `t` events in order; keeps positions as a lake does."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], Row]] = {}
        self.after: dict[str, int] = {}
        self.position = 0
        self.ops: Counter[str] = Counter()
        self.may_repeat = False  # a resync may say `r` of a row that is there
        self._moved: dict[tuple[int, int], Row | None] = {}

    def snapshot(self, capture: PostgresCapture, tables: list[TableInfo] | None = None) -> None:
        with capture.snapshot(tables) as snapshot:
            for table in snapshot.tables:
                self.rows[table.name] = {}
                for chunk in snapshot.chunks(table):
                    self.apply(table, chunk)
                self.after[table.name] = snapshot.lsn
            if tables is None:
                self.position = snapshot.lsn

    def land(self, batch: ChangeBatch) -> None:
        assert batch.end_lsn > self.position
        for name, frame in batch.frames.items():
            assert frame["_lsn"].min() > max(self.position, self.after[name])
            assert frame["_lsn"].max() <= batch.end_lsn
            self.apply(batch.tables[name], frame)
            self.after[name] = batch.end_lsn
        self.position = batch.end_lsn

    def follow(self, capture: PostgresCapture, max_rows: int = 100_000, acknowledge: bool = True) -> int:
        """Read until nothing is left; returns the number of batches with rows."""
        batches = 0
        while (batch := read_whole(capture, self.after, self.position, max_rows)) is not None:
            self.land(batch)
            if acknowledge:
                capture.acknowledge(batch.end_lsn)
            batches += bool(batch.frames)
        return batches

    def apply(self, table: TableInfo, frame: pl.DataFrame) -> None:
        assert dict(frame.schema) == table.frame_schema
        assert frame.select("_lsn", "_seq").rows() == sorted(frame.select("_lsn", "_seq").unique().rows())
        rows = self.rows.setdefault(table.name, {})
        self.ops.update(frame["_op"].to_list())
        for event in frame.iter_rows(named=True):
            self._apply(rows, table, event)

    def _apply(self, rows: dict[tuple[Any, ...], Row], table: TableInfo, event: Row) -> None:
        key = tuple(event[name] for name in table.key)
        row = {name: value for name, value in event.items() if name not in EVENT_SCHEMA}
        place = (event["_lsn"], event["_seq"])
        match event["_op"]:
            case "t":
                rows.clear()
            case "d":
                self._moved = {place: rows.pop(key)}
            case "r" | "c":
                assert self.may_repeat or key not in rows
                rows[key] = row
            case "u":
                # A moved row's previous version is the one deleted one number before.
                before = self._moved.get((place[0], place[1] - 1)) or rows.get(key)
                for name in json.loads(event["_unchanged"] or "[]"):
                    assert before is not None
                    row[name] = before[name]
                rows[key] = row


def source_rows(dsn: str, table: str, key: tuple[str, ...]) -> Mapping[tuple[Any, ...], Row]:
    """The table as the source has it now, by key."""
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        return {
            tuple(row[name] for name in key): row for row in connection.execute(f"select * from {table}").fetchall()
        }
