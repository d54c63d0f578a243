"""What labels are read from, and the SQL that reads them: streams with a label column, and tables of labels.yml.

Each query gives, in the order of the rows: stream, transaction_id, is_fraud, known_at, origin, author, note, recorded
(the time of the record or commit), and problem (why the row has no label; null for a good one).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fraud_lakehouse.detection.labels.table import OF_SOURCE
from fraud_lakehouse.errors import LabelsError
from fraud_lakehouse.pipeline import LabelTable, Stream, StreamColumn
from fraud_lakehouse.sql_text import literal, quoted

Types = Mapping[str, str]
"""The columns of a bronze table and their DuckDB types."""
_OFFSET = r":[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_RECORDED = ("_committed_at", "_timestamp", "_ingested_at")
_ORDER = ("_commit", "_lsn", "_seq", "_topic", "_partition", "_offset")
_VALUE = """case
        when lower({0}) in ('1', '1.0', 'true', 't') then true
        when lower({0}) in ('0', '0.0', 'false', 'f') then false
    end"""


@dataclass(frozen=True)
class LabelInput:
    """One input: its name, the bronze table, and what it declares. `delay` (seconds) is that of a stream."""

    name: str
    table: str
    declared: Stream | LabelTable
    delay: int = 0

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream's own label column."""
        return isinstance(self.declared, Stream)

    def query(self, relation: str, types: Types, streams: Collection[str]) -> str:
        """The query over new rows of the bronze table.

        Args:
            relation: has the rows, and only the columns of `types`.
            streams: the names of all streams.

        Raises:
            LabelsError: the bronze table lacks a declared column.
        """
        if isinstance(self.declared, Stream):
            return _of_stream(self.declared, relation, types, self.delay, self._checked(types))
        return _of_table(self.declared, relation, types, streams, self._checked(types))

    def columns(self, types: Types) -> list[str]:
        """The columns of the bronze table that the query reads."""
        own = [*self._declared.values(), *_RECORDED, *_ORDER, "_op", "_error"]
        return [name for name in dict.fromkeys(own) if name in types]

    @property
    def _declared(self) -> dict[str, str]:
        if isinstance(self.declared, Stream):
            assert self.declared.label is not None
            return {"id": self.declared.id, "time": self.declared.time, "label": self.declared.label}
        return self.declared.columns

    def _checked(self, types: Types) -> dict[str, str]:
        missing = [column for column in self._declared.values() if column not in types]
        if missing:
            file = "streams.yml" if self.is_stream else "labels.yml"
            raise LabelsError(
                f"labels of {self.name}: bronze/{self.table} has no column {', '.join(missing)}",
                f"correct the entry in {file}, or add the column at the source",
            )
        return self._declared


def utc(column: str, kind: str, timezone: str) -> str:
    """SQL of a column as a timestamptz, null if it is no time; without a zone it is in `timezone`."""
    text = quoted(column)
    zone = literal(timezone)
    if kind == "VARCHAR":
        local = f"timezone({zone}, try_cast({text} as timestamp))"
        found = f"case when regexp_matches({text}, '{_OFFSET}') then try_cast({text} as timestamptz) else {local} end"
    elif kind.startswith("TIMESTAMP WITH"):
        found = text
    else:
        found = f"timezone({zone}, cast({text} as timestamp))"
    return f"(select t from (select {found} as t) where isfinite(t) and year(t) between 1 and 9000)"


def _of_stream(stream: Stream, relation: str, types: Types, delay: int, named: Mapping[str, str]) -> str:
    identity = f"cast({quoted(named['id'])} as varchar)"
    if stream.kind == "events":  # as in silver: a record without an id is identified by its position
        identity = (
            f"coalesce({identity}, _topic || '/' || cast(_partition as varchar) || '/' || cast(_offset as varchar))"
        )
    recorded = _recorded(types)
    later = "_op = 'u'" if "_op" in types else "false"
    labels = f"""
select
    {literal(stream.name)} as stream,
    {identity} as transaction_id,
    {_value(named["label"])} as is_fraud,
    case when {later} then {recorded}
        else coalesce({utc(named["time"], types[named["time"]], stream.timezone)}, {recorded}) + interval {delay} second
    end as known_at,
    {literal(OF_SOURCE)} as origin,
    cast(null as varchar) as author,
    cast(null as varchar) as note,
    {recorded} as recorded,
    cast({quoted(named["label"])} as varchar) as label_text,
    {_place(types)} as place
from {relation}
where {quoted(named["label"])} is not null and {_is_row(types)}"""
    return f"""
select
    *,
    case when transaction_id is null then {literal(f"there is no {stream.id}")}
        when is_fraud is null then 'the label is ' || label_text || ', expected 0 or 1'
    end as problem
from ({labels}) as labels
order by place"""


def _of_table(
    table: LabelTable, relation: str, types: Types, streams: Collection[str], named: Mapping[str, str]
) -> str:
    def text(key: str) -> str:
        return f"cast({quoted(named[key])} as varchar)" if key in named else "cast(null as varchar)"

    stream = text("stream") if isinstance(table.stream, StreamColumn) else literal(table.stream)
    label = _value(named["is_fraud"]) if "is_fraud" in named else str(table.is_fraud).lower()
    recorded, known_at = _recorded(types), "cast(null as timestamptz)"
    if table.known_at is not None:
        known_at = utc(table.known_at, types[table.known_at], "UTC")
    known = ", ".join(map(literal, streams)) or "null"
    labels = f"""
select
    {stream} as stream,
    {text("transaction_id")} as transaction_id,
    {label} as is_fraud,
    {known_at} as stated_at,
    {literal(table.origin)} as origin,
    {text("author")} as author,
    {text("note")} as note,
    {recorded} as recorded,
    {text("is_fraud")} as label_text,
    {text("known_at")} as time_text,
    {_place(types)} as place
from {relation}
where {_is_row(types)}"""
    return f"""
select
    *,
    coalesce(stated_at, recorded) as known_at,
    case when stream is null or stream not in ({known})
            then 'the stream is ' || coalesce(stream, 'null') || ', expected one of streams.yml'
        when transaction_id is null then {literal(f"there is no {table.transaction_id}")}
        when is_fraud is null then 'the label is ' || coalesce(label_text, 'null') || ', expected 0 or 1'
        when time_text is not null and stated_at is null then 'the time it became known is ' || time_text
    end as problem
from ({labels}) as labels
order by place"""


def _value(column: str) -> str:
    return _VALUE.format(f"cast({quoted(column)} as varchar)")


def _recorded(types: Types) -> str:
    there = [f"cast({name} as timestamptz)" for name in _RECORDED if name in types]
    return f"coalesce({', '.join(there)})"


def _is_row(types: Types) -> str:
    """SQL: the record could be read, and is neither a delete nor a truncate."""
    conditions = ["_error is null"] * ("_error" in types) + ["_op in ('r', 'c', 'u')"] * ("_op" in types)
    return " and ".join(conditions) or "true"


def _place(types: Types) -> str:
    there = [name for name in _ORDER if name in types]
    return f"row_number() over (order by {', '.join(there) or 'true'})"
