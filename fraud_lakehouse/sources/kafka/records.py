"""Kafka records as rows of a bronze table: the declared fields, and where, when and how each record came.

A value that cannot be read is an error row, never a guess (`formats/`). Nothing here knows a broker, and what a good
record means for fraud is not decided here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import CHANGE_FORMATS
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.formats.avro import AvroDecoder
from fraud_lakehouse.sources.kafka.formats.changes import ChangeDecoder
from fraud_lakehouse.sources.kafka.formats.events import EVENT_COLUMNS
from fraud_lakehouse.sources.kafka.formats.json import JsonDecoder, ReadValues
from fraud_lakehouse.sources.kafka.formats.registry import Registry
from fraud_lakehouse.sources.kafka.formats.values import column_type
from fraud_lakehouse.sources.protection import Protection

RECORD_COLUMNS: dict[str, pl.DataType] = {
    "_topic": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": pl.Datetime("us", "UTC"),
    "_raw": pl.Binary(),
    "_error": pl.String(),
    "_extra": pl.String(),
    "_key": pl.Binary(),
    "_headers": pl.String(),
    "_quarantined_at": pl.Datetime("us", "UTC"),
}
"""Columns of every topic's bronze table, besides the declared fields (`_ingested_at` is stamped when ingested)."""

NOT_KEPT = " (its bytes are not kept, since the topic has sensitive columns: read it again by its offset)"
"""What is added to the reason why a record of such a topic cannot be read."""

Header = tuple[str, bytes | str | None]
Read = Callable[["RawRecords", int], ReadValues]
"""What reads the values of records that have at most so many bytes."""
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class RawRecords:
    """Records as a broker gave them, column by column, all of one length.

    Args:
        topic: their topic.
        partitions: partition of each.
        offsets: offset of each.
        timestamps: milliseconds since 1970 UTC, None where the broker has none.
        values: the payload; None is a tombstone.
        keys: the key of each, None where it has none; empty: none has.
        headers: the headers of each in their order, None where it has none; empty: none has.
    """

    topic: str
    partitions: list[int]
    offsets: Sequence[int]
    timestamps: list[int | None]
    values: list[bytes | None]
    keys: list[bytes | None] = field(default_factory=list)
    headers: list[list[Header] | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of values and keys."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))


def schema_of(topic: TopicConfig) -> dict[str, pl.DataType]:
    """Columns of a topic's bronze table, as capture gives them."""
    events = EVENT_COLUMNS if topic.format in CHANGE_FORMATS else {}
    declared = topic.protection.schema({one.name: column_type(one.type) for one in topic.fields})
    return declared | events | RECORD_COLUMNS


def _json(topic: TopicConfig) -> Read:
    decoder = JsonDecoder(topic.fields)
    return lambda records, most_bytes: decoder.read(records.values, most_bytes)


def _avro(topic: TopicConfig) -> Read:
    decoder = AvroDecoder(topic, Registry(topic))
    return lambda records, most_bytes: decoder.read(records.values, most_bytes)


def _changes(topic: TopicConfig) -> Read:
    is_avro = topic.format == "debezium_avro" or topic.changes.key_format == "avro"
    decoder = ChangeDecoder(topic, Registry(topic) if is_avro else None)
    return lambda records, most_bytes: decoder.read(records.values, records.keys, records.headers, most_bytes)


FORMATS: dict[str, Callable[[TopicConfig], Read]] = {
    "json": _json,
    "debezium": _changes,
    "avro": _avro,
    "debezium_avro": _changes,
}
"""What makes the reader of each format."""


class RecordDecoder:
    """Reads records of one topic into frames of `schema`.

    Raises:
        SettingsError: there is no such format, or it needs a schema registry whose variable is not set.
    """

    def __init__(self, topic: TopicConfig) -> None:
        if topic.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise SettingsError(f"{topic.name}: there is no format {topic.format!r}", f"set it to one of: {known}")
        self.schema = schema_of(topic)
        self._protection = topic.protection
        self._most_bytes = topic.max_record_bytes
        self._read = FORMATS[topic.format](topic)

    def decode(self, records: RawRecords) -> pl.DataFrame:
        """One row for each record, in the order given; never raises on their content.

        A record that cannot be read has its declared fields null, its bytes in `_raw` and the reason in `_error`, for
        instance "$.amt: expected float, got str". A good record has both null. A value longer than the topic's
        `max_record_bytes` is not looked into and kept whole in `_raw`.

        Raises:
            SourceError: the schema registry cannot be read.
        """
        values, count = records.values, len(records.values)
        read = self._read(records, self._most_bytes)
        raw = {row: values[row] for row in read.errors}
        columns = [
            _same("_topic", records.topic, count),
            _partitions(records.partitions),
            pl.Series("_offset", records.offsets, pl.Int64),
            _timestamps(records.timestamps).alias("_timestamp"),
            _sparse("_raw", raw, count),
            _sparse("_error", read.errors, count),
            _sparse("_extra", read.extras, count),
            _sparse("_key", records.keys, count),
            _sparse("_headers", _header_texts(records.headers), count),
            _sparse("_quarantined_at", {}, count),
        ]
        found = read.frame.hstack(columns)
        return _protected(found, self._protection) if self._protection else found


def _protected(records: pl.DataFrame, protection: Protection) -> pl.DataFrame:
    """Records without what is sensitive: neither in columns, nor where whole records or parts of them are kept."""
    kept = protection.frame(records)
    columns: list[pl.Expr | pl.Series] = [
        pl.when(pl.col("_raw").is_not_null()).then(pl.lit(b"", pl.Binary)).alias("_raw"),
        (pl.col("_error").str.replace(r"(?s), got .*", "") + NOT_KEPT).alias("_error"),
        pl.lit(None, pl.Binary).alias("_key"),
        pl.lit(None, pl.String).alias("_extra"),
    ]
    if "_before" in kept.columns:
        columns.append(pl.lit(None, pl.String).alias("_before"))
    return kept.with_columns(columns)


def _same(name: str, value: Any, count: int) -> pl.Series:
    """A column of one value; `pl.repeat` takes longer than all that a chunk has of it."""
    return pl.Series(name, [value], RECORD_COLUMNS[name]).new_from_index(0, count)


def _partitions(numbers: Sequence[int]) -> pl.Series:
    if numbers and numbers.count(numbers[0]) == len(numbers):
        return _same("_partition", numbers[0], len(numbers))
    return pl.Series("_partition", numbers, pl.Int32)


def _sparse(name: str, values: Mapping[int, Any] | Sequence[Any], count: int) -> pl.Series:
    """A column of all values, or of those few that are there by row."""
    if isinstance(values, Mapping):
        values = [values.get(row) for row in range(count)] if values else ()
    elif values.count(None) == len(values):
        values = ()
    return pl.Series(name, values, RECORD_COLUMNS[name]) if values else _same(name, None, count)


def _header_texts(headers: Sequence[Sequence[Header] | None]) -> dict[int, str]:
    """By row, the headers as JSON: a list of [name, "text", text], [name, "base64", bytes] or [name, "null", null]."""
    return {
        row: _ENCODER.encode([_header(name, value) for name, value in found]).decode()
        for row, found in enumerate(headers if any(headers) else ())
        if found
    }


def _header(name: str, value: bytes | str | None) -> tuple[str, str, str | None]:
    if value is None or isinstance(value, str):
        return name, "null" if value is None else "text", value
    try:
        return name, "text", value.decode()
    except UnicodeDecodeError:
        return name, "base64", b64encode(value).decode()


def _timestamps(milliseconds: Sequence[int | None]) -> pl.Series:
    """Milliseconds as microsecond UTC times; beyond the years 1 to 9999, which a producer may claim, null."""
    low, high = (int(datetime(*day, tzinfo=UTC).timestamp() * 1000) for day in ((1, 1, 1), (9999, 12, 31)))
    frame = pl.DataFrame([pl.Series("moment", milliseconds, pl.Int64)])
    moment = pl.col("moment")
    return frame.select(
        (pl.when(moment.is_between(low, high)).then(moment) * 1000).cast(pl.Datetime("us", "UTC"))
    ).to_series()
