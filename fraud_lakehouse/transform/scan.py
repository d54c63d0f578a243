"""Reads a Delta table with DuckDB: the Parquet files of a version as an SQL relation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote

import pyarrow.parquet as pq
from deltalake import DeltaTable

from fraud_lakehouse.sql_text import literal, quoted
from fraud_lakehouse.storage.commit_numbers import Rows
from fraud_lakehouse.storage.lake import data_files

Columns = Sequence[tuple[str, str]]  # name and type

_DUCKDB_TYPES = {
    "string": "varchar",
    "long": "bigint",
    "integer": "integer",
    "short": "smallint",
    "byte": "tinyint",
    "float": "float",
    "double": "double",
    "boolean": "boolean",
    "binary": "blob",
    "date": "date",
    "timestamp": "timestamptz",
    "timestamp_ntz": "timestamp",
}


def columns(table: DeltaTable) -> list[tuple[str, str]]:
    """Name and DuckDB type of each column of the table's current schema, in order."""
    fields = json.loads(table.schema().to_json())["fields"]
    return [(field["name"], _duckdb_type(field["type"])) for field in fields]


def _duckdb_type(delta_type: object) -> str:
    if isinstance(delta_type, str):
        return _DUCKDB_TYPES.get(delta_type, delta_type)  # decimal(p,s) has the same spelling
    raise ValueError(f"nested Delta type {delta_type!r} is not supported in any layer")


def files_sql(table: DeltaTable, files: Sequence[str], declared: Columns = ()) -> str:
    """A SELECT over the given files with the table's current columns.

    Columns missing in a file read as null, as do `declared` columns that the model's next rows add to the table.
    Without files: no row, same columns.
    """
    named = columns(table)
    present = {name for name, _ in named}
    wanted = [*named, *((name, kind) for name, kind in declared if name not in present and kind)]
    if not files:
        return empty_sql(wanted)
    absent = _in_no_file(files, present) | {name for name, _ in wanted if name not in present}
    names = ", ".join(
        f"cast(null as {kind}) as {quoted(name)}" if name in absent else quoted(name) for name, kind in wanted
    )
    paths = ", ".join(literal(path) for path in files)
    return f"select {names} from read_parquet([{paths}], union_by_name = true)"


def _in_no_file(files: Sequence[str], names: Iterable[str]) -> set[str]:
    """The columns that none of these files has; files on an object store are not read."""
    absent = set(names)
    for file in files:
        if not absent or "://" in file:
            return set()
        absent -= _stored(file)
    return absent


@lru_cache(maxsize=65_536)
def _stored(file: str) -> frozenset[str]:
    """The columns of a local data file, which never change."""
    return frozenset(pq.read_schema(file).names)


def snapshot_sql(table: DeltaTable, declared: Columns = ()) -> str:
    """A SELECT over the table's loaded version."""
    return files_sql(table, data_files(table), declared)


def rows_sql(table: DeltaTable, rows: Rows, declared: Columns = ()) -> str:
    """A SELECT over the rows of some commits, with the table's current columns."""
    sql = files_sql(table, rows.files, declared)
    return f"{sql} where {rows.sql}" if rows.sql and rows.files else sql


def empty_sql(named: Columns) -> str:
    """A SELECT with these columns and no row."""
    parts = ", ".join(f"cast(null as {kind}) as {quoted(name)}" for name, kind in named)
    return f"select {parts} where false"


def file_path(root: str, relative: str) -> str:
    """Absolute path of a file named in the log, which percent-encodes it."""
    return f"{root}/{unquote(relative)}"
