"""The bronze table of a topic while its declaration changes: columns added, types widened, nothing lost.

A field that is no longer declared stays as a column; new records are null there.
"""

from __future__ import annotations

import json
import re

import polars as pl

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.ingest.bronze import COLUMNS_PROPERTY, KEY_PROPERTY, BronzeTable
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.records import schema_of
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import FrameSchema, delta_types

_DECLARED = {"integer": "int32", "long": "int64", "timestamp": "timestamptz", "timestamp_ntz": "timestamp"}
"""By Delta's name of a type, the declared one, where they differ."""
_DIGITS = {"integer": "10,0", "long": "19,0"}
"""The decimals that hold every integer of a type."""


class FieldTypeError(SourceError):
    """A declared field has another type than its column, which has values that the new type may not hold."""


def open_topic_table(lake: Lake, topic: TopicConfig) -> BronzeTable:
    """Open the bronze table of a topic, or create it. Its columns are not changed, see `evolve`.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    schema = schema_of(topic)
    return BronzeTable.open_or_create(lake, topic.table, schema, topic.changes.key, _columns(topic, schema))


def _columns(topic: TopicConfig, schema: FrameSchema) -> dict[str, str]:
    """The property with the source's columns: for a topic of changes, whose models need them."""
    if not topic.changes.key:
        return {}
    types = delta_types({field.name: schema[field.name] for field in topic.fields})
    described = [{"name": name, "type": kind} for name, kind in types.items()]
    return {COLUMNS_PROPERTY: json.dumps(described, ensure_ascii=False)}


def evolve(lake: Lake, table: BronzeTable, topic: TopicConfig) -> bool:
    """Give the table the columns that are declared now, and a column the type that its field has now.

    The type may change to one that holds every value of the old one exactly, and while no record has a value there.

    Returns:
        whether anything changed.

    Raises:
        FieldTypeError: the type of a field changed in another way; nothing changed.
        ConcurrentWriterError: another writer committed meanwhile; nothing changed.
        LakeError: the lake could not be read or written.
    """
    wanted = {table.spelling(name): kind for name, kind in schema_of(topic).items()}
    before, now = delta_types(table.schema), delta_types(wanted)
    for name, kind in now.items():
        if before.get(name, kind) == kind or _is_wider(before[name], kind) or not _has_values(lake, topic.table, name):
            continue
        was = _DECLARED.get(before[name], before[name])
        path = next((field.path for field in topic.fields if field.name == name), name)
        raise FieldTypeError(
            f"{topic.name}: the field {name} of topic {topic.topic!r} is declared as {_DECLARED.get(kind, kind)}, but"
            f" bronze/{topic.table} has values of type {was} there, which it cannot hold in every case",
            f"declare it as {was} again, or give the new type to a field of another name with path: {path}",
        )
    is_reshaped = table.reshape(wanted, rewrite=True)
    key = json.dumps([table.spelling(name) for name in topic.changes.key])
    described = {KEY_PROPERTY: key} | _columns(topic, schema_of(topic))
    if all(table.properties.get(name, "[]") == value for name, value in described.items()):
        return is_reshaped
    table.set_properties(described)
    return True


def _has_values(lake: Lake, table: str, column: str) -> bool:
    """Whether a column has a value in any row, by the files' statistics; without them it may have."""
    actions = pl.DataFrame(lake.open("bronze", table).get_add_actions(flatten=True))
    nulls = f"null_count.{column}"
    if actions.is_empty():
        return False
    return nulls not in actions.columns or bool((actions[nulls].fill_null(-1) != actions["num_records"]).any())


def _is_wider(before: str, now: str) -> bool:
    """Whether a Delta type holds every value of another one exactly."""
    if before == "integer" and now in ("long", "double"):
        return True
    digits, digits_now = _decimal(_DIGITS.get(before, before)), _decimal(now)
    if digits is None or digits_now is None:
        return False
    return digits_now[1] >= digits[1] and digits_now[0] - digits_now[1] >= digits[0] - digits[1]


def _decimal(kind: str) -> tuple[int, int] | None:
    """Precision and scale; None of another type."""
    found = re.fullmatch(r"(?:decimal\()?(\d+),(\d+)\)?", kind)
    return (int(found[1]), int(found[2])) if found else None
