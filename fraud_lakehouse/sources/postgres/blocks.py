"""Rows of a table packed by column: the server sends a few large values for each range of the table's blocks.

COPY sends a million rows as a million messages. Packed, they are about two hundred, at no extra cost to the server.
Values come from the types' own send and output functions, so both ways give the same values.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.columns import LINES, SENT, WIDTHS, Packed, SourceColumn, unpack
from fraud_lakehouse.sources.postgres.connection import stream_results

_BLOCKS = 32  # at most 64 MB of values, at the best possible compression
_TID_RANGE_SCAN_SINCE = 140000
_MOST_COLUMNS = (1664 - 2) // 3  # a target list has at most 1,664 entries

# With out-of-line (TOAST) values, the bytes of a range of blocks have no upper bound.
_FACTS = """
select c.relkind = 'r' and a.amname = 'heap'
       and coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0) = 0
  from pg_class c
  join pg_am a on a.oid = c.relam
 where c.oid = %s
"""
_OUTPUT = """
select t.oid::int8, n.nspname, p.proname
  from pg_type t
  join pg_proc p on p.oid = t.typoutput
  join pg_namespace n on n.oid = p.pronamespace
 where t.oid = any(%s::oid[])
   and has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
"""
# Every read of a range must be a TID range scan, which returns the rows in order.
_PLAN = """
set local enable_seqscan = off; set local enable_tidscan = on; set local max_parallel_workers_per_gather = 0;
set local jit = off
"""
_QUERY = """
select b.first_block, packed.rows, {sent}
  from generate_series(0, pg_relation_size({oid}::oid) / current_setting('block_size')::int8, {step})
       as b(first_block)
 cross join lateral (
       select count(*) as rows, {aggregates}
         from (select {values} from {table} as t where {range} offset 0) as v
       ) as packed
 where packed.rows > 0
"""
_RANGE = "t.ctid >= format('(%s,0)', b.first_block)::tid and t.ctid < format('(%s,0)', b.first_block + {step})::tid"
# Data, sizes, and the number of values. The server evaluates identical aggregates once.
_FIXED = "{all} as {data}, null::bytea as {sizes}, octet_length({all}) / {width} as {present}"
_LINES = "string_agg({value}, E'\\n') as {data}, null::bytea as {sizes}, count({value}) as {present}"
_TEXTS = "string_agg({value}, '') as {data}, {all} as {sizes}, octet_length({all}) / 4 as {present}"
# Aggregates skip nulls. Only a range with fewer values than rows is read again, to locate the nulls.
_SENT = """
packed.{data}, packed.{sizes}, case when packed.{present} is distinct from packed.rows then (
    select string_agg(boolsend(num_nulls(t.{source}) = 1), '') from {table} as t where {range}) end
"""


@dataclass
class Piece:
    """Packed rows of a range of blocks: for each shorter range, its number of rows and its packed columns."""

    first_block: int
    end_block: int
    rows: list[int]
    columns: list[list[Packed]]

    def where(self) -> sql.Composable:
        """The condition that selects these rows."""
        first, end = (sql.Literal(f"({block},0)") for block in (self.first_block, self.end_block))
        return sql.SQL("ctid >= {}::tid and ctid < {}::tid").format(first, end)

    def unpacked(self, table: TableInfo, limit: int) -> list[SourceColumn]:
        """The columns.

        Raises:
            UnpackError: these rows must be read as text.
        """
        pairs = zip(table.columns, self.columns, strict=True)
        return [unpack(column.type, column.name, parts, self.rows, limit) for column, parts in pairs]


class BlockReader:
    """Reads one table packed by column.

    Args:
        reader: a connection in the snapshot's transaction.
        outputs: output functions by type oid, for columns sent as text.
    """

    def __init__(self, reader: psycopg.Connection[Any], table: TableInfo, outputs: dict[int, sql.Identifier]) -> None:
        self._reader = reader
        self._table = table
        self._outputs = outputs

    @classmethod
    def of(cls, reader: psycopg.Connection[Any], table: TableInfo) -> BlockReader | None:
        """A reader, or None if this table can only be read row by row.

        None for tables that are partitioned, have out-of-line values, are not stored as heap, have a type whose output
        function we may not call, or have more than 554 columns; for servers before 14; for databases not in UTF-8.
        """
        info = reader.info
        if info.server_version < _TID_RANGE_SCAN_SINCE or info.parameter_status("server_encoding") != "UTF8":
            return None
        facts = reader.execute(_FACTS, [table.oid]).fetchone()
        if not 0 < len(table.columns) <= _MOST_COLUMNS or facts is None or not facts[0]:
            return None
        oids = [column.type.oid for column in table.columns if column.type.oid not in SENT]
        outputs = {oid: sql.Identifier(*name) for oid, *name in reader.execute(_OUTPUT, [oids])}
        return cls(reader, table, outputs) if outputs.keys() == set(oids) else None

    def pieces(self, max_rows: int, max_bytes: int) -> Generator[Piece]:
        """All rows in physical order.

        A piece has at most `max_rows` rows and `max_bytes` bytes, or is a single range of blocks.

        Raises:
            psycopg.Error: the subclass of the server's SQLSTATE.
        """
        self._reader.execute(_PLAN)
        query = self._query().as_bytes(self._reader)
        piece: Piece | None = None
        size = 0
        for result in stream_results(self._reader, query, [], 1):
            if not result.ntuples:
                continue
            fields = [result.get_value(0, number) or b"" for number in range(result.nfields)]
            first, rows = (int.from_bytes(field) for field in fields[:2])
            length = sum(map(len, fields))
            if piece is not None and (sum(piece.rows) + rows > max_rows or size + length > max_bytes):
                yield piece
                piece = None
            if piece is None:
                piece, size = Piece(first, first, [], [[] for _ in self._table.columns]), 0
            piece.end_block = first + _BLOCKS
            piece.rows.append(rows)
            for column, place in zip(piece.columns, range(2, len(fields), 3), strict=True):
                column.append(Packed(*fields[place : place + 3]))
            size += length
        if piece is not None:
            yield piece
        self._reader.execute("set local enable_seqscan to default")

    def _query(self) -> sql.Composed:
        table = self._table.relation()
        within = sql.SQL(_RANGE).format(step=sql.Literal(_BLOCKS))
        values, aggregates, sent = [], [], []
        for number, column in enumerate(self._table.columns):
            value, data, sizes, present = (sql.Identifier(f"{letter}{number}") for letter in "vdsp")
            names = {"data": data, "sizes": sizes, "present": present}
            source = sql.Identifier(column.source_name)
            fixed = SENT.get(column.type.oid)
            if fixed is not None:
                read, form, send = sql.SQL("t.{}").format(source), _FIXED, f"string_agg({fixed[0]}({{}}), '')"
            else:
                read = sql.SQL("textin({}(t.{}))").format(self._outputs[column.type.oid], source)
                form = _LINES if column.type.oid in LINES else _TEXTS
                send = "string_agg(int4send(octet_length({})), '')"
            values.append(sql.SQL("{} as {}").format(read, value))
            packed = sql.SQL(send).format(value)
            width = WIDTHS[fixed[1]] if fixed else 4
            aggregates.append(sql.SQL(form).format(value=value, all=packed, width=width, **names))
            sent.append(
                sql.SQL(_SENT).format(data=data, sizes=sizes, present=present, source=source, table=table, range=within)
            )
        comma = sql.SQL(", ")
        return sql.SQL(_QUERY).format(
            oid=sql.Literal(self._table.oid),
            step=sql.Literal(_BLOCKS),
            table=table,
            range=within,
            values=comma.join(values),
            aggregates=comma.join(aggregates),
            sent=comma.join(sent),
        )
