"""Decodes the log's messages (plugin pgoutput, protocol 1) into typed frames, column-wise instead of row by row.

Message layout: PostgreSQL documentation, chapter "Logical Replication Message Formats". Makes no connections.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.errors import TableWithoutPositionError, one_table
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.sources.postgres.pgoutput.relation import Relation, Relations
from fraud_lakehouse.sources.postgres.pgoutput.runs import EPOCH_2000, Part
from fraud_lakehouse.sources.postgres.pgoutput.tuples import ROW, TupleReader
from fraud_lakehouse.sources.postgres.pgoutput.union import union
from fraud_lakehouse.sources.postgres.types import ColumnType

_INSERT, _UPDATE, _DELETE, _TRUNCATE, _COMMIT, _RELATION = (ord(letter) for letter in "IUDTCR")
_BEGIN, _NEW, _OLD_ROW = (ord(letter) for letter in "BNO")
_CHANGES = [_INSERT, _UPDATE, _DELETE, _TRUNCATE]
_LAST_LSN = 2**63 - 1


@dataclass(frozen=True)
class Decoded:
    """The events of a run of messages.

    Args:
        frames: bronze table name to its events in order, columns `TableInfo.frame_schema`.
        tables: each table of `frames` as of the end of the run.
        end_lsn: end LSN of the last transaction, 0 if there is none.
        newest_committed_at_us: its commit time, microseconds since 1970 UTC; None if there is none.
    """

    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    tables: dict[str, TableInfo] = field(default_factory=dict)
    end_lsn: int = 0
    newest_committed_at_us: int | None = None


def decode(
    messages: Sequence[bytes],
    tables: Mapping[str, TableInfo],
    after: Mapping[str, int],
    position: int,
    base_types: Callable[[Sequence[int]], Mapping[int, ColumnType]] = lambda oids: {},
    *,
    part: Part | None = None,
    described: dict[int, Relation] | None = None,
    until: int = _LAST_LSN,
    left_out: Collection[int] = (),
    names: Mapping[tuple[str, str], str] | None = None,
) -> Decoded:
    """Decode whole transactions, or a piece of one.

    Args:
        messages: messages of one peek, from a Begin to a Commit unless they are a `part`.
        tables: the known tables, by bronze name (key and identity of FULL tables).
        after: bronze name to the LSN up to which that table already has everything; a table that is in
            neither `after` nor `tables` is skipped.
        position: LSN up to which every table has everything.
        base_types: maps the oids of user-defined types that are domains to their base types.
        part: the transaction that the messages are a piece of.
        described: relations by oid, from earlier messages of the same peek; updated here.
        until: skip transactions that end after this LSN.
        left_out: oids of tables whose events are skipped.
        names: existing bronze names, by schema and table; also of dropped tables.

    Raises:
        TableFailedError: a table's events cannot be decoded.
        TableWithoutPositionError: a table of `tables` is not in `after`.
    """
    if not messages:
        return Decoded()
    described = {} if described is None else described
    log = _transactions(pl.Series("data", messages, dtype=pl.Binary), part)
    wanted = pl.col("lsn") <= until
    last = log.filter(wanted).select(pl.col("lsn").max(), pl.col("committed").last()).row(0)
    sent = log.filter(pl.col("kind") == _RELATION).select(ROW, "data").rows()
    relations = Relations.read(sent, base_types, described)
    rows = log.filter((pl.col("lsn") > position) & wanted & pl.col("kind").is_in(_CHANGES))
    present = {(info.schema, info.table): name for name, info in tables.items()}
    names = {**(names or {}), **present}
    parts: dict[str, list[tuple[Relation, pl.DataFrame]]] = {}
    for relation, events in _events(rows, relations):
        source = (relation.schema, relation.table)
        name = names.get(source) or bronze_name(*source)
        # Another table may have the same name: public.a__b and a.b are both a__b.
        if relation.oid in left_out or (source not in present and name in tables):
            continue
        if name not in after:
            _check_foreign(name, tables)
            continue
        fresh = events.filter(pl.col("lsn") > after[name])
        if fresh.height:
            key = _key(relation, tables.get(name))
            with one_table(name, relation.oid, f"decoding changes of {relation.schema}.{relation.table}"):
                parts.setdefault(name, []).append((relation, _frame(fresh, relation, key)))
    decoded = Decoded(end_lsn=last[0] or 0, newest_committed_at_us=last[1])
    for name, pieces in parts.items():
        newest = relations.latest(pieces[-1][0].oid)
        key = _key(newest, tables.get(name))
        with one_table(name, newest.oid, f"decoding changes of {newest.schema}.{newest.table}"):
            decoded.tables[name], decoded.frames[name] = union(name, newest, key, pieces)
    return decoded


def _key(relation: Relation, known: TableInfo | None) -> tuple[str, ...]:
    """The key in the catalog's order; the log's if they differ (a FULL identity flags every column as key)."""
    return known.key if known is not None and (relation.full or set(known.key) == set(relation.key)) else relation.key


def _check_foreign(name: str, tables: Mapping[str, TableInfo]) -> None:
    """A table without a position is either not captured (but published), or it lacks its snapshot."""
    if name in tables:
        raise TableWithoutPositionError(
            f"table {tables[name].source_name} has changes in the log, but no snapshot of it was ingested",
            "run `fraud-lakehouse catch-up`: it takes the snapshot first",
        )


def _transactions(data: pl.Series, part: Part | None) -> pl.DataFrame:
    """Every message with its kind, its transaction's end LSN and commit time, and its position in the transaction."""
    message = pl.col("data").bin
    log = data.to_frame().with_row_index(ROW).with_columns(kind=message.slice(0, 1).bin.reinterpret(dtype=pl.UInt8))
    commit = pl.col("kind") == _COMMIT
    lsn = pl.when(commit).then(_int64(10)).backward_fill()
    committed = pl.when(commit).then(_int64(18) + EPOCH_2000).backward_fill()
    begin = pl.when(pl.col("kind") == _BEGIN).then(pl.col("count")).forward_fill()
    return log.with_columns(
        lsn=lsn if part is None else pl.lit(part.end_lsn, dtype=pl.Int64),
        committed=committed if part is None else pl.lit(part.committed_us, dtype=pl.Int64),
        count=pl.col("kind").is_in(_CHANGES).cum_sum().cast(pl.Int64),
    ).with_columns(
        # Two numbers per message: an update that changes the key becomes a delete (even) and an update (odd).
        seq=2 * (pl.col("count") - begin.fill_null(0 if part is None else -part.changes_before)) + 1
    )


def _int64(offset: int) -> pl.Expr:
    return pl.col("data").bin.slice(offset, 8).bin.reinterpret(dtype=pl.Int64, endianness="big")


def _events(rows: pl.DataFrame, relations: Relations) -> Iterator[tuple[Relation, pl.DataFrame]]:
    """Changes grouped by the relation version under which they were sent."""
    truncated = rows.filter(pl.col("kind") == _TRUNCATE)
    changes = rows.filter(pl.col("kind") != _TRUNCATE).with_columns(
        oid=pl.col("data").bin.slice(1, 4).bin.reinterpret(dtype=pl.UInt32, endianness="big"),
        mark=pl.col("data").bin.slice(5, 1).bin.reinterpret(dtype=pl.UInt8),
    )
    cut = relations.truncates(truncated.select(ROW, "data").rows())
    oids = dict.fromkeys([*changes["oid"].unique().to_list(), *cut])
    for oid in sorted(oids):
        mine = changes.filter(pl.col("oid") == oid)
        emptied = truncated.filter(pl.col(ROW).is_in(cut.get(oid, [])))
        for first, end, relation in relations.versions(oid):
            within = pl.col(ROW).is_between(first, end, closed="left")
            events = pl.concat([mine.filter(within), emptied.filter(within)], how="diagonal")
            if events.height:
                yield relation, events


def _frame(events: pl.DataFrame, relation: Relation, key: tuple[str, ...]) -> pl.DataFrame:
    """The events of one relation version, in order, typed."""
    pieces: list[pl.DataFrame] = []
    for (kind, mark), group in events.group_by("kind", "mark", maintain_order=True):
        reader = TupleReader(relation, group)
        if kind == _TRUNCATE:
            pieces.append(reader.empty("t"))
        elif kind == _INSERT:
            pieces.append(reader.rows("c", reader.read(6)))
        elif kind == _DELETE:
            pieces.append(reader.rows("d", reader.read(6)))
        elif mark == _NEW:
            pieces.append(reader.rows("u", reader.read(6)))
        else:
            old = reader.read(6)
            new = reader.read_after_old()
            changed = reader.differs(old, new, key) if mark == _OLD_ROW else None
            pieces.append(reader.old_keys(old, key, changed))
            pieces.append(reader.rows("u", reader.filled(new, old) if mark == _OLD_ROW else new))
    return pl.concat(pieces).sort(ROW, "_seq")
