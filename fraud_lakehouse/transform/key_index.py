"""Finds the rows of cached state that have a key: sorted hashes with row numbers, in a few sorted runs of growing size.

A lookup costs a binary search in each run, whatever the number of rows; a row costs 16 bytes. Hashes may collide:
callers compare the true keys of the rows found.
"""

from __future__ import annotations

import polars as pl

GROWTH = 4  # a run is merged into the previous one once that is less than this many times its size


class KeyIndex:
    """Rows by key hash; rows are only added."""

    def __init__(self) -> None:
        self._runs: list[pl.DataFrame] = []
        self.covered = 0
        """The number of leading rows that were added or skipped."""

    def add(self, rows: pl.DataFrame, covered: int) -> None:
        """Add rows with the columns `hash` (UInt64) and `row` (Int64); `covered` is then the number of cached rows."""
        self.covered = covered
        if rows.is_empty():
            return
        self._runs.append(rows.sort("hash"))
        while len(self._runs) > 1 and self._runs[-2].height < GROWTH * self._runs[-1].height:
            last = self._runs.pop()
            self._runs[-1] = self._runs[-1].merge_sorted(last, "hash").rechunk()

    def find(self, hashes: pl.Series) -> pl.Series:
        """Numbers (Int64) of the rows whose key has one of the hashes, each once."""
        found = [pl.Series("row", [], pl.Int64)]
        wanted = hashes.unique()
        for run in self._runs:
            first = run["hash"].search_sorted(wanted, side="left")
            end = run["hash"].search_sorted(wanted, side="right")
            spans = pl.DataFrame({"first": first, "end": end}).filter(pl.col("first") < pl.col("end"))
            if not spans.is_empty():
                places = spans.select(pl.int_ranges("first", "end").explode())["first"]
                found.append(run["row"].gather(places))
        return pl.concat(found)
