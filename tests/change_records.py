"""Change events as a connector writes them, made by a small encoder of the tests' own."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.config import ChangeFormat, TopicConfig
from fraud_lakehouse.sources.kafka.records import Header, RawRecords

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONNECT, DEBEZIUM = "org.apache.kafka.connect.data", "io.debezium"


def topic(
    fields: dict[str, Any], key: Sequence[str] = (), format: str = "debezium", registry: str | None = None, **modes: str
) -> TopicConfig:
    declared = {name: kind if isinstance(kind, dict) else {"type": kind} for name, kind in fields.items()}
    return TopicConfig(
        name="rows",
        servers=None,
        config_file=None,
        topic="rows",
        table="rows",
        format=format,
        fields=tuple(Field(name=name, **kind) for name, kind in declared.items()),
        max_record_bytes=100_000,
        servers_env="ROWS_SERVERS",
        changes=ChangeFormat(tuple(key), **modes),
        registry=registry,
        registry_env="ROWS_REGISTRY",
    )


def records(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] = (),
    headers: Sequence[list[Header] | None] = (),
) -> RawRecords:
    count = len(values)
    return RawRecords("rows", [0] * count, range(count), [0] * count, list(values), list(keys), list(headers))


def event(op: str, before: Any = None, after: Any = None, **source: Any) -> dict[str, Any]:
    given = source or {"lsn": 100}
    return {"before": before, "after": after, "source": {"connector": "x", **given}, "op": op, "ts_ms": 5}


def plain(found: Any) -> bytes:
    return json.dumps(found).encode()


def with_schema(found: dict[str, Any], fields: Sequence[dict[str, Any]]) -> bytes:
    row = [{"type": "struct", "fields": [*fields], "field": name} for name in ("before", "after")]
    return plain({"schema": {"type": "struct", "fields": row}, "payload": found})


def unscaled(number: Decimal, scale: int) -> bytes:
    """Two's complement, big-endian, in as few bytes as there can be."""
    sign, digits, exponent = number.as_tuple()
    whole = (-1) ** sign * int("".join(map(str, digits))) * 10 ** (scale + int(exponent))
    size = 1
    while not -(1 << (8 * size - 1)) <= whole < 1 << (8 * size - 1):
        size += 1
    return bytes((whole >> (8 * place)) & 255 for place in reversed(range(size)))


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def variable(number: Decimal) -> dict[str, Any]:
    scale = max(-int(number.as_tuple().exponent), 0)
    return {"scale": scale, "value": text64(unscaled(number, scale))}


def since(moment: datetime, unit: str) -> int:
    """A time without a zone as a number since 1970."""
    microseconds = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    return {"ms": microseconds // 1_000, "us": microseconds, "ns": microseconds * 1_000}[unit]


def days(day: date) -> int:
    return (day - date(1970, 1, 1)).days
