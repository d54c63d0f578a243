"""Counts a table's rows in each of the last hours, from the files' statistics where possible.

A busy source has many millions of rows a day, and the checks run twice a minute: only files that span an hour's end are
read.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.storage.lake import Lake, scan_files, table_root
from fraud_lakehouse.transform.scan import file_path

_HOUR = timedelta(hours=1)
_TRUNCATED = timedelta(milliseconds=1)  # a file's stated maximum may be too small by this much


def rows_per_hour(lake: Lake, table: tuple[str, str], column: str, since: datetime, now: datetime) -> dict[int, int]:
    """Rows in (`since`, `now`] by whole hours before `now` (0 is the last hour); empty without such a table.

    Args:
        column: timestamp with time zone; nulls count nowhere.

    Raises:
        LakeError: the table was removed.
    """
    if not lake.exists(*table):
        return {}
    handle = lake.open(*table)
    stated = _stated(pl.DataFrame(handle.get_add_actions(flatten=True)), column)
    first, last = hours_ago(pl.col("least"), now), hours_ago(pl.col("greatest"), now)
    near = _near(stated, since, now)
    is_reported = (
        (first == last) & (pl.col("least") > since) & (pl.col("greatest") <= now) & pl.col("rows").is_not_null()
    )
    reported = near.filter(is_reported).group_by(first.alias("hour")).agg(pl.col("rows").sum())
    unsure = near.filter(~is_reported.fill_null(value=False))["path"]
    counts: dict[int, int] = dict(reported.iter_rows())
    if unsure.len():
        files = [file_path(table_root(handle), path) for path in unsure]
        rows = scan_files(handle, files).filter(pl.col(column) > since, pl.col(column) <= now)
        read = rows.group_by(hours_ago(pl.col(column), now).alias("hour")).agg(pl.len().alias("rows")).collect()
        for hour, count in read.iter_rows():
            counts[hour] = counts.get(hour, 0) + count
    return counts


def files_between(handle: DeltaTable, column: str, since: datetime, now: datetime) -> list[str]:
    """Paths of a table's files that may have rows whose time lies in (`since`, `now`]."""
    stated = _stated(pl.DataFrame(handle.get_add_actions(flatten=True)), column)
    return [file_path(table_root(handle), path) for path in _near(stated, since, now)["path"]]


def _near(stated: pl.DataFrame, since: datetime, now: datetime) -> pl.DataFrame:
    return stated.filter(((pl.col("greatest") > since) & (pl.col("least") <= now)).fill_null(value=True))


def _stated(actions: pl.DataFrame, column: str) -> pl.DataFrame:
    """Of each file: path, minimum and maximum time, number of rows with a time; null if not stated."""
    kinds = {
        f"min.{column}": ("least", pl.Datetime("us", "UTC")),
        f"max.{column}": ("greatest", pl.Datetime("us", "UTC")),
        "num_records": ("records", pl.Int64()),
        f"null_count.{column}": ("nulls", pl.Int64()),
    }
    columns = [
        (pl.col(name) if name in actions.columns else pl.lit(None)).cast(kind).alias(alias)
        for name, (alias, kind) in kinds.items()
    ]
    return actions.select("path", *columns).select(
        "path", "least", pl.col("greatest") + _TRUNCATED, rows=pl.col("records") - pl.col("nulls")
    )


def hours_ago(time: pl.Expr, now: datetime) -> pl.Expr:
    """Whole hours from a time until `now`."""
    return (pl.lit(now) - time).dt.total_microseconds() // int(_HOUR / timedelta(microseconds=1))
