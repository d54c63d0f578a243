"""The source's tables, columns and keys as its catalog describes them. Reads no table rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import psycopg
from psycopg import sql

from fraud_lakehouse.sources.postgres.connection import raw_text
from fraud_lakehouse.sources.postgres.eligibility import Eligibility, Ineligibility, ineligibility_of
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.sources.postgres.fingerprint import read_shapes
from fraud_lakehouse.sources.postgres.inheritance import uncaptured_children
from fraud_lakehouse.sources.postgres.names import bronze_names, column_names, is_text, shown
from fraud_lakehouse.sources.postgres.publication_epoch import MEMBER, joins
from fraud_lakehouse.sources.postgres.types import ColumnType
from fraud_lakehouse.sources.protection import Protection
from fraud_lakehouse.sql_text import qualified

_FIRST_NOT_BUILT_IN = 10000  # built-in types have lower oids; none of them is a domain
STORED_IN_LOG = 180000  # the first version whose log can carry stored generated columns

EVENT_SCHEMA: dict[str, pl.DataType] = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_text": pl.String(),
}
"""Columns that capture adds to the source's, in this order (bronze adds `_ingested_at` and `_commit`)."""

_TEXT = 25  # oid of text
_RESERVED = (*EVENT_SCHEMA, "_ingested_at", "_commit", "_delete", "_is_new")


@dataclass(frozen=True)
class ColumnInfo:
    """One column of a source table: its name in the lake, and in the source if that differs."""

    name: str
    type: ColumnType
    renamed_from: str = ""

    @property
    def source_name(self) -> str:
        """The column's name in the source."""
        return self.renamed_from or self.name


@dataclass(frozen=True)
class TableInfo:
    """One captured table.

    Args:
        name: bronze table name: the table's name in schema public, `<schema>__<table>` elsewhere.
        schema: the source's schema.
        table: the source's table name.
        columns: the columns that the source has and the log carries, in order.
        key: names of the columns that identify a row, in index order.
        oid: the table's oid, 0 if unknown.
        full: whether the replica identity is FULL (the log carries whole old rows).
        partitioned: whether it is the root of partitions (captured under its own name).
        dropped: columns that the source has dropped, but that these events still have values for.
        left_out: generated columns that the log does not carry; never captured.
        lsn: the position in the log at which this description was valid.
        shape: the catalog fingerprint, which reveals changes of rows that are not in the log; empty from the log.
    """

    name: str
    schema: str
    table: str
    columns: tuple[ColumnInfo, ...]
    key: tuple[str, ...]
    oid: int = 0
    full: bool = False
    partitioned: bool = False
    dropped: tuple[ColumnInfo, ...] = ()
    left_out: tuple[str, ...] = ()
    lsn: int = 0
    shape: str = ""

    @property
    def frame_schema(self) -> dict[str, pl.DataType]:
        """Columns and types of a frame of this table: the source's, the dropped ones, then `EVENT_SCHEMA`."""
        return {column.name: column.type.dtype for column in (*self.columns, *self.dropped)} | EVENT_SCHEMA

    def protected(self, protection: Protection) -> TableInfo:
        """The table as it is stored: without the columns that are dropped, hashes as text."""
        if not protection:
            return self
        columns, dropped = (
            tuple(
                replace(column, type=ColumnType(_TEXT)) if column.name in protection.hash else column
                for column in columns
                if column.name not in protection.drop
            )
            for columns in (self.columns, self.dropped)
        )
        return replace(self, columns=columns, dropped=dropped)

    @property
    def source_name(self) -> str:
        """`schema.table`, for people."""
        return f"{self.schema}.{self.table}"

    @property
    def source_key(self) -> tuple[str, ...]:
        """The key columns by their names in the source."""
        names = {column.name: column.source_name for column in self.columns}
        return tuple(names.get(name, name) for name in self.key)

    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.table)

    def relation(self) -> sql.Composable:
        """The table itself as SQL names it, without the tables that inherit from it."""
        return self.identifier() if self.partitioned else sql.SQL("only {}").format(self.identifier())


@dataclass(frozen=True)
class _Facts:
    """A table as the catalog has it; `names.shown` turns its names into text."""

    schema: str
    table: str
    oid: int
    key: tuple[str, ...]
    eligibility: Eligibility


@dataclass(frozen=True)
class Catalog:
    """The eligible tables, and the configured ones that are ineligible."""

    tables: list[TableInfo]
    refused: list[Ineligibility]


# To add a table, the user must be (a member of) the owner of both the publication and the table.
_TABLES = """
select n.nspname, c.relname, c.oid::int8,
       (select array_agg(a.attname::text order by k.ordinality)
          from pg_index i
         cross join lateral unnest(i.indkey::int2[]) with ordinality as k(attnum, ordinality)
          join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where i.indrelid = c.oid and k.ordinality <= i.indnkeyatts and i.indisvalid
           and case c.relreplident when 'i' then i.indisreplident else i.indisprimary and i.indimmediate end),
       c.relreplident::text, c.relpersistence::text, c.relkind::text,
       has_schema_privilege(n.oid, 'usage'), has_table_privilege(c.oid, 'select'), row_security_active(c.oid),
       (with recursive leaves(oid) as (
          select c.oid union all select i.inhrelid from leaves l join pg_inherits i on i.inhparent = l.oid)
        select min(p.relname::text) from leaves l join pg_class p on p.oid = l.oid
         where c.relkind = 'p' and (p.relkind = 'f' or p.relkind = 'r' and p.relpersistence <> 'p')),
       coalesce(p.pubname, ''), coalesce(p.pubviaroot, true), ({member}) is not null,
       coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is not null,
       coalesce(p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate, true),
       coalesce(pg_has_role(p.pubowner, 'usage') and pg_has_role(c.relowner, 'usage'), false)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  {joins}
 where (c.relkind in ('r', 'p') or c.relkind in ('f', 'v', 'm') and cardinality(%(names)s::text[]) > 0)
   and not c.relispartition
   and (case when cardinality(%(names)s::text[]) = 0 then n.nspname = 'public'
             else (n.nspname::text, c.relname::text) in (select * from unnest(%(schemas)s::text[], %(names)s::text[]))
        end)
 order by n.nspname, c.relname
"""

_COLUMNS = """
select a.attrelid::int8, a.attname, a.atttypid::int8, a.atttypmod,
       case a.attgenerated when '' then true when 's' then %(stored)s else false end
  from pg_attribute a
 where a.attrelid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum
"""

_STORED_PUBLISHED = """
select coalesce((select to_jsonb(p) ->> 'pubgencols' = 's' from pg_publication p where p.pubname = %s), true)
"""

_POSITION = "select (pg_current_wal_insert_lsn() - '0/0')::int8"

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
    own = sorted({oid for oid in oids if oid >= _FIRST_NOT_BUILT_IN})
    if not own:
        return {}
    return {row[0]: ColumnType(row[1], row[2]) for row in connection.execute(_BASE_TYPES, (own,)).fetchall()}


def discover(
    connection: psycopg.Connection[Any],
    configured: Sequence[str],
    publication: str,
    known: Mapping[tuple[str, str], str] | None = None,
    prefix: str = "",
    reserved: Collection[str] = (),
) -> Catalog:
    """The tables to capture: those configured (`[schema.]table`), or every table of schema public.

    Args:
        publication: read through it; its options decide whether the log has stored generated columns.
        known: existing bronze names, by schema and table.
        prefix, reserved: for new bronze names, as in `bronze_name`.
    """
    wanted = [qualified(name) for name in configured]
    # Read first, so that the catalog is never older than this position.
    (position,) = connection.execute(_POSITION).fetchone() or (0,)
    with raw_text(connection):
        facts = _facts(connection, wanted, publication)
        refused = _absent(wanted, {(fact.schema, fact.table) for fact in facts})
        refused += uncaptured_children(connection, [fact.oid for fact in facts])
        facts = [fact for fact in facts if fact.eligibility.persistence != "u" or wanted]
        columns, left_out, unnamed = _columns(connection, [fact.oid for fact in facts], publication)
        roots = [fact.oid for fact in facts if fact.eligibility.kind == "p"]
        shapes = read_shapes(connection, {fact.oid: fact.key for fact in facts}, roots)
    by_age = sorted(facts, key=lambda fact: fact.oid)
    named = bronze_names(((shown(fact.schema), shown(fact.table)) for fact in by_age), known, prefix, reserved)
    names = dict(zip((fact.oid for fact in by_age), named, strict=True))
    tables = []
    for fact in facts:
        own = {column.source_name: column.name for column in columns.get(fact.oid, ())}
        info = TableInfo(
            name=names[fact.oid],
            schema=shown(fact.schema),
            table=shown(fact.table),
            columns=tuple(columns.get(fact.oid, ())),
            key=tuple(own.get(shown(name), shown(name)) for name in fact.key),
            oid=fact.oid,
            full=fact.eligibility.identity == "f",
            partitioned=fact.eligibility.kind == "p",
            left_out=tuple(left_out.get(fact.oid, ())),
            lsn=position,
            shape=shapes[fact.oid],
        )
        odd = [shown(name) for name in (fact.schema, fact.table) if not is_text(name)]
        ineligibility = ineligibility_of(info, fact.eligibility, next(iter(odd), unnamed.get(fact.oid)))
        if ineligibility is None:
            tables.append(info)
        else:
            refused.append(ineligibility)
    return Catalog(tables, refused)


def _facts(connection: psycopg.Connection[Any], wanted: Sequence[tuple[str, str]], publication: str) -> list[_Facts]:
    named = {"schemas": [schema for schema, _ in wanted], "names": [name for _, name in wanted]}
    query = _TABLES.format(member=MEMBER, joins=joins(connection))
    rows = connection.execute(query, {**named, "publication": publication}).fetchall()
    return [
        _Facts(schema, table, oid, tuple(key or ()), Eligibility(*facts)) for schema, table, oid, key, *facts in rows
    ]


def _absent(wanted: Sequence[tuple[str, str]], present: Collection[tuple[str, str]]) -> list[Ineligibility]:
    """Configured tables that do not exist."""
    if not wanted:
        fix = "create one, or name tables elsewhere in FRAUD_POSTGRES_TABLES"
        return (
            [] if present else [Ineligibility("public.*", SourceTableError("there is no table in schema public", fix))]
        )
    fix = "correct FRAUD_POSTGRES_TABLES (schema.table, comma separated), or create the table"
    missing = [f"{schema}.{table}" for schema, table in sorted(set(wanted) - set(present))]
    return [Ineligibility(name, SourceTableError(f"the database has no table {name}", fix)) for name in missing]


def _columns(
    connection: psycopg.Connection[Any], oids: list[int], publication: str
) -> tuple[dict[int, list[ColumnInfo]], dict[int, list[str]], dict[int, str]]:
    """By table oid: the columns in the log, the names of those not in it, and a name that is not UTF-8."""
    row = connection.execute(_STORED_PUBLISHED, (publication,)).fetchone()
    stored = connection.info.server_version >= STORED_IN_LOG and bool(row and row[0])
    rows = connection.execute(_COLUMNS, {"oids": oids, "stored": stored}).fetchall()
    domains = base_types(connection, [row[2] for row in rows])
    carried: dict[int, list[tuple[str, ColumnType]]] = {}
    left_out: dict[int, list[str]] = {}
    unnamed: dict[int, str] = {}
    for table, name, oid, modifier, is_carried in rows:
        if not is_text(name):
            unnamed[table] = shown(name)
        if is_carried:
            carried.setdefault(table, []).append((shown(name), domains.get(oid, ColumnType(oid, modifier))))
        else:
            left_out.setdefault(table, []).append(shown(name))
    return {table: named_columns(columns) for table, columns in carried.items()}, left_out, unnamed


def named_columns(columns: Sequence[tuple[str, ColumnType]]) -> list[ColumnInfo]:
    """Columns of a table in order, with their names in the lake."""
    own = column_names([name for name, _ in columns], _RESERVED)
    return [
        ColumnInfo(name, kind, "" if name == source else source)
        for name, (source, kind) in zip(own, columns, strict=True)
    ]
