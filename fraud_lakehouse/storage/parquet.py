"""Writes one durable Parquet data file of a table and returns the Delta action that adds it."""

from __future__ import annotations

import io
import time
import uuid
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from deltalake._internal import DeltaFileSystemHandler
from deltalake.transaction import AddAction

from fraud_lakehouse.storage import durable, schemas


def write_parquet(root: Path, frame: pl.DataFrame, *, new_rows: bool = True) -> AddAction:
    """Write and fsync a file in the table's folder; an incomplete file is removed.

    Args:
        root: the table's folder.
        frame: exactly the table's columns.
        new_rows: whether the rows are new to the table (False: they come from its other files).
    """
    path = root / _new_name()
    try:
        frame.write_parquet(path, compression="zstd", compression_level=1)
        durable.sync_file(path)
        durable.sync_folder(root)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return _action(path.name, path.stat().st_size, frame, new_rows=new_rows)


def upload_parquet(table: DeltaTable, frame: pl.DataFrame, *, new_rows: bool = True) -> AddAction:
    """Write a file of a table on an object store, with the table's own credentials."""
    name, content = _new_name(), io.BytesIO()
    frame.write_parquet(content, compression="zstd", compression_level=1)
    file = DeltaFileSystemHandler.from_table(table._table).open_output_stream(name)
    file.write(content.getvalue())
    file.close()  # type: ignore[attr-defined]  # its stub lacks it
    return _action(name, content.tell(), frame, new_rows=new_rows)


def _new_name() -> str:
    return f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"


def _action(name: str, size: int, frame: pl.DataFrame, *, new_rows: bool) -> AddAction:
    return AddAction(name, size, {}, time.time_ns() // 1_000_000, new_rows, schemas.statistics(frame))
