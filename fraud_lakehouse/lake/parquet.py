"""Writing one Parquet data file of a local table, durably, with the Delta action that adds it."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import polars as pl
from deltalake.transaction import AddAction

from fraud_lakehouse.lake import durable, schemas


def write_parquet(root: Path, frame: pl.DataFrame, *, new_rows: bool = True) -> AddAction:
    """Write and fsync a file in the table's folder; a file that fails half way is removed.

    Args:
        root: the table's folder.
        frame: exactly the table's columns.
        new_rows: whether the rows are new to the table (False: they are moved from other files).
    """
    name = f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
    path = root / name
    try:
        frame.write_parquet(path, compression="zstd", compression_level=1)
        durable.sync_file(path)
        durable.sync_folder(root)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    size = path.stat().st_size
    return AddAction(name, size, {}, time.time_ns() // 1_000_000, new_rows, schemas.statistics(frame))
