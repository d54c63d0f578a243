"""Schemas of Avro records, by the id that each record begins with, from a Confluent-compatible registry.

Ids never change their meaning, so a schema is fetched once. A registry that does not answer stops its topics, and
nothing else: their records are read again later.
"""

from __future__ import annotations

import json
import time
from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from fraud_lakehouse.errors import SettingsError, SourceError
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.json import RecordError

ANSWER_SECONDS = 5.0
"""How long the registry may take to answer."""

_NOT_FOUND = (40401, 40402, 40403)
"""The registry's own codes for a subject, version or schema that it does not have; another 404 is of another server."""

_REPEAT_SECONDS = 10.0
"""After how long a schema that could not be read is fetched again."""

_LOGICAL = "logical"
"""What `logicalType` is renamed to: values come as they are written, and `encoding.py` says what they are."""


class WrittenSchema:
    """An Avro schema as records were written with it.

    Args:
        parsed: as fastavro reads by it.
        named: the named types in it.
    """

    def __init__(self, parsed: Any, named: dict[str, Any]) -> None:
        self.parsed = parsed
        self._named = named

    def fields(self, schema: Any = None) -> dict[str, Any]:
        """By name, the schemas of a record's fields, names resolved and null left out; empty where it is no record."""
        record = self._resolved(self.parsed if schema is None else schema)
        found = record.get("fields", ()) if isinstance(record, dict) else ()
        return {one["name"]: self._resolved(one["type"]) for one in found}

    def _resolved(self, schema: Any) -> Any:
        if isinstance(schema, list):
            schema = next((one for one in schema if one != "null"), "null")
        return self._named.get(schema, schema) if isinstance(schema, str) else schema


class Registry:
    """A schema registry; connects when first needed.

    Raises:
        SettingsError: its variable is not set, or has no URL.
    """

    def __init__(self, topic: TopicConfig) -> None:
        self._variable = topic.registry_env or "registry_env"
        if not topic.registry:
            raise SettingsError(
                f"{self._variable} is not set, so the Avro records of {topic.name} cannot be read",
                "set it to the URL of the schema registry",
            )
        try:
            self._client = SchemaRegistryClient({"url": topic.registry, "timeout": ANSWER_SECONDS, "max.retries": 0})
        except ValueError:
            raise SettingsError(f"{self._variable} is no URL", "set it to http://host:port, or https://…") from None
        self._schemas: dict[int, WrittenSchema] = {}
        self._unreadable: dict[int, tuple[float, RecordError]] = {}

    def schema(self, number: int) -> WrittenSchema:
        """The schema with an id.

        Raises:
            RecordError: the registry does not know it, or it is no Avro schema that can be read.
            SourceError: the registry cannot be reached, or does not let us read.
        """
        if number not in self._schemas:
            since, error = self._unreadable.get(number, (0.0, None))
            if error is not None and time.monotonic() - since < _REPEAT_SECONDS:
                raise error
            try:
                self._schemas[number] = self._fetch(number)
            except RecordError as problem:
                self._unreadable[number] = (time.monotonic(), problem)
                raise
        return self._schemas[number]

    def _fetch(self, number: int) -> WrittenSchema:
        named: dict[str, Any] = {}
        try:
            schema = self._client.get_schema(number)
            self._add_references(schema.references, named)
            parsed = _parse(schema.schema_str or "", named)
        except SchemaRegistryError as error:
            if error.error_code in _NOT_FOUND:
                raise RecordError(f"the schema registry has no schema {number}") from None
            raise self._unreachable(f"answers {error.http_status_code}: {error.error_message}") from None
        except (SchemaParseException, UnknownType, ValueError) as error:
            raise RecordError(f"schema {number} of the registry cannot be read: {error}") from None
        except Exception as error:  # noqa: BLE001 - those of the HTTP library, which confluent-kafka chooses
            raise self._unreachable(f"cannot be reached: {error or type(error).__name__}") from None
        return WrittenSchema(parsed, named)

    def _add_references(self, references: Any, named: dict[str, Any]) -> None:
        """Read the schemas that one refers to, and those that these refer to."""
        for reference in references or ():
            inner = self._client.get_version(reference.subject, reference.version).schema
            self._add_references(inner.references, named)
            _parse(inner.schema_str or "", named)

    def _unreachable(self, problem: str) -> SourceError:
        return SourceError(
            f"the schema registry of {self._variable} {problem}",
            f"check {self._variable} and the registry; the topic goes on when it answers",
        )


def _parse(text: str, named: dict[str, Any]) -> Any:
    return parse_schema(_renamed(json.loads(text)), named_schemas=named)


def _renamed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_renamed(one) for one in schema]
    if isinstance(schema, dict):
        return {_LOGICAL if key == "logicalType" else key: _renamed(value) for key, value in schema.items()}
    return schema
