"""How a field is written in a change event or in Avro: by its schema, or else by the connector's modes.

Names are those of Kafka Connect, Debezium and Avro:
https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.config import ChangeFormat

_CONNECT, _DEBEZIUM = "org.apache.kafka.connect.data.", "io.debezium.time."
_UNITS = {
    f"{_CONNECT}Timestamp": "ms",
    f"{_CONNECT}Time": "ms",
    f"{_CONNECT}Date": "d",
    f"{_DEBEZIUM}Timestamp": "ms",
    f"{_DEBEZIUM}MicroTimestamp": "us",
    f"{_DEBEZIUM}NanoTimestamp": "ns",
    f"{_DEBEZIUM}Time": "ms",
    f"{_DEBEZIUM}MicroTime": "us",
    f"{_DEBEZIUM}NanoTime": "ns",
    f"{_DEBEZIUM}Date": "d",
    "timestamp-millis": "ms",
    "timestamp-micros": "us",
    "timestamp-nanos": "ns",
    "local-timestamp-millis": "ms",
    "local-timestamp-micros": "us",
    "local-timestamp-nanos": "ns",
    "time-millis": "ms",
    "time-micros": "us",
    "date": "d",
}
"""By name of a schema, the unit of a number that is a time."""
_UNITS_OF_MODES = {"connect": "ms", "nanoseconds": "ns", "isostring": None}
_DECIMALS = (f"{_CONNECT}Decimal", "decimal")


@dataclass(frozen=True)
class Encoding:
    """How values of one field are written.

    Args:
        unit: of a time that is a number since 1970 or midnight: d, s, ms, us or ns; None: it cannot be one.
        scale: of a decimal that is an unscaled integer in bytes (or base64); None: it is written otherwise.
        binary: bytes, base64, base64-url-safe or hex.
    """

    unit: str | None = None
    scale: int | None = None
    binary: str = "bytes"


def by_modes(field: Field, modes: ChangeFormat) -> Encoding:
    """Of a field without a schema. An unscaled decimal then has the scale that is declared for it."""
    scale = None
    if modes.decimals == "precise" and field.type.startswith("decimal"):
        scale = int(field.type.removesuffix(")").rpartition(",")[2])
    elif modes.decimals == "precise" and field.type in ("int32", "int64"):
        scale = 0
    unit = field.unit or _UNITS_OF_MODES.get(modes.times, "us")
    return Encoding("d" if field.type == "date" else unit, scale, modes.binaries)


def by_schema(field: Field, schema: Any, modes: ChangeFormat) -> Encoding:
    """Of a field with a schema of Kafka Connect or Avro; a declared unit counts only where the schema has none.

    Args:
        schema: a mapping (of Avro as `registry.py` gives it), or a primitive type's name.
    """
    if not isinstance(schema, dict):
        schema = {"type": schema}
    names = [schema.get(key) for key in ("name", "connect.name", "logical")]
    unit = next((_UNITS[name] for name in names if name in _UNITS), field.unit)
    scale = None
    if any(name in _DECIMALS for name in names):
        parameters = schema.get("parameters") or {}
        scale = int(schema.get("scale", parameters.get("scale", 0)))
    is_text = schema.get("type") == "string"
    return Encoding(unit, scale, modes.binaries if is_text else "bytes")
