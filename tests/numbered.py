"""Commits as the lake's writers make them, on a bare Delta table: rows with the number of their commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from fraud_lakehouse.storage.commit_numbers import Commits, commits_of
from fraud_lakehouse.storage.schemas import COMMIT


def commit(
    uri: str,
    rows: pl.DataFrame,
    mode: Literal["append", "overwrite"] = "append",
    *,
    same_rows: bool = False,
    transactions: Sequence[Transaction] = (),
) -> int:
    """Append rows, or replace those there are; creates the table. The commit's number.

    Args:
        same_rows: of an overwrite, whether it computes the same rows anew.
    """
    exists = DeltaTable.is_deltatable(uri)
    before = commits_of(DeltaTable(uri)) if exists else Commits()
    rewrites = mode == "overwrite" and exists
    after = before.after_rewrite(same_rows=same_rows) if rewrites else before.after_append()
    numbered = rows.with_columns(pl.lit(after.newest, dtype=pl.Int64).alias(COMMIT))
    properties = CommitProperties(app_transactions=[*after.transactions(before), *transactions])
    options = {"mode": mode, "schema_mode": "merge" if mode == "append" else "overwrite"}
    write_deltalake(uri, numbered.to_arrow(), commit_properties=properties, **options)  # type: ignore[call-overload]
    return after.newest
