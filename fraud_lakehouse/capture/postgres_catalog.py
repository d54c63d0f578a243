"""The source's tables, columns and keys as its catalog describes them. Reads no row of a table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import psycopg
from psycopg import sql

from fraud_lakehouse.capture.postgres_errors import SourceTableError
from fraud_lakehouse.capture.postgres_types import ColumnType

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_$-]{0,199}")
_TAKEN = ("card_transactions",)

EVENT_SCHEMA: dict[str, pl.DataType] = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_text": pl.String(),
}
"""Columns that capture adds to the source's, in this order (bronze stamps `_ingested_at` itself)."""


@dataclass(frozen=True)
class ColumnInfo:
    """One column of a source table."""

    name: str
    type: ColumnType


@dataclass(frozen=True)
class TableInfo:
    """One captured table.

    Args:
        name: bronze table name: the table's name in schema public, `<schema>__<table>` elsewhere.
        schema: the source's schema.
        table: the source's table name.
        columns: the source's columns in order, without generated ones (the log does not carry them).
        key: names of the columns that identify a row, in index order.
        oid: the table's oid, 0 if unknown.
        full: whether the replica identity is FULL (the log carries whole old rows).
        partitioned: whether it is the root of partitions (captured under its own name).
    """

    name: str
    schema: str
    table: str
    columns: tuple[ColumnInfo, ...]
    key: tuple[str, ...]
    oid: int = 0
    full: bool = False
    partitioned: bool = False

    @property
    def frame_schema(self) -> dict[str, pl.DataType]:
        """Columns and types of a frame of this table: the source's, then `EVENT_SCHEMA`."""
        return {column.name: column.type.dtype for column in self.columns} | EVENT_SCHEMA

    @property
    def source_name(self) -> str:
        """`schema.table`, for people."""
        return f"{self.schema}.{self.table}"

    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.table)

    def relation(self) -> sql.Composable:
        """The table itself as SQL names it, without the tables that inherit from it."""
        return self.identifier() if self.partitioned else sql.SQL("only {}").format(self.identifier())


def bronze_name(schema: str, table: str) -> str:
    """The bronze table that a source table lands in: `<table>` of schema public, else `<schema>__<table>`.

    A name that is no plain file name in every reader (spaces, slashes, quotes), or that belongs to the card stream,
    is spelt with `_` and told apart by a hash.
    """
    name = table if schema == "public" else f"{schema}__{table}"
    if _PLAIN_NAME.fullmatch(name) and name not in _TAKEN:
        return name
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', name)}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


_TABLES = """
select n.nspname, c.relname, c.oid::int8, c.relreplident::text, c.relpersistence::text, c.relkind::text,
       has_table_privilege(c.oid, 'select'),
       (select array_agg(a.attname::text order by k.ordinality)
          from pg_index i
         cross join lateral unnest(i.indkey::int2[]) with ordinality as k(attnum, ordinality)
          join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where i.indrelid = c.oid and k.ordinality <= i.indnkeyatts and i.indisvalid
           and case c.relreplident when 'i' then i.indisreplident else i.indisprimary and i.indimmediate end)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and not c.relispartition
   and (case when %(wanted)s::text[] is null then n.nspname = 'public'
             else n.nspname || '.' || c.relname = any(%(wanted)s::text[]) end)
 order by n.nspname, c.relname
"""

_COLUMNS = """
select a.attrelid::int8, a.attname, a.atttypid::int8, a.atttypmod
  from pg_attribute a
 where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 order by a.attrelid, a.attnum
"""

_BASE_TYPES = """
with recursive base(domain, oid, modifier, kind) as (
  select t.oid, t.typbasetype, t.typtypmod, 'd'::"char" from pg_type t where t.oid = any(%s::oid[]) and t.typtype = 'd'
  union all
  select b.domain, t.typbasetype, t.typtypmod, t.typtype from base b join pg_type t on t.oid = b.oid and t.typtype = 'd'
)
select distinct on (domain) domain::int8, base.oid::int8, modifier
  from base join pg_type t on t.oid = base.oid and t.typtype <> 'd' order by domain
"""


def base_types(connection: psycopg.Connection[Any], oids: Sequence[int]) -> dict[int, ColumnType]:
    """The types that domains stand for, by the domain's oid; other types are absent from the result."""
    own = sorted({oid for oid in oids if oid >= 16384})
    if not own:
        return {}
    return {row[0]: ColumnType(row[1], row[2]) for row in connection.execute(_BASE_TYPES, (own,)).fetchall()}


def discover(connection: psycopg.Connection[Any], configured: Sequence[str]) -> list[TableInfo]:
    """The tables to capture: those configured (`[schema.]table`), or every table of schema public.

    Raises:
        SourceTableError: one is missing, not readable, unlogged, or has no key or replica identity;
            names the table and the statement that mends it.
    """
    wanted = [name if "." in name else f"public.{name}" for name in configured] or None
    rows = connection.execute(_TABLES, {"wanted": wanted}).fetchall()
    missing = sorted(set(wanted or ()) - {f"{row[0]}.{row[1]}" for row in rows})
    if missing:
        raise SourceTableError(
            f"the database has no table {', '.join(missing)}",
            "correct FRAUD_POSTGRES_TABLES (schema.table, comma separated), or create the table",
        )
    if not rows:
        raise SourceTableError(
            "there is no table in schema public", "create one, or name tables elsewhere in FRAUD_POSTGRES_TABLES"
        )
    columns = _columns(connection, [row[2] for row in rows])
    tables = []
    for schema, table, oid, identity, persistence, kind, readable, key in rows:
        if persistence == "u" and wanted is None:
            continue
        info = TableInfo(
            name=bronze_name(schema, table),
            schema=schema,
            table=table,
            columns=tuple(columns.get(oid, ())),
            key=tuple(key or ()),
            oid=oid,
            full=identity == "f",
            partitioned=kind == "p",
        )
        _check(connection, info, identity, persistence, readable)
        tables.append(info)
    return tables


def _columns(connection: psycopg.Connection[Any], oids: list[int]) -> dict[int, list[ColumnInfo]]:
    rows = connection.execute(_COLUMNS, (oids,)).fetchall()
    domains = base_types(connection, [row[2] for row in rows])
    columns: dict[int, list[ColumnInfo]] = {}
    for table, name, oid, modifier in rows:
        columns.setdefault(table, []).append(ColumnInfo(name, domains.get(oid, ColumnType(oid, modifier))))
    return columns


def _check(
    connection: psycopg.Connection[Any], info: TableInfo, identity: str, persistence: str, readable: bool
) -> None:
    quoted = info.identifier().as_string(connection)
    if persistence != "p":
        raise SourceTableError(
            f"table {info.source_name} is not written to the log (unlogged)", f"ALTER TABLE {quoted} SET LOGGED"
        )
    if not readable:
        raise SourceTableError(
            f"the user may not read table {info.source_name}",
            f"GRANT SELECT ON {quoted} TO the user of FRAUD_POSTGRES_DSN",
        )
    reserved = sorted({column.name for column in info.columns} & {*EVENT_SCHEMA, "_ingested_at"})
    if reserved:
        raise SourceTableError(
            f"table {info.source_name} has a column named {', '.join(reserved)}, which bronze uses itself",
            "rename the column, or leave the table out with FRAUD_POSTGRES_TABLES",
        )
    if identity == "n":
        raise SourceTableError(
            f"table {info.source_name} has replica identity NOTHING: updates and deletes would not be logged",
            f"ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT",
        )
    if not info.key:
        raise SourceTableError(
            f"table {info.source_name} has no primary key (or replica identity index) that identifies a row",
            f"ALTER TABLE {quoted} ADD PRIMARY KEY (...), or ALTER TABLE {quoted} REPLICA IDENTITY USING INDEX ...,"
            " or leave it out by naming the tables in FRAUD_POSTGRES_TABLES",
        )
