"""Unpublished rows of a `_versions` table, in an order that is the same at every read.

A range is the rows between two commit numbers, ordered by event time, then key and version, which are unique. Merging
small files keeps commit numbers, so it changes no range. If a table was rebuilt or restored, no range continues from
the old position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.sinks.kafka.feature_topic import FeatureTopic
from fraud_lakehouse.sinks.kafka.position import Position
from fraud_lakehouse.storage.commit_numbers import commits_of, newest, rows_since
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.transform.old_positions import number_at

GOLD = "gold"
READ_ROWS = 200_000
"""Rows sorted and kept in memory at a time; a larger range is read in several passes."""


class DiscontinuityError(Exception):
    """It is unknown which rows were added since the position; the message has the reason."""


@dataclass(frozen=True)
class Backlog:
    """What comes after `position`: the rest of the range up to commit `until`.

    `rows` is the whole range, unordered; None: nothing was added. `version` is the table's Delta version at that time.
    """

    topic: FeatureTopic
    position: Position
    until: int
    rows: pl.LazyFrame | None
    version: int

    def pieces(self, most: int) -> Iterator[tuple[pl.DataFrame, Position]]:
        """The rows in order, at most `most` at a time, each piece with the position after it.

        The last piece completes the range; it may have no rows.
        """
        if self.rows is None:
            return
        position = self.position
        while True:
            chunk = self._read(position)
            is_last = chunk.height < READ_ROWS
            for start in range(0, chunk.height, most):
                piece = chunk.slice(start, most)
                position = position.after(self._times(piece), self.until)
                if is_last and start + most >= chunk.height:
                    yield piece, position.finished(self.until)
                    return
                yield piece, position
            if is_last:
                yield chunk, position.finished(self.until)
                return

    def _read(self, position: Position) -> pl.DataFrame:
        assert self.rows is not None
        rows, skip = self.rows, 0
        if position.until is not None and position.time is not None:
            rows = rows.filter(self._time >= position.time)
            skip = position.at_time
        return rows.sort(self.topic.order, nulls_last=True).slice(skip, READ_ROWS).collect(engine="streaming")

    @property
    def _time(self) -> pl.Expr:
        return pl.col(self.topic.time).dt.timestamp("us")

    def _times(self, rows: pl.DataFrame) -> list[int]:
        return rows.select(self._time).to_series().to_list()


def begin(lake: Lake, topic: FeatureTopic, *, epoch: int = 0, published: int = 0) -> Position:
    """The position before the table's first row."""
    return Position(table_id(lake.open(GOLD, topic.table)), epoch=epoch, published=published)


def end(lake: Lake, topic: FeatureTopic, *, epoch: int = 0, published: int = 0) -> Position:
    """The position after the table's last row at this time."""
    table = lake.open(GOLD, topic.table)
    return Position(table_id(table), newest(table), epoch=epoch, published=published)


def table_id(table: DeltaTable) -> str:
    """The table's identity; a table recreated in the same folder has another."""
    return str(table.metadata().id)


def is_newest(lake: Lake, topic: FeatureTopic, version: int) -> bool:
    """Whether a local table is known to have no newer version; costs two file lookups instead of an open."""
    if version < 0 or not lake.is_local:
        return False
    log = Path(lake.uri(GOLD, topic.table)) / "_delta_log"
    return (log / f"{version:020}.json").exists() and not (log / f"{version + 1:020}.json").exists()


def backlog(lake: Lake, topic: FeatureTopic, position: Position) -> Backlog:
    """What comes after a position.

    Raises:
        DiscontinuityError: the table was rebuilt or restored since.
    """
    table = lake.open(GOLD, topic.table)
    if table_id(table) != position.table:
        raise DiscontinuityError(f"{topic.table} was created anew")
    if position.version is not None:
        position = _converted(table, topic, position)
    commits = commits_of(table)
    if commits.newest < position.newest:
        raise DiscontinuityError(f"{topic.table} is at commit {commits.newest}, before {position.newest}: restored")
    if 0 <= position.newest < commits.rewritten:
        raise DiscontinuityError(f"{topic.table} was rebuilt")
    until = commits.newest if position.until is None else position.until
    rows = rows_since(table, position.commit, until)
    found = _columns(rows.scan(table), topic) if rows.files else None
    return Backlog(topic, position, until, found, table.version())


def newest_versions(lake: Lake, topic: FeatureTopic) -> tuple[pl.DataFrame, Position]:
    """The newest version of each key, in the order of the table's rows, and the position after all rows."""
    table = lake.open(GOLD, topic.table)
    last = _columns(scan(table), topic).sort("version").unique(list(topic.key), keep="last", maintain_order=False)
    return last.sort(topic.order, nulls_last=True).collect(), Position(table_id(table), newest(table))


def _converted(table: DeltaTable, topic: FeatureTopic, position: Position) -> Position:
    """A position that version 0.1 wrote, converted to commit numbers.

    Raises:
        DiscontinuityError: it is unknown which rows came after it, or a range other than the first was incomplete.
    """
    assert position.version is not None
    commit = number_at(table, position.version)
    until = number_at(table, position.until) if position.until is not None else None
    if commit is None or (position.until is not None and (until is None or position.version >= 0)):
        raise DiscontinuityError(f"{topic.table} has no log from version {position.newest} on")
    return replace(position, commit=commit, until=until, version=None)


def _columns(rows: pl.LazyFrame, topic: FeatureTopic) -> pl.LazyFrame:
    return rows.select(topic.columns)
