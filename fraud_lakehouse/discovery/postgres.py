"""Facts about a PostgreSQL database: its catalog, and counts over sampled rows. No value leaves the server.

Writes nothing and reads no whole table: a sample is limited in rows and time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import polars as pl
import psycopg
from psycopg import sql
from pydantic import SecretStr

from fraud_lakehouse.discovery.facts import Column, Database, Kind, Reference, Sample, Table
from fraud_lakehouse.discovery.json_fields import words_of
from fraud_lakehouse.discovery.naming import is_bare, source_name
from fraud_lakehouse.discovery.roles import is_worth_sampling, roles_of_table
from fraud_lakehouse.errors import LakehouseError, SourceError
from fraud_lakehouse.sources.postgres.catalog import Catalog, base_types, discover, named_columns
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.connection import PostgresConnector
from fraud_lakehouse.sources.postgres.names import is_text, shown
from fraud_lakehouse.sources.postgres.preflight import check_server
from fraud_lakehouse.sources.postgres.types import ColumnType
from fraud_lakehouse.sql_text import quoted

_SAMPLE_SECONDS = 5
_ALL_SECONDS = 60  # afterwards, further tables are not sampled
_WHOLE_BLOCKS = 10_000  # smaller tables are sampled without TABLESAMPLE

_TABLES = """
select n.nspname, c.relname, c.oid::int8, nullif(c.reltuples, -1)::int8
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and not c.relispartition
   and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%'
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname
"""

_COLUMNS = """
select a.attrelid::int8, a.attname, a.atttypid::int8, a.atttypmod, format_type(a.atttypid, a.atttypmod),
       not a.attnotnull,
       exists (select from pg_index i
                where i.indrelid = a.attrelid and i.indisunique and i.indpred is null and i.indnkeyatts = 1
                  and i.indkey[0] = a.attnum)
  from pg_attribute a
 where a.attrelid = any(%s::oid[]) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 order by a.attrelid, a.attnum
"""

_KEYS = """
select i.indrelid::int8, array_agg(a.attname::text order by k.ordinality)
  from pg_index i
 cross join lateral unnest(i.indkey::int2[]) with ordinality as k(attnum, ordinality)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
 where i.indrelid = any(%s::oid[]) and i.indisprimary and k.ordinality <= i.indnkeyatts
 group by i.indrelid
"""

_FOREIGN_KEYS = """
select o.conrelid::int8, a.attname, n.nspname, c.relname, b.attname
  from pg_constraint o
  join pg_class c on c.oid = o.confrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = o.conrelid and a.attnum = o.conkey[1]
  join pg_attribute b on b.attrelid = o.confrelid and b.attnum = o.confkey[1]
 where o.contype = 'f' and o.conrelid = any(%s::oid[]) and cardinality(o.conkey) = 1
"""


def read_database(variable: str, dsn: str, publication: str, sample: int) -> Database:
    """The facts about a database.

    Args:
        variable: the environment variable of the connection string.
        publication: of the source that reads it or will read it.
        sample: maximum number of rows to sample per table.

    Raises:
        SourceError, SettingsError: it cannot be reached.
    """
    config = PostgresConfig(source_name(variable), SecretStr(dsn), publication, publication, variable)
    with config.named():
        connector = PostgresConnector(dsn, "fraud_lakehouse discover")
        with connector.connect() as connection, connector.typed_errors():
            problems = _problems(connection)
            (name,) = connection.execute("select current_database()").fetchone() or ("",)
            tables = _tables(connection, config)
            keys, deadline = {table.identity: table.key for table in tables}, time.monotonic() + _ALL_SECONDS
            for index, table in enumerate(tables):
                if time.monotonic() < deadline:
                    tables[index] = _sampled(connection, table, keys, sample)
    return Database(variable, shown(name), tuple(tables), tuple(problems))


def _problems(connection: psycopg.Connection[Any]) -> list[str]:
    try:
        check_server(connection)
    except SourceError as error:
        return [sentence(error)]
    return []


def sentence(error: LakehouseError) -> str:
    """An error and its fix in one line."""
    return " ".join((f"{error.problem} -> {error.fix}" if error.fix else error.problem).split())


def _remedy(error: LakehouseError) -> str:
    """As `sentence`, without the advice to leave the table out: the proposal does so."""
    return sentence(LakehouseError(error.problem, error.fix.partition(", or leave it out")[0]))


def _tables(connection: psycopg.Connection[Any], config: PostgresConfig) -> list[Table]:
    """The tables with their columns, references and eligibility."""
    found = [row for row in connection.execute(_TABLES).fetchall() if is_text(row[0]) and is_text(row[1])]
    oids = [row[2] for row in found]
    listed = [f"{quoted(schema)}.{quoted(table)}" for schema, table, *_ in found]
    catalog = discover(connection, listed, config.publication) if listed else Catalog([], [])
    problems = {one.table: _remedy(config.renamed(one).error) for one in catalog.refused}
    keys = dict(connection.execute(_KEYS, (oids,)).fetchall())
    keys |= {one.oid: one.key for one in catalog.tables}
    references: dict[tuple[int, str], Reference] = {}
    for oid, column, schema, table, target in connection.execute(_FOREIGN_KEYS, (oids,)).fetchall():
        references[oid, column] = Reference((schema, table), target, enforced=True)
    columns = _columns(connection, oids, references)
    tables = [
        Table(
            schema,
            table,
            tuple(columns.get(oid, ())),
            tuple(keys.get(oid, ())),
            rows if rows else None,
            _problem(problems, schema, table, columns.get(oid, ())),
            order,
        )
        for order, (schema, table, oid, rows) in enumerate(found)
    ]
    return with_references(tables)


def _problem(problems: Mapping[str, str], schema: str, table: str, columns: Sequence[Column]) -> str:
    """Why a table is ineligible; without a key, with the statement that adds one."""
    problem = problems.get(f"{schema}.{table}", "")
    if "has no primary key" not in problem:
        return problem
    names = {column.name.lower() for column in columns}
    key = next((name for name in ("id", f"{table.lower()}_id") if name not in names), f"{table.lower()}_row_id")
    statement = f"ALTER TABLE {quoted(schema)}.{quoted(table)} ADD COLUMN {quoted(key)} bigint"
    return (
        f"it has no primary key -> {statement} GENERATED ALWAYS AS IDENTITY PRIMARY KEY, or ADD PRIMARY KEY (...) of"
        " columns that it has; then run discover again"
    )


def _columns(
    connection: psycopg.Connection[Any], oids: list[int], references: dict[tuple[int, str], Reference]
) -> dict[int, list[Column]]:
    rows = [row for row in connection.execute(_COLUMNS, (oids,)).fetchall() if is_text(row[1])]
    domains = base_types(connection, [row[2] for row in rows])
    columns: dict[int, list[Column]] = {}
    for oid, of_table in groupby(rows, key=lambda row: int(row[0])):
        own = list(of_table)
        named = named_columns([(row[1], domains.get(row[2], ColumnType(row[2], row[3]))) for row in own])
        columns[oid] = [
            Column(
                info.name,
                kind_of(info.type),
                type_name,
                nullable,
                unique,
                reference=references.get((oid, source)),
                is_bare=is_bare(info.name) and info.name == source,
            )
            for info, (_, source, _, _, type_name, nullable, unique) in zip(named, own, strict=True)
        ]
    return columns


def kind_of(kind: ColumnType) -> Kind:
    """What a column can be used as, by its type in the lake."""
    dtype = kind.dtype
    if dtype.is_integer():
        return "number"
    if dtype.is_numeric():
        return "money"
    if isinstance(dtype, pl.Datetime):
        return "zoned" if dtype.time_zone else "time"
    if dtype == pl.Date():
        return "time"
    if dtype == pl.Boolean():
        return "flag"
    return "text" if dtype == pl.String() else "other"


def with_references(tables: Sequence[Table]) -> list[Table]:
    """The tables with guessed references: a column named like another table's single key, or after that table."""
    by_name: dict[str, list[Table]] = {}
    for table in tables:
        if len(table.key) == 1:
            own = {words_of(table.key[0])} - {"", "id"}
            for name in own.union(_called_after(words_of(table.name))):
                by_name.setdefault(name, []).append(table)
    return [
        replace(table, columns=tuple(_referring(column, table, by_name) for column in table.columns))
        for table in tables
    ]


def _referring(column: Column, table: Table, by_name: Mapping[str, Sequence[Table]]) -> Column:
    if column.reference is not None or table.key == (column.name,):
        return column
    candidates = [one for one in by_name.get(words_of(column.name), ()) if one.identity != table.identity]
    fitting = [one for one in candidates if _key_kind(one) == column.kind]
    if len(fitting) != 1:
        return column
    return replace(column, reference=Reference(fitting[0].identity, fitting[0].key[0], enforced=False))


def _called_after(table: str) -> Iterable[str]:
    """Names of columns that may refer to a table: `user_id` for the tables user, users and auth_user."""
    for name in {table, table.rpartition("_")[2]}:
        yield f"{name}_id"
        yield f"{name.removesuffix('s')}_id"


def _key_kind(table: Table) -> Kind | None:
    return next((column.kind for column in table.columns if column.name == table.key[0]), None)


def _sampled(
    connection: psycopg.Connection[Any], table: Table, keys: Mapping[tuple[str, str], tuple[str, ...]], most: int
) -> Table:
    """The table with counts of its columns, if it could be payments; unchanged if sampling times out."""
    if roles_of_table(table.name, table.columns, table.key).score == 0:
        return table
    columns = [one for one in table.columns if is_worth_sampling(one)]
    counts = [sql.SQL("count(*)"), *(part for column in columns for part in _counts(column, keys))]
    percent = min(100.0, 300.0 * most / table.rows) if table.rows and table.rows > _WHOLE_BLOCKS else None
    blocks = sql.SQL(" tablesample system ({})").format(sql.Literal(percent)) if percent else sql.SQL("")
    query = sql.SQL("select {} from (select * from {}{} limit {}) as sampled").format(
        sql.SQL(", ").join(counts), sql.Identifier(table.schema, table.name), blocks, sql.Literal(most)
    )
    try:
        with connection.transaction():
            connection.execute("set transaction read only")
            connection.execute(f"set local statement_timeout = '{_SAMPLE_SECONDS}s'")
            connection.execute("set local lock_timeout = '1s'")
            row = connection.execute(query).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        return table
    assert row is not None
    rows, *values = row
    found = {}
    for column, (filled, distinct, flags, known) in zip(columns, _in_fours(values), strict=True):
        sampled = replace(column, sample=Sample(rows, filled, distinct, bool(flags)))
        if column.reference is not None and filled:
            sampled = replace(sampled, reference=replace(column.reference, is_known=known == filled))
        found[column.name] = sampled
    return replace(table, columns=tuple(found.get(column.name, column) for column in table.columns))


def _in_fours(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(values[start : start + 4]) for start in range(0, len(values), 4)]


def _counts(column: Column, keys: Mapping[tuple[str, str], tuple[str, ...]]) -> list[sql.Composable]:
    """For a column: count of values, of distinct values, whether all are 0 or 1, and values found by its reference."""
    name = sql.Identifier("sampled", column.name)
    counts: list[sql.Composable] = [
        sql.SQL("count({})").format(name),
        sql.SQL("count(distinct {}::text)").format(name),
        sql.SQL("bool_and({}::text in ('0', '1', 'true', 'false'))").format(name),
    ]
    reference = column.reference
    if reference is None or reference.enforced or keys.get(reference.table) != (reference.column,):
        return [*counts, sql.SQL("0")]
    known = sql.SQL("count(*) filter (where exists (select from {} as known where known.{} = {}))")
    return [*counts, known.format(sql.Identifier(*reference.table), sql.Identifier(reference.column), name)]
