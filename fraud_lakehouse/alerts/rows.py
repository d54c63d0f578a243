"""Full alert rows for messages: the newest are kept in memory, older ones are read again from their table."""

from __future__ import annotations

import polars as pl

from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake, scan

KEPT = 5_000  # rows, about 1 KB each; only alerts for a failing destination are pending for longer


class AlertRows:
    """Rows of an alerts table by alert_id. One thread adds rows, any thread may read."""

    def __init__(self, lake: Lake, table: tuple[str, str]) -> None:
        self._lake = lake
        self._table = table
        self._kept = pl.DataFrame(schema={"alert_id": pl.String()})

    def keep(self, rows: pl.DataFrame) -> None:
        """Keep new rows of the table."""
        self._kept = pl.concat([self._kept, rows], how="diagonal_relaxed").tail(KEPT).rechunk()

    def forget(self) -> None:
        """Discard all rows: the table was replaced."""
        self._kept = self._kept.clear()

    def of(self, wanted: pl.DataFrame) -> pl.DataFrame:
        """The rows of these alerts, in this order.

        Args:
            wanted: columns alert_id and fired_at; fired_at limits which files are read.

        Raises:
            LakeError: the table cannot be read.
        """
        kept = self._kept  # another thread may replace it
        found = _ordered(wanted, kept)
        if found.height == wanted.height:
            return found
        missing = wanted.join(kept, on="alert_id", how="anti")
        recorded = pl.col("fired_at").is_between(missing["fired_at"].min(), missing["fired_at"].max())
        with lake_errors(self._lake, *self._table):
            rows = scan(self._lake.open(*self._table)).filter(recorded | pl.col("fired_at").is_null())
            read = rows.filter(pl.col("alert_id").is_in(missing["alert_id"].to_list())).collect()
        return _ordered(wanted, pl.concat([found, read], how="diagonal_relaxed"))


def _ordered(wanted: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    return wanted.select("alert_id").join(rows, on="alert_id", how="inner", maintain_order="left")
