"""Tuples of pgoutput messages, read column by column for all rows of a group at once.

A tuple is a column count, then per column a letter: `n` null, `u` unchanged TOAST (not sent), `t` length and text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from fraud_lakehouse.sources.postgres.catalog import EVENT_SCHEMA
from fraud_lakehouse.sources.postgres.pgoutput.relation import Relation
from fraud_lakehouse.sources.postgres.types import text_of

_TEXT, _UNCHANGED = ord("t"), ord("u")


ROW = "\0row"
"""The message's position in the run; no column of PostgreSQL can have this name."""


@dataclass(frozen=True)
class TupleColumn:
    """One column of all rows: where it is unchanged TOAST, and its text (null where not sent)."""

    unchanged: pl.Series
    text: pl.Series


class TupleReader:
    """Reads the tuples of messages that share kind, layout and relation version.

    Args:
        relation: the version that describes the tuples.
        group: columns `ROW, data, lsn, committed, seq`.
    """

    def __init__(self, relation: Relation, group: pl.DataFrame) -> None:
        self._relation = relation
        self._group = group
        self._end = pl.Series([], dtype=pl.Int64)

    def read(self, offset: int | pl.Series) -> list[TupleColumn]:
        """The tuple that begins at byte `offset` of every message (its column count first)."""
        start = pl.lit(offset, dtype=pl.Int64) if isinstance(offset, int) else offset
        # Skip the two bytes of the column count: the relation message has it.
        walk = self._group.select("data", at=start + 2)
        columns = []
        for column in self._relation.columns:
            at, data = pl.col("at"), pl.col("data").bin
            walk = walk.with_columns(
                letter=data.slice(at, 1).bin.reinterpret(dtype=pl.UInt8),
                size=data.slice(at + 1, 4).bin.reinterpret(dtype=pl.Int32, endianness="big").cast(pl.Int64),
            )
            sent = pl.col("letter") == _TEXT
            read = walk.select(
                "data",
                at=at + pl.when(sent).then(pl.col("size") + 5).otherwise(1),
                value=pl.when(sent).then(data.slice(at + 5, pl.col("size"))),
            )
            columns.append(TupleColumn(walk["letter"] == _UNCHANGED, text_of(read["value"]).alias(column.name)))
            walk = read
        self._end = walk["at"]
        return columns

    def read_after_old(self) -> list[TupleColumn]:
        """The new tuple, which follows the old one just read (after the letter N)."""
        return self.read(self._end + 1)

    def rows(self, op: str, columns: Sequence[TupleColumn]) -> pl.DataFrame:
        """Typed events, with `ROW` as the first column for the order."""
        values, lossy = [], {}
        for column, read in zip(self._relation.columns, columns, strict=True):
            typed, beside = column.type.parse(read.text)
            values.append(typed.alias(column.name))
            if beside is not None:
                lossy[column.name] = beside
        return self._assemble(
            op, values, _unchanged(self._relation, columns), texts_alongside(lossy, self._group.height)
        )

    def old_keys(self, old: Sequence[TupleColumn], key: Sequence[str], changed: pl.Series | None) -> pl.DataFrame:
        """Deletes of the old keys, numbered before their updates; only where `changed` (None: everywhere)."""
        only_key = [
            read if column.name in key else TupleColumn(read.unchanged, read.text.clear(len(read.text)))
            for column, read in zip(self._relation.columns, old, strict=True)
        ]
        deletes = self.rows("d", only_key).with_columns(pl.col("_seq") - 1)
        return deletes if changed is None else deletes.filter(changed)

    def differs(self, old: Sequence[TupleColumn], new: Sequence[TupleColumn], key: Sequence[str]) -> pl.Series:
        """Where the key's text differs before and after (an unchanged TOAST value is the same)."""
        result = pl.Series([False]).new_from_index(0, self._group.height)
        for column, before, now in zip(self._relation.columns, old, new, strict=True):
            if column.name in key:
                result = result | (before.text.ne_missing(now.text) & ~now.unchanged)
        return result

    def filled(self, new: Sequence[TupleColumn], old: Sequence[TupleColumn]) -> list[TupleColumn]:
        """The new tuple, with unchanged TOAST values taken from the old row (replica identity FULL)."""
        result = []
        for now, before in zip(new, old, strict=True):
            known = now.unchanged & before.text.is_not_null()
            text = before.text.zip_with(known, now.text)
            result.append(TupleColumn(now.unchanged & ~known, text))
        return result

    def empty(self, op: str) -> pl.DataFrame:
        """Events without a row (truncate): every source column is null."""
        height = self._group.height
        values = [pl.Series(c.name, [], dtype=c.type.dtype).clear(height) for c in self._relation.columns]
        nothing = pl.Series([], dtype=pl.String).clear(height)
        return self._assemble(op, values, nothing, nothing)

    def _assemble(self, op: str, values: list[pl.Series], unchanged: pl.Series, texts: pl.Series) -> pl.DataFrame:
        events = self._group.select(
            pl.lit(op).alias("_op"),
            pl.col("lsn").alias("_lsn"),
            pl.col("seq").alias("_seq"),
            pl.col("committed").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("_committed_at"),
            unchanged.alias("_unchanged"),
            texts.alias("_text"),
        )
        return pl.DataFrame([self._group[ROW], *values, *events.select(list(EVENT_SCHEMA)).get_columns()])


def _unchanged(relation: Relation, columns: Sequence[TupleColumn]) -> pl.Series:
    """Per row, the JSON list of the columns that were not sent; null where all were."""
    height = len(columns[0].unchanged) if columns else 0
    marked = [
        (c.name, read.unchanged) for c, read in zip(relation.columns, columns, strict=True) if read.unchanged.any()
    ]
    if not marked:
        return pl.Series([], dtype=pl.String).clear(height)
    flags = pl.DataFrame([flag.alias(str(number)) for number, (_, flag) in enumerate(marked)])
    names = [
        pl.when(pl.col(str(number))).then(pl.lit(json.dumps(name, ensure_ascii=False)))
        for number, (name, _) in enumerate(marked)
    ]
    listed = pl.concat_str(names, separator=",", ignore_nulls=True)
    return flags.select(pl.when(pl.any_horizontal(pl.all())).then(pl.format("[{}]", listed))).to_series()


def texts_alongside(lossy: dict[str, pl.Series], height: int) -> pl.Series:
    """Per row, a JSON object column -> text of values that no typed column can represent; null if there are none."""
    if not lossy:
        return pl.Series([], dtype=pl.String).clear(height)
    texts: dict[int, dict[str, str]] = {}
    for name, series in lossy.items():
        for row in series.is_not_null().arg_true().to_list():
            texts.setdefault(row, {})[name] = series[row]
    encoded = [json.dumps(value, ensure_ascii=False) for value in texts.values()]
    return pl.Series([None], dtype=pl.String).new_from_index(0, height).scatter(list(texts), encoded)
