"""The differences between a bronze table's state at one LSN and a snapshot of the source at the same LSN.

Pure out-of-core computation in DuckDB: reads Parquet files, writes one. The state has the last event of each key since
the last truncate. Where an update omitted a large value (`_unchanged`), the value is the last one sent since the row
was created. If the row began with a change of its key, the value is unknown and counts as different.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl

from fraud_lakehouse.sql_text import literal, quoted
from fraud_lakehouse.storage import object_store

EVENT_COLUMNS = ("_op", "_lsn", "_seq", "_committed_at", "_unchanged", "_text")


@dataclass(frozen=True)
class Differences:
    """The events that make a table's state equal to the snapshot.

    Args:
        path: Parquet file of events without positions: the columns of the snapshot's files but `_lsn` and `_seq`; `_op`
            is `r` (the current row) or `d` (a deleted key; other columns null).
        rows: number of rows of the snapshot.
        new, changed, gone: number of keys that were missing, different, or no longer in the source.
    """

    path: Path
    rows: int
    new: int
    changed: int
    gone: int


_SINCE = "(select coalesce(max(place), -1) from events where op = 't')"


def write_differences(
    bronze: Sequence[str],
    bronze_schema: Mapping[str, pl.DataType],
    snapshot: Sequence[Path],
    schema: Mapping[str, pl.DataType],
    key: Sequence[str],
    lsn: int,
    taken_at: datetime,
    folder: Path,
    memory: str,
) -> Differences:
    """Compare and write `<folder>/differences.parquet`.

    Args:
        bronze: the bronze table's data files (any number).
        bronze_schema: the bronze table's columns; older files may lack some.
        snapshot: Parquet files of events `r` with exactly `schema`, at least one (possibly empty).
        schema: columns of the source, then `_op`, `_lsn`, `_seq`, `_committed_at`, `_unchanged`, `_text`.
        key: names of the key columns.
        lsn: ignore events of bronze beyond it.
        taken_at: time of the snapshot, and of the differences.
        folder: scratch, on a disk with space for the snapshot and for what does not fit into `memory`.
        memory: DuckDB's memory limit, e.g. "1GB".
    """
    query = _Query(schema, key)
    pl.DataFrame(schema=dict(bronze_schema)).write_parquet(folder / "columns.parquet")
    with duckdb.connect() as engine:
        engine.execute(f"set memory_limit = {literal(memory)}")
        engine.execute(f"set temp_directory = {literal(str(folder / 'spill'))}")
        engine.execute("set preserve_insertion_order = false")
        engine.execute("set timezone = 'UTC'")
        for file in bronze[:1]:
            object_store.register(engine, file)
        files = [str(folder / "columns.parquet"), *bronze]
        engine.execute(f"create temp view events as {query.events(files, lsn)}")
        engine.execute(f"create temp view snapshot as {query.snapshot([str(path) for path in snapshot])}")
        engine.execute(query.newest())
        lists = engine.execute("select distinct unchanged from newest where unchanged is not null and op <> 'd'")
        query.unsent(row[0] for row in lists.fetchall())
        engine.execute(query.partial())
        engine.execute(f"create temp table found as {query.found()}")
        counted = dict(engine.execute("select kind, count(*) from found group by kind").fetchall())
        rows = engine.execute("select count(*) from snapshot").fetchone()
        assert rows is not None
        path = folder / "differences.parquet"
        options = "format parquet, compression zstd, row_group_size 100000"
        engine.execute(f"copy ({query.rows(taken_at)}) to {literal(str(path))} ({options})")
    return Differences(path, rows[0], counted.get("new", 0), counted.get("changed", 0), counted.get("gone", 0))


class _Query:
    """The statements for one table. They call source columns c0, c1, …, to avoid clashes with ours.

    `place` orders events: commit end LSN, then position in the transaction. `k0`, … and `texts` are the key, never
    null: its values, and the exact texts of values that their columns cannot represent ('': none), as in silver and
    history.
    """

    def __init__(self, schema: Mapping[str, pl.DataType], key: Sequence[str]) -> None:
        self._names = [name for name in schema if name not in EVENT_COLUMNS]
        self._inside = {name: f"c{number}" for number, name in enumerate(self._names)}
        self._filled = [name for name in self._names if name not in key]
        self._unsent: list[str] = []
        self._schema = schema
        self._key = list(key)
        self._keys = ", ".join([*(f"k{number}" for number in range(len(self._key))), "texts"])

    def events(self, files: Sequence[str], lsn: int) -> str:
        place = "cast(_lsn as hugeint) * 1099511627776 + _seq as place"
        return f"select {self._renamed()}, {place} from {_files(files)} where _lsn <= {lsn}"

    def snapshot(self, files: Sequence[str]) -> str:
        return f"select {self._renamed()} from {_files(files)}"

    def newest(self) -> str:
        """A temporary table: each key's last event."""
        return (
            f"create temp table newest as select {self._keys}, max(place) as place, arg_max(op, place) as op,"
            f" arg_max_null(unchanged, place) as unchanged"
            f" from events where op <> 't' and place > {_SINCE} group by {self._keys}"
        )

    def unsent(self, lists: Iterable[str]) -> None:
        """Collect the columns that last events omitted, from their JSON lists; often none."""
        names = {name for text in lists for name in json.loads(text)}
        self._unsent = [name for name in self._filled if name in names]

    def partial(self) -> str:
        """A temporary table: the values that last events omitted."""
        starts = "previous is null or previous = 'd' or op in ('c', 'r')"
        sent = "".join(
            f", arg_max_null({column}, place) filter (where not {self._left_out(name, '')}) as {column}"
            f", count(*) filter (where not {self._left_out(name, '')}) > 0 as sent_{column}"
            for name in self._unsent
            for column in [self._inside[name]]
        )
        columns = ", ".join([self._keys, "op", "place", "unchanged", *(self._inside[name] for name in self._unsent)])
        return (
            f"create temp table partial as"
            f" with touched as (select {self._keys} from newest where unchanged is not null and op <> 'd'),"
            f" followed as (select {columns}, lag(op) over (partition by {self._keys} order by place) as previous"
            f" from events semi join touched using ({self._keys}) where op <> 't' and place > {_SINCE}),"
            f" lives as (select followed.*, max(case when {starts} then place end) over (partition by {self._keys})"
            f" as began from followed)"
            f" select {self._keys}{sent} from lives where place >= began and op <> 'd' group by {self._keys}"
        )

    def found(self) -> str:
        """Keys of the differences and their kind: gone, new or changed."""
        differs = "".join(f" or {self._differs(name)}" for name in self._unsent)
        sent = [self._inside[name] for name in self._filled if name not in self._unsent]
        if sent:
            rows = (f"row({', '.join(f'{side}.{column}' for column in sent)})" for side in ("snapshot", "events"))
            differs += f" or {' is distinct from '.join(rows)}"
        keys = ", ".join(f"snapshot.{name}" for name in self._keys.split(", "))
        return (
            f"with live as (select * from newest where op <> 'd')"
            f" select 'gone' as kind, {self._keys} from live anti join snapshot using ({self._keys})"
            f" union all"
            f" select case when live.place is null then 'new' else 'changed' end, {keys}"
            f" from snapshot left join live using ({self._keys}) left join events on events.place = live.place"
            f" left join partial using ({self._keys})"
            f" where live.place is null"
            f" or (live.unchanged is null and snapshot.beside is distinct from events.beside){differs}"
        )

    def rows(self, taken_at: datetime) -> str:
        """The differences as events under the source's names."""
        whole = ", ".join(f"{column} as {quoted(name)}" for name, column in self._inside.items())
        gone = ", ".join(column if name in self._key else f"null as {column}" for name, column in self._inside.items())
        moment = f"timestamptz {literal(taken_at.astimezone(UTC).isoformat())}"
        events = (
            f"select {whole}, 'r' as _op, cast(null as varchar) as _unchanged, beside as _text"
            f" from snapshot semi join found using ({self._keys})"
            f" union all"
            f" select {gone}, 'd', null, case when texts <> '' then beside end"
            f" from events where place in (select newest.place from newest semi join"
            f" (select * from found where kind = 'gone') using ({self._keys}))"
        )
        return f"select *, {moment} as _committed_at from ({events})"

    def _renamed(self) -> str:
        own = [f"{quoted(name)} as {column}" for name, column in self._inside.items()]
        keys = [f"{self._comparable(name)} as k{number}" for number, name in enumerate(self._key)]
        texts = f"{self._texts()} as texts"
        return ", ".join([*own, *keys, texts, "_op as op", "_unchanged as unchanged", "_text as beside"])

    def _comparable(self, name: str) -> str:
        kind, column = self._schema[name], quoted(name)
        if kind.is_integer():
            return f"coalesce({column}, 0)"
        return f"coalesce(cast({column} as varchar), '')"

    def _texts(self) -> str:
        pointers = ["/" + name.replace("~", "~0").replace("/", "~1") for name in self._key]
        texts = ", ".join(f"json_extract_string(_text, {literal(pointer)})" for pointer in pointers)
        return f"case when coalesce({texts}) is not null then cast([{texts}] as varchar) else '' end"

    def _differs(self, name: str) -> str:
        column = self._inside[name]
        return (
            f"case when {self._left_out(name, 'live.')}"
            f" then not coalesce(partial.sent_{column}, false) or snapshot.{column} is distinct from partial.{column}"
            f" else snapshot.{column} is distinct from events.{column} end"
        )

    def _left_out(self, name: str, prefix: str) -> str:
        return f"coalesce(json_contains({prefix}unchanged, {literal(json.dumps(name))}), false)"


def _files(paths: Sequence[str]) -> str:
    return f"read_parquet([{', '.join(literal(path) for path in paths)}], union_by_name = true)"
