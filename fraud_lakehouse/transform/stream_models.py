"""Generated model files of streams without their own: one macro call each, and a yml with the columns.

The SQL is in the macros, dbt_project/macros/events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.streams import PaymentStream

Column = dict[str, Any]


@dataclass(frozen=True)
class StreamModel:
    """A generated model of a stream.

    Args:
        layer: silver or gold.
        config: dbt's, such as its strategy and tags.
        call: the macro's call.
        columns: as in a yml; features are added to them.
    """

    stream: str
    name: str
    layer: str
    config: dict[str, Any]
    call: str
    description: str
    columns: Sequence[Column]

    @property
    def path(self) -> str:
        """The path of its SQL in the project."""
        return f"models/{self.layer}/streams/{self.name}.sql"


def stream_models(streams: Iterable[PaymentStream], relation: Callable[[str], str]) -> list[StreamModel]:
    """The models of event streams that have no files.

    Args:
        relation: gives the relation with a captured table's changes, in a template.
    """
    return [model for stream in streams if stream.kind == "events" for model in event_models(stream, relation)]


def files_of(models: Sequence[StreamModel], streams: Sequence[PaymentStream], catalogue: Catalogue) -> dict[str, str]:
    """The files of generated models, and the source entries of the topics they read; texts by path.

    Args:
        models: those of `stream_models(streams)`.
        catalogue: the features, which are further columns of the models.
    """
    files: dict[str, str] = {}
    for model in models:
        columns = [*model.columns, *(feature.column() for feature in catalogue.of_table(model.name))]
        described = {"name": model.name, "description": model.description, "columns": columns}
        files[model.path] = f"{{{{ config(**{model.config!r}) }}}}\n{{{{ {model.call} }}}}\n"
        files[model.path.removesuffix("sql") + "yml"] = _yaml({"version": 2, "models": [described]})
    tables = [_bronze(stream) for stream in streams if stream.kind == "events"]
    tables += _topics_of_rates(streams)
    if tables:
        sources = {"version": 2, "sources": [{"name": "streams", "schema": "bronze", "tables": tables}]}
        files["models/silver/streams/sources.yml"] = _yaml(sources)
    return files


def event_models(stream: PaymentStream, relation: Callable[[str], str]) -> list[StreamModel]:
    """The models of a stream of events; `relation` as for `stream_models`."""
    name, late = stream.name, stream.late
    assert late is not None
    rows = f"ref({stream.rows!r})"
    hot = {"strategy": "append", "tags": ["hot"]}
    return [
        StreamModel(
            name,
            stream.rows,
            "silver",
            hot,
            f"event_rows({name!r}, source('streams', {stream.table!r}){rates_argument(stream, relation)})",
            f"Readable {stream.event}s of the stream {name}. Duplicates count once: the first arrival is kept. "
            f"A record without {stream.id} gets topic/partition/offset as its id. "
            f"One row per distinct {stream.id}.",
            _row_columns(stream),
        ),
        StreamModel(
            name,
            late,
            "silver",
            hot,
            f"late_events({name!r}, {rows})",
            f"{stream.event.capitalize()}s of the stream {name} that arrived after their window of "
            f"{stream.late_window_seconds // 60} minutes had closed: its end was at or before the watermark at their "
            f"arrival. One row per late {stream.event}.",
            _late_columns(stream),
        ),
        StreamModel(
            name,
            stream.features,
            "gold",
            hot,
            f"event_features({name!r}, {rows})",
            f"What was known about a {stream.event} of the stream {name} when it arrived; later arrivals never "
            f"count. One row per {stream.event}.",
            _feature_columns(stream),
        ),
        StreamModel(
            name,
            stream.vectors,
            "gold",
            {"strategy": "append", "tags": ["features"]},
            f"event_vectors({name!r}, {rows}, ref({late!r}))",
            f"All strictly past features of a {stream.event} of the stream {name}. The first version is written when "
            "the watermark passes its event time, a further one when its values change. Rows are only added. "
            f"One row per {stream.event} and version.",
            _vector_columns(stream),
        ),
    ]


def rates_argument(stream: PaymentStream, relation: Callable[[str], str]) -> str:
    """The rates as a further argument of a macro's call; empty if all amounts are in one currency."""
    return f", rates={relation(stream.rates.table)}" if stream.rates else ""


_POSITIONS: list[Column] = [
    {"name": "_topic", "data_type": "varchar", "description": "{{ doc('kafka_topic') }}"},
    {"name": "_partition", "data_type": "integer", "description": "{{ doc('kafka_partition') }}"},
    {"name": "_offset", "data_type": "bigint", "description": "{{ doc('kafka_offset') }}"},
]
_TIMES: list[Column] = [
    {"name": "_timestamp", "data_type": "timestamptz", "description": "{{ doc('kafka_timestamp') }}"},
    {"name": "_ingested_at", "data_type": "timestamptz", "description": "{{ doc('ingested_at') }}"},
]
EXCLUDED: list[Column] = [
    {"name": name, "data_type": "boolean", "description": f"{{{{ doc('{name}') }}}}"}
    for name in ("is_amount_excluded", "is_time_excluded")
]
"""Whether a payment's amount and its time are excluded from features."""
_OF_RECORDS: list[Column] = [
    {"name": "_commit", "data_type": "bigint", "description": "{{ doc('commit') }}"},
    {"name": "_raw", "data_type": "blob", "description": "The record's bytes, if it could not be read."},
    {"name": "_error", "data_type": "varchar", "description": "Why the record could not be read; null for a good one."},
    {
        "name": "_extra",
        "data_type": "varchar",
        "description": "JSON object of further fields, as received; null: none.",
    },
    {"name": "_key", "data_type": "blob", "description": "The record's key; null: none."},
    {"name": "_headers", "data_type": "varchar", "description": "JSON list of the record's headers; null: none."},
    {
        "name": "_quarantined_at",
        "data_type": "timestamptz",
        "description": "When a replayed record was first ingested as unreadable; null for all others.",
    },
]


RATE: Column = {
    "name": "_rate",
    "data_type": "double",
    "description": "The rate at which the amount was converted; null: no rate was known.",
}
"""The column with the rate that converted an amount."""


def row_type(stream: PaymentStream, column: str) -> str:
    """The type of a declared column in the stream's rows: an id is text, a time is UTC without zone."""
    if column == stream.id:
        return "varchar"
    if stream.rates is not None and column == stream.amount:
        return "decimal(38, 9)"
    return "timestamp" if column == stream.time else stream.fields[column]


def _bronze(stream: PaymentStream) -> Column:
    return _topic(stream.table, f"those of the stream {stream.name}", stream.fields)


def _topic(table: str, what: str, fields: Mapping[str, str]) -> Column:
    declared = [{"name": name, "data_type": kind, "quote": True} for name, kind in fields.items()]
    return {
        "name": table,
        "description": f"Records of a topic: {what}. One row per record.",
        "columns": [*declared, *_POSITIONS, *_TIMES, *_OF_RECORDS],
    }


def _topics_of_rates(streams: Sequence[PaymentStream]) -> list[Column]:
    """Topics with rates that are not streams themselves."""
    fields: dict[str, dict[str, str]] = {}
    for rates in (stream.rates for stream in streams if stream.rates is not None):
        if not rates.key:
            fields.setdefault(rates.table, {}).update(rates.fields)
    for stream in streams:
        fields.pop(stream.table, None)
    return [_topic(table, "dated rates of currencies", columns) for table, columns in fields.items()]


def _declared(stream: PaymentStream, *columns: str) -> list[Column]:
    described = {
        stream.id: f"Id of the {stream.event}.",
        stream.time: f"When the {stream.event} took place (UTC).",
        stream.amount: f"Amount in {stream.currency}.",
    }
    return [
        {
            "name": column,
            "data_type": row_type(stream, column),
            "description": described.get(column, f"The field {column}, as received."),
        }
        for column in dict.fromkeys(columns)
    ]


def tested(columns: list[Column], *tests: Any) -> list[Column]:
    """Add data tests to the first column."""
    return [{**columns[0], "data_tests": list(tests)}, *columns[1:]]


def _row_columns(stream: PaymentStream) -> list[Column]:
    others = [name for name in stream.fields if name != stream.id]
    number = {"name": "_bronze_commit", "data_type": "bigint", "description": "{{ doc('bronze_commit') }}"}
    fields = tested(_declared(stream, stream.id, *others), "unique", "not_null")
    return [*fields, *_converted_columns(stream), *EXCLUDED, *_POSITIONS, *_TIMES, number]


def _converted_columns(stream: PaymentStream) -> list[Column]:
    """The original amount and the rate, if amounts are converted."""
    if stream.rates is None:
        return []
    kind, text = stream.fields[stream.amount], f"The amount as it was sent, in the currency {stream.rates.code}."
    return [{"name": stream.original_amount, "data_type": kind, "description": text}, RATE]


def _late_columns(stream: PaymentStream) -> list[Column]:
    known = {"to": f"ref('{stream.rows}')", "field": stream.id}
    declared = _declared(stream, stream.id, *stream.entities[stream.entity].key, stream.time, stream.amount)
    return [
        *tested(declared, "unique", "not_null", {"relationships": {"arguments": known}}),
        {"name": "window_start", "data_type": "timestamp", "description": "Start of its window."},
        {"name": "window_end", "data_type": "timestamp", "description": "End of its window."},
        {
            "name": "watermark",
            "data_type": "timestamp",
            "description": "Watermark of its partition when it arrived.",
        },
        {
            "name": "seconds_late",
            "data_type": "double",
            "description": "How far its event time was behind the watermark (seconds).",
        },
        {"name": "reason", "data_type": "varchar", "description": "Why it is late."},
        *_POSITIONS,
        *_TIMES,
    ]


def _feature_columns(stream: PaymentStream) -> list[Column]:
    key = [column for column in stream.entities[stream.entity].key if column != stream.id]
    ids = {"name": "transaction_id", "data_type": "varchar", "description": f"Id of the {stream.event} ({stream.id})."}
    return [
        {"name": "source", "data_type": "varchar", "description": f"{stream.source_text} and the topic."},
        *tested([ids], "unique", "not_null"),
        *_declared(stream, *key),
        {"name": "amount", "data_type": "double", "description": f"Amount in {stream.currency}."},
        {"name": "event_time", "data_type": "timestamp", "description": f"When the {stream.event} took place (UTC)."},
        {"name": "source_committed_at", "data_type": "timestamptz", "description": "{{ doc('kafka_timestamp') }}"},
        {"name": "landed_at", "data_type": "timestamptz", "description": "{{ doc('ingested_at') }}"},
        {"name": "op", "data_type": "varchar", "description": "Always c: records are only added."},
        *EXCLUDED,
        {"name": "user_exists", "data_type": "boolean", "description": "Always null: users are not looked up."},
        {"name": "scored_at", "data_type": "timestamptz", "description": "{{ doc('scored_at') }}"},
        *_POSITIONS,
    ]


def _vector_columns(stream: PaymentStream) -> list[Column]:
    keys = [column for entity in stream.entities.values() for column in entity.key if column != stream.id]
    return [
        *tested(_declared(stream, stream.id, *keys), "not_null"),
        {"name": "event_time", "data_type": "timestamp", "description": f"When the {stream.event} took place (UTC)."},
        EXCLUDED[0],
        {
            "name": "version",
            "data_type": "integer",
            "description": f"1 for the first vector of the {stream.event}; a correction has the next number.",
        },
        {
            "name": "known_at",
            "data_type": "timestamptz",
            "description": "When the last of its inputs had been ingested (UTC).",
        },
    ]


def _yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1_000)


class _Dumper(yaml.SafeDumper):
    """Writes repeated objects in full, without YAML aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
