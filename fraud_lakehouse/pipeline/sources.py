"""Sources as `sources.yml` declares them: PostgreSQL databases, and Kafka clusters with their topics.

Connections are names of environment variables. Nothing here connects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Strict, ValidationInfo, field_validator, model_validator
from pydantic import Field as Key

from fraud_lakehouse.pipeline.mistakes import nearest, one_of, shown
from fraud_lakehouse.pipeline.paths import path_tree
from fraud_lakehouse.pipeline.values import NAME, Column, Entry, Seconds, Variable, with_names
from fraud_lakehouse.sql_text import qualified

FORMATS = ("json", "debezium", "avro", "debezium_avro")
"""Formats of records that can be read."""

CHANGE_FORMATS = ("debezium", "debezium_avro")
"""Those whose records are changes of a table's rows."""

REGISTRY_FORMATS = ("avro", "debezium_avro")
"""Those that need a schema registry."""

KEY_FORMATS = ("json", "avro", "string")
"""Formats of record keys that can be read."""

TYPES = ("string", "int32", "int64", "double", "boolean", "timestamp", "timestamptz", "date", "time", "binary", "json")
"""Types of fields, besides `decimal(p,s)`."""

Decimals = Literal["precise", "double", "string"]
Times = Literal["adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"]
Binaries = Literal["bytes", "base64", "base64-url-safe", "hex"]

_ALL_TYPES = ", ".join((*TYPES, "decimal(p,s)"))
SHIPPED_DSN, SHIPPED_TOPIC = "FRAUD_POSTGRES_DSN", "FRAUD_KAFKA_TOPIC"
SHIPPED_SLOT = "fraud_lakehouse"
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
TOPIC_EXPECTED = "a topic's name of letters, digits, '.', _ and -"
SHIPPED_TOPIC_DEFAULT = "transaction"
_TIMES, _INTEGERS = ("timestamp", "timestamptz"), ("int32", "int64")
_FOR_TYPES = {"unit": _TIMES, "form": ("string",), "minimum": _INTEGERS, "maximum": _INTEGERS}
"""By key of a field: the types that it is for."""
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


class Sensitive(Entry):
    """A table's sensitive columns: not captured, captured with all but the last characters hidden, or as hashes."""

    name: str = Key(description="[schema.]table")
    drop: tuple[str, ...] = Key((), description="a list of columns")
    mask: tuple[str, ...] = Key((), description="a list of columns")
    hash: tuple[str, ...] = Key((), description="a list of columns")

    @field_validator("name")
    @classmethod
    def _is_table(cls, name: str) -> str:
        return _listed(name)

    @field_validator("mask", "hash")
    @classmethod
    def _once(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return _not_twice(names, info.data)


def _not_twice(names: tuple[str, ...], others: Mapping[str, Any]) -> tuple[str, ...]:
    for what in ("drop", "mask"):
        for name in names:
            if name in others.get(what, ()):
                raise ValueError(f"found {shown(name)}, which is also in {what}, expected each column once")
    return names


def _with_hash_key(hashed: bool, variable: str | None) -> None:
    if hashed and variable is None:
        raise ValueError(
            "columns are to be hashed, expected hash_key_env of the source, the name of the environment variable that"
            " has the key"
        )


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
    hash_key_env: Variable | None = None
    sensitive: dict[str, Sensitive] = Key({}, description="a mapping of tables, each with {drop, mask, hash}")

    @field_validator("sensitive", mode="before")
    @classmethod
    def _named_tables(cls, values: Any) -> Any:
        return with_names(values, "drop")

    @field_validator("sensitive")
    @classmethod
    def _with_key(cls, tables: dict[str, Sensitive], info: ValidationInfo) -> dict[str, Sensitive]:
        if "hash_key_env" in info.data:
            _with_hash_key(any(table.hash for table in tables.values()), info.data["hash_key_env"])
        return tables

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
    """A column of a topic's table, its type, and where a record has its value: keys from the outside in, by dots.

    A number among the keys is a position in an array. A record without the value cannot be read, unless the field is
    `optional`; then it is null. Times may be numbers of a `unit` since 1970, texts may have a `form`, integers a range.
    """

    name: Column = Key(description="a column's name of letters, digits and _, a letter first (at most 128)")
    type: Annotated[str, BeforeValidator(field_type)] = Key(description=f"one of {_ALL_TYPES}")
    path: str = Key("", pattern=r"^[^.]+(\.[^.]+)*$", description="keys separated by dots, such as sender.id")
    optional: Annotated[bool, Strict()] = Key(False, description="true or false")
    unit: Literal["s", "ms", "us", "ns"] | None = Key(None, description="s, ms, us or ns")
    form: Literal["YYYY-MM-DD HH:MM:SS"] | None = Key(None, description='the text "YYYY-MM-DD HH:MM:SS"')
    minimum: Annotated[int, Strict()] | None = Key(None, ge=-(2**63), lt=2**63, description="an integer of 64 bits")
    maximum: Annotated[int, Strict()] | None = Key(None, ge=-(2**63), lt=2**63, description="an integer of 64 bits")

    @model_validator(mode="before")
    @classmethod
    def _own_path(cls, values: Any) -> Any:
        return {**values, "path": values.get("path") or values.get("name")} if isinstance(values, dict) else values

    @field_validator("unit", "form", "minimum", "maximum")
    @classmethod
    def _fits_the_type(cls, value: Any, info: ValidationInfo) -> Any:
        kind, fitting = info.data.get("type"), _FOR_TYPES[str(info.field_name)]
        if value is not None and kind is not None and kind not in fitting:
            raise ValueError(
                f"found {shown(value)} for a field of type {kind}, expected it only for {' and '.join(fitting)}"
            )
        return value


class Topic(Entry):
    """A Kafka topic and the bronze table of its records.

    `topic_env` names a variable that, where it is set, has another name of the topic. Of a change format: `key` has
    the columns of the table's primary key, `key_format` says how record keys are written (as the values by default),
    and `decimals`, `times` and `binaries` are the connector's `decimal.handling.mode`, `time.precision.mode` and
    `binary.handling.mode`, for records without a schema. An `optional` topic need not exist.
    """

    topic: str = Key(pattern=f"^{TOPIC_NAME.pattern}$", description=TOPIC_EXPECTED)
    topic_env: Variable | None = None
    optional: Annotated[bool, Strict()] = Key(False, description="true or false")
    table: str = Key(pattern=NAME, max_length=63, description="a table's name of a-z, 0-9 and _, a letter first")
    format: str = Key("json", description=", ".join(FORMATS))
    fields: dict[str, Field] = Key(min_length=1, description=f"a {_DECLARED}")
    key: tuple[str, ...] = Key((), description="a list of the fields that identify a row")
    key_format: str = Key("", description=", ".join(KEY_FORMATS))
    decimals: Decimals = Key("precise", description=f"one of {', '.join(get_args(Decimals))}")
    times: Times = Key("adaptive", description=f"one of {', '.join(get_args(Times))}")
    binaries: Binaries = Key("bytes", description=f"one of {', '.join(get_args(Binaries))}")
    drop: tuple[str, ...] = Key((), description="a list of names that are no declared fields")
    mask: tuple[str, ...] = Key((), description="a list of declared fields")
    hash: tuple[str, ...] = Key((), description="a list of declared fields")

    @property
    def stored_types(self) -> dict[str, str]:
        """By field, the type of its column: a hash is a text."""
        return {name: "string" if name in self.hash else field.type for name, field in self.fields.items()}

    @field_validator("drop")
    @classmethod
    def _not_declared(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in names:
            if name in info.data.get("fields", ()):
                raise ValueError(f"found {shown(name)}, a declared field; expected it in only one of drop and fields")
        return names

    @field_validator("mask", "hash")
    @classmethod
    def _declared_once(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "fields" in info.data:
            for name in names:
                one_of(name, list(info.data["fields"]), "a declared field")
        return _not_twice(names, info.data)

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

    @field_validator("key_format", mode="before")
    @classmethod
    def _known_key_format(cls, value: Any) -> str:
        return one_of(value, KEY_FORMATS, "one of the formats of keys that can be read")

    @field_validator("decimals", "times", "binaries", mode="before")
    @classmethod
    def _known_mode(cls, value: Any, info: ValidationInfo) -> str:
        modes = {"decimals": Decimals, "times": Times, "binaries": Binaries}[str(info.field_name)]
        return one_of(value, get_args(modes), "one of the connector's modes")

    @field_validator("key", "key_format", "decimals", "times", "binaries")
    @classmethod
    def _for_changes(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("format")
        if kind is not None and kind not in CHANGE_FORMATS:
            raise ValueError(f"found it with format: {kind}, expected it only with {' or '.join(CHANGE_FORMATS)}")
        return value

    @field_validator("key")
    @classmethod
    def _declared_key(cls, key: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "fields" in info.data:
            for name in key:
                one_of(name, list(info.data["fields"]), "a declared field")
        return key

    @field_validator("fields", mode="before")
    @classmethod
    def _named_fields(cls, values: Any) -> Any:
        return with_names(values, "type")

    @field_validator("fields")
    @classmethod
    def _separate_paths(cls, fields: dict[str, Field]) -> dict[str, Field]:
        path_tree(fields.values())
        return fields


class KafkaSource(Entry):
    """A Kafka cluster and the topics that are read from it."""

    name: str = Key(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    type: Literal["kafka"] = "kafka"
    servers_env: Variable
    config_file_env: Variable | None = None
    registry_env: Variable | None = None
    hash_key_env: Variable | None = None
    topics: tuple[Topic, ...] = Key(min_length=1, description="a list of topics, at least one")
    update_delay: Seconds | None = None

    @field_validator("topics")
    @classmethod
    def _with_registry(cls, topics: tuple[Topic, ...], info: ValidationInfo) -> tuple[Topic, ...]:
        for topic in topics:
            needs = topic.format in REGISTRY_FORMATS or topic.key_format == "avro"
            if needs and "registry_env" in info.data and info.data["registry_env"] is None:
                raise ValueError(
                    f"the topic {shown(topic.topic)} is Avro, expected registry_env, the name of the environment"
                    " variable that has the URL of the schema registry"
                )
        if "hash_key_env" in info.data:
            _with_hash_key(any(topic.hash for topic in topics), info.data["hash_key_env"])
        return topics

    def is_present(self, environment: Mapping[str, str]) -> bool:
        """Whether its connection is set."""
        return bool(environment.get(self.servers_env))


Source = PostgresSource | KafkaSource
SOURCE_TYPES: dict[str, type[PostgresSource] | type[KafkaSource]] = {"postgres": PostgresSource, "kafka": KafkaSource}
