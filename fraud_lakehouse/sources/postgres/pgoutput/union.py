"""Combines a table's events under several versions of its columns into one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import polars as pl

from fraud_lakehouse.sources.postgres.catalog import ColumnInfo, TableInfo
from fraud_lakehouse.sources.postgres.pgoutput.relation import Relation
from fraud_lakehouse.sources.postgres.pgoutput.tuples import ROW
from fraud_lakehouse.storage.retype import fitted


def union(
    name: str, newest: Relation, key: tuple[str, ...], pieces: Sequence[tuple[Relation, pl.DataFrame]]
) -> tuple[TableInfo, pl.DataFrame]:
    """One frame of all versions: the newest columns first, then those dropped meanwhile.

    A column whose type changed meanwhile has the new type in all rows. Older values that do not fit are null, with
    their text in `_text`.

    Args:
        name: bronze table name.
        newest: the relation at the end of the run.
        key: names of its key columns.
        pieces: each version's events, typed, with `ROW`; in the order of the log.

    Returns:
        the table as of the newest version, and its events in order (columns `TableInfo.frame_schema`).
    """
    present = {column.name.lower(): column.name for column in newest.columns}
    dropped: dict[str, ColumnInfo] = {}
    for relation, _ in reversed(pieces):
        for column in relation.columns:
            if column.name.lower() not in present:
                dropped.setdefault(column.name.lower(), column)
    names = present | {lower: column.name for lower, column in dropped.items()}
    info = TableInfo(
        name=name,
        schema=newest.schema,
        table=newest.table,
        columns=newest.columns,
        key=key,
        oid=newest.oid,
        full=newest.full,
        dropped=tuple(dropped.values()),
        lsn=max((cast("int", frame["_lsn"].max()) for _, frame in pieces if frame.height), default=0),
    )
    frames = [
        fitted(frame.rename({n: names[n.lower()] for n in frame.columns if n.lower() in names}), info.frame_schema)
        for _, frame in pieces
    ]
    if len(frames) == 1:  # in order already
        return info, frames[0]
    together = pl.concat(frames)
    rows = pl.concat([frame.get_column(ROW) for _, frame in pieces])
    order = pl.DataFrame([rows, together.get_column("_seq")]).select(pl.arg_sort_by(ROW, "_seq")).to_series()
    return info, together[order]
