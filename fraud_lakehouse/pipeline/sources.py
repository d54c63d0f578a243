"""Sources as `sources.yml` declares them: PostgreSQL databases, and Kafka clusters with their topics.

Connections are names of environment variables. Nothing here connects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator
from pydantic import Field as Key

from fraud_lakehouse.pipeline.mistakes import nearest, one_of, shown
from fraud_lakehouse.pipeline.values import NAME, Column, Entry, Seconds, Variable, with_names
from fraud_lakehouse.sql_text import qualified

FORMATS = ("json",)
"""Formats of records that can be read."""

TYPES = ("string", "int32", "int64", "double", "boolean", "timestamp", "timestamptz", "date", "binary")
"""Types of fields, besides `decimal(p,s)`."""

_ALL_TYPES = ", ".join((*TYPES, "decimal(p,s)"))
SHIPPED_DSN, SHIPPED_TOPIC = "FRAUD_POSTGRES_DSN", "FRAUD_KAFKA_TOPIC"
SHIPPED_SLOT = "fraud_lakehouse"
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
TOPIC_EXPECTED = "a topic's name of letters, digits, '.', _ and -"
SHIPPED_TOPIC_DEFAULT = "transaction"
_DECIMAL = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_DECLARED = "mapping of columns, each with its type or with {type, path}"


def field_type(value: Any) -> str:
    """A field's type in one spelling.

    Raises:
        ValueError: there is no such type.
    """
    if isinstance(value, str) and (found := _DECIMAL.fullmatch(value)):
        precision, scale = int(found[1]), int(found[2])
        if 1 <= precision <= 38 and scale <= precision:
            return f"decimal({precision},{scale})"
        raise ValueError(f"found {shown(value)}, expected decimal(p,s) with p from 1 to 38 and s from 0 to p")
    if isinstance(value, str) and value in TYPES:
        return value
    if isinstance(value, str) and value.startswith("decimal"):
        raise ValueError(f'found {shown(value)}, expected "decimal(p,s)"; between {{ and }} it needs the quotes')
    raise ValueError(f"found {shown(value)}, expected one of {_ALL_TYPES}{nearest(value, TYPES)}")


def _listed(table: str) -> str:
    try:
        qualified(table)
    except ValueError:
        raise ValueError(
            f"found {shown(table)}, expected [schema.]table, a name with a dot or comma in quotes"
        ) from None
    return table


class PostgresSource(Entry):
    """A PostgreSQL database.

    `slot` and `publication` are `fraud_lakehouse` for the shipped connection, else `fraud_lakehouse_<name>`. Without
    `tables` all tables of the schema public are captured. Bronze tables have `prefix` before their name.
    """

    name: str = Key(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    type: Literal["postgres"] = "postgres"
    dsn_env: Variable
    tables_env: Variable | None = None
    tables: tuple[Annotated[str, AfterValidator(_listed)], ...] = Key((), description="a list of [schema.]table")
    slot: str = Key("", pattern=r"^[a-z0-9_]{1,63}$", description="a slot name of a-z, 0-9 and _ (at most 63)")
    publication: str = Key("", min_length=1, max_length=63, description="a publication's name (at most 63 characters)")
    prefix: str = Key("", pattern=r"^([a-z][a-z0-9_]*)?$", max_length=40, description="a-z, 0-9 and _, a letter first")
    update_delay: Seconds | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_slot(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not re.fullmatch(NAME, str(values.get("name"))):
            return values
        own = SHIPPED_SLOT if values.get("dsn_env") == SHIPPED_DSN else f"{SHIPPED_SLOT}_{values['name']}"[:63]
        defaults = {key: own for key in ("slot", "publication") if values.get(key) is None}
        return {**values, **defaults}

    def is_present(self, environment: Mapping[str, str]) -> bool:
        """Whether its connection is set."""
        return bool(environment.get(self.dsn_env))


class Field(Entry):
    """A column of a topic's table, its type, and where a record has its value: keys from the outside in, by dots."""

    name: Column = Key(description="a column's name of letters, digits and _, a letter first (at most 128)")
    type: Annotated[str, BeforeValidator(field_type)] = Key(description=f"one of {_ALL_TYPES}")
    path: str = Key("", pattern=r"^[^.]+(\.[^.]+)*$", description="keys separated by dots, such as sender.id")

    @model_validator(mode="before")
    @classmethod
    def _own_path(cls, values: Any) -> Any:
        return {**values, "path": values.get("path") or values.get("name")} if isinstance(values, dict) else values


class Topic(Entry):
    """A Kafka topic and the bronze table of its records.

    `topic_env` names a variable that, where it is set, has another name of the topic.
    """

    topic: str = Key(pattern=f"^{TOPIC_NAME.pattern}$", description=TOPIC_EXPECTED)
    topic_env: Variable | None = None
    table: str = Key(pattern=NAME, max_length=63, description="a table's name of a-z, 0-9 and _, a letter first")
    format: str = Key("json", description="json")
    fields: dict[str, Field] = Key(min_length=1, description=f"a {_DECLARED}")

    @model_validator(mode="before")
    @classmethod
    def _own_topic(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("topic_env") != SHIPPED_TOPIC:
            return values
        return {"topic": SHIPPED_TOPIC_DEFAULT, **values}

    @field_validator("format", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> str:
        return one_of(value, FORMATS, "one of the formats that can be read")

    @field_validator("fields", mode="before")
    @classmethod
    def _named_fields(cls, values: Any) -> Any:
        return with_names(values, "type")


class KafkaSource(Entry):
    """A Kafka cluster and the topics that are read from it."""

    name: str = Key(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    type: Literal["kafka"] = "kafka"
    servers_env: Variable
    config_file_env: Variable | None = None
    topics: tuple[Topic, ...] = Key(min_length=1, description="a list of topics, at least one")
    update_delay: Seconds | None = None

    def is_present(self, environment: Mapping[str, str]) -> bool:
        """Whether its connection is set."""
        return bool(environment.get(self.servers_env))


Source = PostgresSource | KafkaSource
SOURCE_TYPES: dict[str, type[PostgresSource] | type[KafkaSource]] = {"postgres": PostgresSource, "kafka": KafkaSource}
