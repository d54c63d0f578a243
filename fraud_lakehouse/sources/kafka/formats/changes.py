"""Records of a topic of changes into columns: values, tombstones and keys, whatever they are written in."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.avro import AvroEvents, AvroRows
from fraud_lakehouse.sources.kafka.formats.debezium import Headers, JsonEvents, schemas_of
from fraud_lakehouse.sources.kafka.formats.events import Events, columns_of
from fraud_lakehouse.sources.kafka.formats.json import TOMBSTONE, ReadValues, RecordError, check_value, reason_of
from fraud_lakehouse.sources.kafka.formats.plan import Plan, make_plan, spelling
from fraud_lakehouse.sources.kafka.formats.registry import Registry

_ANY = msgspec.json.Decoder(float_hook=Decimal)


class ChangeDecoder:
    """Reads records of a topic of changes.

    A delete without its row, and a tombstone, have the columns of the record's key. A tombstone is a delete without a
    position: it repeats, or completes, what the record of the key before it says.

    Args:
        registry: None where the format needs none.
    """

    def __init__(self, topic: TopicConfig, registry: Registry | None) -> None:
        self._topic = topic
        is_avro = topic.format == "debezium_avro"
        self._values = AvroEvents(topic, registry) if is_avro and registry is not None else JsonEvents(topic)
        self._key = _Keys(topic, topic.changes.key_format or ("avro" if is_avro else "json"), registry)

    def read(
        self, values: Sequence[bytes | None], keys: Sequence[bytes | None], headers: Sequence[Headers], most_bytes: int
    ) -> ReadValues:
        """Read records, in their order; never raises on their content.

        Raises:
            SourceError: the schema registry cannot be read.
        """
        events = Events(len(values))
        for number, value in enumerate(values):
            try:
                is_whole = False
                if value is not None:
                    check_value(value, most_bytes)
                    is_whole = self._values.add(events, number, value, headers[number] if headers else None)
                if not is_whole:
                    self._key.add(events, number, keys[number] if keys else None)
                    events.ops[number] = "d"
            except RecordError as error:
                events.errors[number] = str(error)
        frame = columns_of(events, self._topic.fields, self._topic.changes.key, nulls=True)
        return ReadValues(frame.hstack(events.columns()), events.errors)


class _Keys:
    """Reads record keys into the key's columns."""

    def __init__(self, topic: TopicConfig, written: str, registry: Registry | None) -> None:
        self._topic = topic
        self._key = topic.changes.key
        self._is_text = written == "string"
        self._avro = AvroRows(topic, registry, self._key) if written == "avro" and registry is not None else None
        self._plans: dict[tuple[bytes, tuple[str, ...]], Plan] = {}

    def add(self, events: Events, number: int, key: bytes | None) -> None:
        """Add a row of the key's columns.

        Raises:
            RecordError: no key is declared, or the record's cannot be read.
        """
        if not self._key:
            raise RecordError(TOMBSTONE)
        if key is None:
            raise RecordError("expected a key, since there is no row; got neither")
        plan, row = self._avro.read(key) if self._avro is not None else self._read(key)
        events.add_row(number, plan, row)

    def _read(self, key: bytes) -> tuple[Plan, Any]:
        try:
            found = key.decode() if self._is_text else _ANY.decode(key)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(f"key: {reason_of(error)}") from None
        schema = None
        if isinstance(found, dict) and found.keys() == {"schema", "payload"}:
            schema, found = found["schema"], found["payload"]
        if not isinstance(found, dict):
            if len(self._key) != 1:
                raise RecordError(f"key: expected an object with {', '.join(self._key)}, got {type(found).__name__}")
            only = next(one.path for one in self._topic.fields if one.name in self._key)
            schema, found = {"fields": [{**(schema or {}), "field": only}]} if schema else None, {only: found}
        known = (msgspec.json.encode(schema), tuple(found))
        if known not in self._plans:
            schemas = schemas_of(schema) if schema is not None else None
            names = spelling(self._topic.fields, [*found])
            self._plans[known] = make_plan(self._topic.fields, self._topic.changes, schemas, names, self._key)
        return self._plans[known], found
