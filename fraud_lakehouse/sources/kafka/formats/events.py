"""Change events of a batch as columns: the declared fields, the operation, and where in the source's log each lies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.formats.plan import MISSING, Plan
from fraud_lakehouse.sources.kafka.formats.values import column_type

EVENT_COLUMNS: dict[str, pl.DataType] = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_before": pl.String(),
}
"""Further columns of a topic of changes: those of a captured table, and `_before`, the row before an update as JSON."""

_ROW = "_row"
_NATIVE = (pl.String(), pl.Int32(), pl.Int64(), pl.Boolean())
_FIRST, _END = -62_135_596_800_000_000, 253_402_300_800_000_000  # the years 1 to 9999 in microseconds since 1970


@dataclass
class _Group:
    """Rows of one plan: their numbers in the batch, the rows, and those before an update."""

    numbers: list[int] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    before: dict[int, Any] = field(default_factory=dict)


@dataclass
class Events:
    """Change events of a batch: what is known of each, in their order; `errors`, `unchanged` and `before` by row."""

    count: int
    errors: dict[int, str] = field(default_factory=dict, init=False)
    unchanged: dict[int, str] = field(default_factory=dict, init=False)
    before: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.ops: list[str | None] = [None] * self.count
        self.lsns: list[int | None] = [None] * self.count
        self.seqs: list[int | None] = [None] * self.count
        self.times: list[int | None] = [None] * self.count
        self.groups: dict[Plan, _Group] = {}

    def add_row(self, number: int, plan: Plan, row: Any, before: Any = None) -> None:
        """The declared values of a record, and those before it."""
        group = self.groups.get(plan)
        if group is None:
            group = self.groups[plan] = _Group()
        if before is not None:
            group.before[len(group.rows)] = before
        group.numbers.append(number)
        group.rows.append(row)

    def columns(self) -> list[pl.Series]:
        """`EVENT_COLUMNS`; all null where there is an error."""
        for row in self.errors:
            self.ops[row] = self.lsns[row] = self.seqs[row] = self.times[row] = None
        times = [at if at is not None and _FIRST <= at < _END else None for at in self.times]
        return [
            pl.Series("_op", self.ops, pl.String),
            pl.Series("_lsn", self.lsns, pl.Int64),
            pl.Series("_seq", self.seqs, pl.Int64),
            pl.Series("_committed_at", times, pl.Int64).cast(EVENT_COLUMNS["_committed_at"]),
            sparse("_unchanged", self.unchanged, self.count),
            sparse("_before", self.before, self.count),
        ]


def sparse(name: str, texts: dict[int, str], count: int) -> pl.Series:
    """A column of the texts that are there, by row."""
    if not texts:
        return pl.Series(name, [None], pl.String).new_from_index(0, count)
    return pl.Series(name, [texts.get(row) for row in range(count)], pl.String)


def columns_of(events: Events, fields: Sequence[Field], key: Sequence[str], *, nulls: bool) -> pl.DataFrame:
    """The declared fields; null where there is no row or an error. What cannot be read is added to `events.errors`.

    Args:
        key: fields that may not be null.
        nulls: whether others may be, also where they are not optional.
    """
    schema = {one.name: column_type(one.type) for one in fields}
    unchanged: dict[int, list[str]] = {}
    before: dict[int, str] = {}
    frames = []
    for plan, group in events.groups.items():
        wrong: dict[int, str] = {}
        columns = []
        for one, get, reader in zip(fields, plan.getters, plan.readers, strict=True):
            values = [get(row) for row in group.rows]
            missing = _without_missing(values)
            read = reader.read(values)
            must = one.name in key or not (nulls or one.optional)
            if not one.optional:
                wrong |= {row: f"$.{one.path}: required field is missing" for row in missing if row not in wrong}
            if must and read.series.null_count():
                allowed = {*read.wrong, *read.unchanged}
                for row in read.series.is_null().arg_true().to_list():
                    if row not in allowed:
                        wrong.setdefault(row, f"$.{one.path}: expected {one.type}, got null")
            for row, reason in read.wrong.items():
                wrong.setdefault(row, f"$.{one.path}: {reason}")
            for row in read.unchanged:
                unchanged.setdefault(group.numbers[row], []).append(one.name)
            columns.append(read.series)
        frame = pl.DataFrame(columns)
        before |= _before(plan, group, fields)
        if wrong:
            events.errors |= {group.numbers[row]: reason for row, reason in wrong.items()}
            good = pl.Series([row not in wrong for row in range(frame.height)])
            frame = frame.with_columns(pl.when(good).then(pl.all()))
        frames.append(frame.with_columns(pl.Series(_ROW, group.numbers, pl.UInt32)))
    for row in events.errors:
        unchanged.pop(row, None)
        before.pop(row, None)
    events.unchanged = {
        row: json.dumps(names, ensure_ascii=False, separators=(",", ":")) for row, names in unchanged.items()
    }
    events.before = before
    if len(frames) == 1 and frames[0].height == events.count:
        return frames[0].drop(_ROW)
    every = pl.DataFrame([pl.Series(_ROW, range(events.count), pl.UInt32)])
    found = pl.concat([pl.DataFrame(schema=schema | {_ROW: pl.UInt32()}), *frames])
    return every.join(found, on=_ROW, how="left", maintain_order="left").drop(_ROW)


def _without_missing(values: list[Any]) -> list[int]:
    """Make the values null that a row does not have; their rows."""
    if MISSING not in values:
        return []
    rows = [row for row, value in enumerate(values) if value is MISSING]
    for row in rows:
        values[row] = None
    return rows


def _before(plan: Plan, group: _Group, fields: Sequence[Field]) -> dict[int, str]:
    """By row of the batch, the declared fields before an update as a JSON object; what cannot be read is null."""
    if not group.before:
        return {}
    columns = []
    for get, reader in zip(plan.getters, plan.readers, strict=True):
        values = [get(row) for row in group.before.values()]
        _without_missing(values)
        series = reader.read(values).series
        if series.dtype == pl.Binary:
            series = series.bin.encode("base64")
        elif series.dtype not in _NATIVE:
            series = series.cast(pl.String)
        columns.append(series)
    texts = pl.DataFrame(columns).select(pl.struct(pl.all()).struct.json_encode()).to_series()
    return {group.numbers[place]: text for place, text in zip(group.before, texts, strict=True)}
