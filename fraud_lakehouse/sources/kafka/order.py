"""Puts records of several partitions into the order of their broker timestamps before they are handed out.

A broker delivers a backlog partition by partition in large pieces. Landed like that, one partition would carry the
event-time watermark past the others, and their rows would count as late. Only records are held here, no position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

_CLOCK: Final = "_clock"


@dataclass(frozen=True)
class _Piece:
    """Records held: their columns (which may still be in the making), clocks and partitions."""

    frame: Callable[[], pl.DataFrame]
    clocks: pl.Series
    partitions: frozenset[int]


class ArrivalOrder:
    """Records held back until no earlier one can come from another partition.

    A record's clock is the newest timestamp (ms) of its partition up to it: it never falls within a partition, so that
    every cut by clock takes whole prefixes of the partitions.

    Args:
        alone: there is one partition only, which is in order as it is: all records of a piece get its newest clock.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self._alone = alone
        self._pieces: list[_Piece] = []
        self.clocks: dict[int, int] = {}
        """Newest clock by partition."""
        self.rows = 0
        """Records held."""

    def add(
        self, frame: Callable[[], pl.DataFrame], partitions: Sequence[int], timestamps: Sequence[int | None]
    ) -> None:
        """Hold records; `partitions` and `timestamps` are theirs, offsets rise within each partition.

        Args:
            frame: gives their columns (at least `_partition` and `_offset`); called when they are handed out.
        """
        if self._alone and timestamps:
            number, newest_clock = partitions[0], max(filter(None, timestamps), default=0)
            self.clocks[number] = max(newest_clock, self.clocks.get(number, 0))
            column = pl.Series(_CLOCK, [self.clocks[number]], pl.Int64).new_from_index(0, len(timestamps))
            self._hold(frame, column, frozenset((number,)))
            return
        moments = pl.DataFrame([pl.Series(_CLOCK, timestamps, pl.Int64)])
        clock = pl.col(_CLOCK).fill_null(0).cum_max()
        column = pl.Series(_CLOCK, [], pl.Int64)
        numbers = frozenset(partitions)
        if len(numbers) == 1:
            (number,) = numbers
            column = moments.select(clock.clip(self.clocks.get(number, 0)))[_CLOCK]
            self.clocks[number] = column[-1]
        elif numbers:
            newest = moments.with_columns(pl.Series("_partition", partitions, pl.Int32))
            known = {number: self.clocks.get(number, 0) for number in numbers}
            before = pl.col("_partition").replace_strict(known, return_dtype=pl.Int64)
            newest = newest.select("_partition", pl.max_horizontal(clock.over("_partition"), before))
            column = newest[_CLOCK]
            self.clocks |= dict(newest.group_by("_partition").max().iter_rows())
        self._hold(frame, column, numbers)

    def ready(self, horizon: int | None) -> int:
        """How many held records have a clock up to `horizon` (None: all)."""
        if horizon is None or self._alone:
            return self.rows
        return sum(int((piece.clocks <= horizon).sum()) for piece in self._pieces)

    def release(self, most: int, horizon: int | None) -> pl.DataFrame:
        """Take out at most `most` records with a clock up to `horizon`, oldest first."""
        pieces, ready, partitions = self._pieces, self.ready(horizon), self.partitions()
        self._pieces, self.rows = [], 0
        held = pl.concat([piece.frame().with_columns(piece.clocks) for piece in pieces], rechunk=False)
        if len(partitions) == 1:  # in order as it is
            count = min(most, ready)
            self._keep(held[count:])
            return held[:count].drop(_CLOCK)
        order = held.select(_CLOCK, "_partition", "_offset").with_row_index("_row")
        if horizon is not None:
            order = order.filter(pl.col(_CLOCK) <= horizon)
        rows = order.sort(_CLOCK, "_partition", "_offset").head(most)["_row"]
        if rows.len() < held.height:
            self._keep(held.with_row_index("_row").filter(~pl.col("_row").is_in(rows.implode())).drop("_row"))
        return held[rows].drop(_CLOCK)

    def partitions(self) -> frozenset[int]:
        """Partitions of which records are held."""
        return frozenset[int]().union(*(piece.partitions for piece in self._pieces))

    def _keep(self, frame: pl.DataFrame) -> None:
        rest = frame.drop(_CLOCK)
        self._hold(lambda: rest, frame[_CLOCK], frozenset(frame["_partition"].unique()))

    def _hold(self, frame: Callable[[], pl.DataFrame], clocks: pl.Series, partitions: frozenset[int]) -> None:
        if clocks.len():
            self._pieces.append(_Piece(frame, clocks, partitions))
            self.rows += clocks.len()
