"""Upserts and deletes by key: each file with one of the keys is rewritten without their rows.

delta-rs' own MERGE writes `Utf8View` columns, which not every reader supports; these files have plain ones. `writer.py`
provides the rows and commits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

import polars as pl
import polars.selectors as cs  # pl.col("^.*$") would mean every column, and a source's names may be anything
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.storage import schemas
from fraud_lakehouse.storage.compaction import MERGED_BYTES
from fraud_lakehouse.storage.lake import file_path, scan_files, table_root


@dataclass(frozen=True)
class Change:
    """What a merge changes.

    Args:
        rows: the rows that replace those with the same key; exactly the table's columns.
        keys: the keys of `rows`, and the keys to delete.
    """

    rows: pl.DataFrame
    keys: pl.DataFrame

    @staticmethod
    def of(table: DeltaTable, rows: pa.Table, key: Sequence[str], delete: str) -> Change:
        """From rows as DuckDB returns them; table columns that they lack are null.

        Args:
            delete: name of the column that is true in rows whose key is deleted; it may be absent.

        Raises:
            TransformError: a value does not fit its column.
        """
        schema = schemas.frame_schema(table.schema())
        frame = pl.DataFrame(rows)
        for name, kind in schema.items():
            if name in frame.columns and not _fits(frame[name], kind):
                raise TransformError(
                    f"column {name} of {table_root(table)} is {kind}, and values of a merge do not fit it",
                    "rebuild the table with `fraud-lakehouse rebuild`",
                )
        stays = cs.by_name(delete).not_().fill_null(value=True) if delete in frame.columns else pl.lit(value=True)
        typed = frame.filter(stays).select(
            cs.by_name(name).cast(kind) if name in frame.columns else pl.lit(None, kind).alias(name)
            for name, kind in schema.items()
        )
        return Change(typed, frame.select(cs.by_name(name).cast(schema[name]) for name in key))


def _fits(values: pl.Series, kind: pl.DataType) -> bool:
    """Whether values stay equal when cast to this type: a cast alone would truncate decimals."""
    if values.dtype == kind:
        return True
    try:
        return values.cast(kind).cast(values.dtype).equals(values)
    except pl.exceptions.PolarsError:
        return False


def rewrite(
    table: DeltaTable, change: Change, write: Callable[[pl.DataFrame], AddAction]
) -> Iterator[AddAction | RemoveAction]:
    """The actions of the merge's commit, each after its file is written.

    A file is read in pieces of about `MERGED_BYTES`, each of which becomes a file: memory does not grow with a table.

    Args:
        write: writes a file of the table.
    """
    on = [cs.by_name(name) for name in change.keys.columns]
    for path, size in _touched(table, change.keys):
        whole = scan_files(table, [file_path(table, path)])
        rows = whole.select(pl.len()).collect().item()
        step = math.ceil(rows / math.ceil(size / MERGED_BYTES))
        for start in range(0, rows, step):
            piece = whole.slice(start, step)
            kept = piece.join(change.keys.lazy(), on=on, how="anti", nulls_equal=True, maintain_order="left").collect()
            if kept.height:
                yield write(kept)
        now = time.time_ns() // 1_000_000
        yield RemoveAction(path=path, data_change=True, deletion_timestamp=now, size=size, partition_values={})
    if change.rows.height:
        yield write(change.rows)


def _touched(table: DeltaTable, keys: pl.DataFrame) -> list[tuple[str, int]]:
    """Path in the log and size of each file that has one of the keys."""
    actions = pl.DataFrame(table.get_add_actions(flatten=True)).select("path", "size_bytes").rows()
    near, on = _within(keys), [cs.by_name(name) for name in keys.columns]
    found = pl.collect_all(
        scan_files(table, [file_path(table, path)])
        .filter(near)
        .select(on)
        .join(keys.lazy(), on=on, how="semi", nulls_equal=True)
        .select(pl.len())
        for path, _ in actions
    )
    return [action for action, rows in zip(actions, found, strict=True) if rows.item()]


def _within(keys: pl.DataFrame) -> pl.Expr:
    """A filter for rows with one of the keys; row groups whose statistics exclude it are not read."""
    ranges = [
        cs.by_name(name).is_between(pl.lit(keys[name].min(), kind), pl.lit(keys[name].max(), kind))
        for name, kind in keys.schema.items()
        if not keys[name].has_nulls() and (kind.is_integer() or kind.is_temporal() or kind == pl.String)
    ]
    return reduce(and_, ranges, pl.lit(value=True))
