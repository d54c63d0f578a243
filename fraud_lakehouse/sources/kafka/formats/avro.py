"""Avro values in the wire format of Confluent's registry: a zero byte, the schema's id in four bytes, the value.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
Each record is read with the schema that it was written with, so that schemas may change in any compatible way.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastavro import schemaless_reader

from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.debezium import Headers, add_envelope, add_unwrapped
from fraud_lakehouse.sources.kafka.formats.events import Events, columns_of
from fraud_lakehouse.sources.kafka.formats.json import ReadValues, RecordError, check_value
from fraud_lakehouse.sources.kafka.formats.plan import Plan, make_plan, spelling
from fraud_lakehouse.sources.kafka.formats.position import POSITION_NAMES, Source
from fraud_lakehouse.sources.kafka.formats.registry import Registry, WrittenSchema

_HEADER = 5
_BROKEN = (EOFError, IndexError, KeyError, OverflowError, StopIteration, TypeError, ValueError)
"""What fastavro raises on bytes that are no value of the schema."""


class AvroRows:
    """Reads values whose schema is a row.

    Args:
        only: the fields that rows have; None: all.
    """

    def __init__(self, topic: TopicConfig, registry: Registry, only: Collection[str] | None = None) -> None:
        self._topic = topic
        self._registry = registry
        self._only = only
        self._plans: dict[int, Plan] = {}

    def read(self, value: bytes) -> tuple[Plan, Any]:
        """A row, and how its values are read.

        Raises:
            RecordError: it cannot be read. SourceError: the registry cannot.
        """
        number, schema, row = read_avro(value, self._registry)
        plan = self._plans.get(number)
        if plan is None:
            plan = self._plans[number] = plan_of(self._topic, schema.fields(), self._only)
        if not isinstance(row, dict):
            if self._only is None or len(self._only) != 1:
                raise RecordError(f"expected a record, got {type(row).__name__}")
            row = {one.path: row for one in self._topic.fields if one.name in self._only}
        return plan, row


class AvroEvents:
    """Reads change events, flattened ones included; see `JsonEvents`."""

    def __init__(self, topic: TopicConfig, registry: Registry) -> None:
        self._topic = topic
        self._registry = registry
        self._plans: dict[int, tuple[Plan, bool]] = {}

    def add(self, events: Events, number: int, value: bytes, headers: Headers) -> bool:
        """As of `JsonEvents`.

        Raises:
            RecordError: it cannot be read. SourceError: the registry cannot.
        """
        schema_id, schema, found = read_avro(value, self._registry)
        known = self._plans.get(schema_id)
        if known is None:
            fields = schema.fields()
            is_envelope = {"op", "source", "after"} <= fields.keys()
            plan = plan_of(self._topic, schema.fields(fields["after"]) if is_envelope else fields)
            known = self._plans[schema_id] = (plan, is_envelope)
        plan, is_envelope = known
        if not is_envelope:
            if not isinstance(found, dict):
                raise RecordError(f"expected a change event, got {type(found).__name__}")
            return add_unwrapped(events, number, plan, found, headers)
        given = found["source"] or {}
        source = Source(**{name: given[name] for name in POSITION_NAMES if name in given})
        return add_envelope(events, number, plan, found["op"], found.get("before"), found["after"], source)


class AvroDecoder:
    """Reads values of one topic of Avro records that are no change events; as `JsonDecoder`."""

    def __init__(self, topic: TopicConfig, registry: Registry) -> None:
        self._topic = topic
        self._rows = AvroRows(topic, registry)

    def read(self, values: Sequence[bytes | None], most_bytes: int) -> ReadValues:
        """Read values strictly, in their order; never raises on their content.

        Raises:
            SourceError: the schema registry cannot be read.
        """
        events = Events(len(values))
        for number, value in enumerate(values):
            try:
                events.add_row(number, *self._rows.read(check_value(value, most_bytes)))
            except RecordError as error:
                events.errors[number] = str(error)
        return ReadValues(columns_of(events, self._topic.fields, (), nulls=False), events.errors)


def read_avro(value: bytes, registry: Registry) -> tuple[int, WrittenSchema, Any]:
    """The id of a value's schema, the schema, and the value.

    Raises:
        RecordError: it is none. SourceError: the registry cannot be read.
    """
    if len(value) < _HEADER or value[0] != 0:
        raise RecordError("expected Avro with a schema's id (a zero byte and four more), got other bytes")
    number = int.from_bytes(value[1:_HEADER], "big")
    schema = registry.schema(number)
    stream = io.BytesIO(value)
    stream.seek(_HEADER)
    try:
        found = schemaless_reader(stream, schema.parsed, None)
    except _BROKEN as error:
        raise RecordError(f"no value of schema {number}: {error or type(error).__name__}") from None
    if stream.tell() != len(value):
        raise RecordError(f"no value of schema {number}: {len(value) - stream.tell()} bytes too many")
    return number, schema, found


def plan_of(topic: TopicConfig, schemas: Mapping[str, Any], only: Collection[str] | None = None) -> Plan:
    """How rows of an Avro record are read.

    Args:
        schemas: of its fields, by name.
        only: the fields that rows have; None: all.
    """
    return make_plan(topic.fields, topic.changes, schemas, spelling(topic.fields, [*schemas]), only)
