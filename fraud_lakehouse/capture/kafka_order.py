"""Puts records of several partitions into the order of their broker timestamps before they are handed out.

A broker delivers a backlog partition by partition in large pieces. Landed like that, one partition would carry the
event-time watermark past the others, and their rows would count as late. Only records are held here, no position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

_CLOCK: Final = "_clock"


class ArrivalOrder:
    """Records held back until no earlier one can come from another partition.

    A record's clock is the newest timestamp (ms) of its partition up to it: it never falls within a partition, so that
    every cut by clock takes whole prefixes of the partitions.
    """

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self.clocks: dict[int, int] = {}
        """Newest clock by partition."""
        self.rows = 0
        """Records held."""

    def add(self, frame: pl.DataFrame, partitions: Sequence[int], timestamps: Sequence[int | None]) -> None:
        """Hold records; `partitions` and `timestamps` are theirs, offsets rise within each partition."""
        clocks = self.clocks
        column = []
        for partition, timestamp in zip(partitions, timestamps, strict=True):
            clock = max(clocks.get(partition, 0), timestamp or 0)
            clocks[partition] = clock
            column.append(clock)
        self._frames.append(frame.with_columns(pl.Series(_CLOCK, column, pl.Int64)))
        self.rows += frame.height

    def ready(self, horizon: int | None) -> int:
        """How many held records have a clock up to `horizon` (None: all)."""
        if horizon is None:
            return self.rows
        return sum(int((frame[_CLOCK] <= horizon).sum()) for frame in self._frames)

    def release(self, most: int, horizon: int | None) -> pl.DataFrame:
        """Take out at most `most` records with a clock up to `horizon`, oldest first."""
        held = pl.concat(self._frames, rechunk=False)
        order = held.select("_clock", "_partition", "_offset").with_row_index("_row")
        if horizon is not None:
            order = order.filter(pl.col(_CLOCK) <= horizon)
        rows = order.sort(_CLOCK, "_partition", "_offset").head(most)["_row"]
        if rows.len() < held.height:
            kept = held.with_row_index("_row").filter(~pl.col("_row").is_in(rows.implode())).drop("_row")
            self._frames = [kept]
        else:
            self._frames = []
        self.rows = held.height - rows.len()
        return held[rows].drop(_CLOCK)

    def partitions(self) -> set[int]:
        """Partitions of which records are held."""
        return {number for frame in self._frames for number in frame["_partition"].unique().to_list()}
