"""Generated models of change streams; the SQL is in the macros/changes of the dbt project."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.stream_models import EXCLUDED, RATE, Column, StreamModel, rates_argument, tested


def change_models(
    stream: PaymentStream, relation: Callable[[str], str], captured: Collection[str]
) -> list[StreamModel]:
    """The models of a stream of changes.

    Args:
        stream: one that is `fitted`.
        relation: gives the relation with a captured table's changes, in a template.
        captured: names of the captured tables.
    """
    name, ledger, event = stream.name, stream.ledger, stream.event
    assert ledger is not None
    hot = {"strategy": "append", "tags": ["hot"]}
    events, entries = relation(stream.table), f"ref({ledger!r})"
    known = stream.entities[stream.entity].exists_in
    exists = f", {relation(known['table'])}" if known is not None and known["table"] in captured else ""
    return [
        StreamModel(
            name,
            ledger,
            "silver",
            hot,
            f"change_ledger({name!r}, {events}{rates_argument(stream, relation)})",
            f"The {event}s of the stream {name} as a ledger in commit order. A new version counts +1 for its "
            f"{stream.entity}; a version closed by an update, delete or truncate counts -1 with its old values. "
            f"One row per opened or closed version of a {event}.",
            _ledger_columns(stream),
        ),
        StreamModel(
            name,
            stream.features,
            "gold",
            hot,
            f"change_features({name!r}, {entries}{exists})",
            f"What was known about a {event} of the stream {name} when it was committed, computed from the table as it "
            f"was just before the change. One row per inserted, updated or snapshotted version of a {event}.",
            _feature_columns(stream),
        ),
        StreamModel(
            name,
            stream.vectors,
            "gold",
            {"strategy": "append", "tags": ["features"]},
            f"change_vectors({name!r}, {entries})",
            f"All strictly past features of a {event} of the stream {name}, computed from the state of its table. A "
            f"change adds a new version of the vectors it affects. One row per {event} and version.",
            _vector_columns(stream),
        ),
    ]


def _kind(stream: PaymentStream, column: str) -> str:
    """The models' type of an id, key or label: bigint for every integer (macro stream_type)."""
    kind = stream.fields[column]
    return "bigint" if kind in ("tinyint", "smallint", "integer") else kind


def _columns(stream: PaymentStream) -> tuple[Column, Column, list[Column]]:
    """The columns of the id, of the first entity's key, and of the other keys."""
    described = {stream.id: f"Id of the {stream.event}."}
    for name, entity in stream.entities.items():
        described |= dict.fromkeys(entity.key, f"Key of {name}, {entity.about}; may be null.")
    columns = [
        {"name": column, "data_type": _kind(stream, column), "description": text}
        for column, text in described.items()
        if column not in (stream.time, stream.amount)
    ]
    return columns[0], columns[1], columns[2:]


_TIMES: list[Column] = [
    {"name": "_committed_at", "data_type": "timestamptz", "description": "{{ doc('committed_at') }}"},
    {"name": "_ingested_at", "data_type": "timestamptz", "description": "{{ doc('ingested_at') }}"},
]
_POSITION: list[Column] = [
    {"name": "_lsn", "data_type": "bigint", "description": "{{ doc('lsn') }}"},
    {"name": "_seq", "data_type": "bigint", "description": "{{ doc('seq') }}"},
]


def _ledger_columns(stream: PaymentStream) -> list[Column]:
    ids, key, others = _columns(stream)
    amount = f"Amount of that version in {stream.currency}; may be null."
    label = (
        [{"name": stream.label, "data_type": _kind(stream, stream.label), "description": "Its label."}]
        if stream.label
        else []
    )
    return [
        *tested([ids], "not_null"),
        key,
        {"name": stream.amount, "data_type": "decimal(38, 9)", "description": amount},
        {"name": stream.time, "data_type": "timestamp", "description": f"When the {stream.event} took place (UTC)."},
        *others,
        *label,
        {"name": "weight", "data_type": "integer", "description": "1 opened, -1 closed."},
        *EXCLUDED,
        *([RATE] if stream.rates is not None else []),
        {
            "name": "amount_text",
            "data_type": "varchar",
            "description": "The amount as the source wrote it, if it does not fit; else null.",
        },
        *_POSITION,
        {"name": "_op", "data_type": "varchar", "description": "{{ doc('op') }}"},
        *_TIMES,
    ]


def _feature_columns(stream: PaymentStream) -> list[Column]:
    _, key, _ = _columns(stream)
    known = stream.entities[stream.entity].exists_in
    exists = f"Whether the {stream.entity} was in {known['table']} at that commit; null: unknown." if known else "Null."
    return [
        {"name": "source", "data_type": "varchar", "description": f"{stream.source_text}."},
        *tested(
            [{"name": "transaction_id", "data_type": "varchar", "description": f"{stream.id}, as text."}], "not_null"
        ),
        key,
        {"name": "amount", "data_type": "double", "description": f"Amount in {stream.currency}."},
        {"name": "event_time", "data_type": "timestamp", "description": f"When the {stream.event} took place (UTC)."},
        {"name": "source_committed_at", "data_type": "timestamptz", "description": "{{ doc('committed_at') }}"},
        {"name": "landed_at", "data_type": "timestamptz", "description": "{{ doc('ingested_at') }}"},
        {"name": "op", "data_type": "varchar", "description": "{{ doc('op') }}"},
        *EXCLUDED,
        {"name": "user_exists", "data_type": "boolean", "description": exists},
        {"name": "scored_at", "data_type": "timestamptz", "description": "{{ doc('scored_at') }}"},
        *_POSITION,
    ]


def _vector_columns(stream: PaymentStream) -> list[Column]:
    ids, key, others = _columns(stream)
    version = f"1 for the first vector of the {stream.event}; a correction has the next number."
    known = "When the source committed the newest change that this version includes (UTC)."
    return [
        *tested([ids], "not_null"),
        key,
        *others,
        {"name": "event_time", "data_type": "timestamp", "description": f"When the {stream.event} took place (UTC)."},
        *EXCLUDED,
        {"name": "version", "data_type": "integer", "description": version},
        *tested([{"name": "known_at", "data_type": "timestamptz", "description": known}], "not_null"),
        {"name": "is_deleted", "data_type": "boolean", "description": f"Whether the {stream.event} was deleted."},
    ]
