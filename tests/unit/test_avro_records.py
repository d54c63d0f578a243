"""Avro records are read with the schema that each was written with, which a registry has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fraud_lakehouse.errors import SettingsError, SourceError
from fraud_lakehouse.sources.kafka.records import RecordDecoder
from tests.change_records import CONNECT, DEBEZIUM, event, records, topic, unscaled
from tests.schema_registry import SchemaRegistry, written

MOMENT = datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as server:
        yield server


def record(name: str, /, **fields: Any) -> dict[str, Any]:
    found = [{"name": field, "type": kind} for field, kind in fields.items()]
    for one in found:
        if isinstance(one["type"], list) and one["type"][0] == "null":
            one["default"] = None
    return {"type": "record", "name": name, "fields": found}


ROW = record(
    "Row",
    ID={
        "connect.name": f"{DEBEZIUM}.data.VariableScaleDecimal",
        **record("VariableScaleDecimal", scale="int", value="bytes"),
        "namespace": f"{DEBEZIUM}.data",
    },
    AMOUNT=[
        "null",
        {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2, "connect.name": f"{CONNECT}.Decimal"},
    ],
    AT=["null", {"type": "long", "connect.name": f"{DEBEZIUM}.time.MicroTimestamp"}],
    SENT=["null", {"type": "long", "connect.name": f"{CONNECT}.Timestamp", "logicalType": "timestamp-millis"}],
    DAY=["null", {"type": "int", "connect.name": f"{DEBEZIUM}.time.Date"}],
    DATA=["null", "bytes"],
    FEE=["null", f"{DEBEZIUM}.data.VariableScaleDecimal"],
    TAGS=["null", {"type": "array", "items": ["null", "string"]}],
)
ENVELOPE = record(
    "Envelope",
    before=["null", ROW],
    after=["null", "Row"],
    source=record("Source", connector="string", scn=["null", "string"], commit_scn=["null", "string"], ts_ms="long"),
    op="string",
    ts_ms=["null", "long"],
)
FIELDS = {
    "id": "int64",
    "amount": "decimal(12,2)",
    "at": "timestamp",
    "sent": "timestamp",
    "day": "date",
    "data": "binary",
    "fee": "decimal(38,9)",
    "tags": "json",
}
VALUES = {
    "ID": {"scale": 0, "value": b"\x07"},
    "AMOUNT": Decimal("-10.25"),
    "AT": -1,
    "SENT": MOMENT,
    "DAY": -2,
    "DATA": b"\xfb",
    "FEE": {"scale": 5, "value": unscaled(Decimal("0.12345"), 5)},
    "TAGS": ["a", None],
}
EXPECTED = (
    7,
    Decimal("-10.25"),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC).replace(tzinfo=None),
    MOMENT.replace(tzinfo=None),
    date(1969, 12, 30),
    b"\xfb",
    Decimal("0.123450000"),
    '["a",null]',
)


def test_change_events(registry: SchemaRegistry) -> None:
    key = record("Key", ID=ROW["fields"][0]["type"])
    value_id, key_id = registry.add(ENVELOPE), registry.add(key)
    source = {"scn": "105", "commit_scn": "110", "ts_ms": 3}
    values = [
        written(value_id, ENVELOPE, event("u", VALUES, VALUES, **source)),
        written(value_id, ENVELOPE, event("d", None, None, **source)),
        None,
    ]
    config = topic(FIELDS, ["id"], "debezium_avro", registry.url)
    frame = RecordDecoder(config).decode(records(values, [written(key_id, key, {"ID": VALUES["ID"]})] * 3))
    assert frame["_error"].drop_nulls().to_list() == []
    assert frame.select(*FIELDS).rows() == [EXPECTED, *[(7, *[None] * 7)] * 2]
    assert frame.select("_op", "_lsn", "_seq").rows() == [("u", 110, 105), ("d", 110, 105), ("d", None, None)]
    assert frame["_before"][0].startswith('{"id":7,"amount":"-10.25","at":"1969-12-31 23:59:59.999999"')
    assert registry.requests == [f"/schemas/ids/{value_id}", f"/schemas/ids/{key_id}"], "each schema is fetched once"


def test_flattened_events(registry: SchemaRegistry) -> None:
    schema = record("Flat", id="long", name=["null", "string"], __deleted="string", __source_lsn=["null", "long"])
    values = [
        written(registry.add(schema), schema, {"id": 1, "name": "a", "__deleted": deleted, "__source_lsn": 9})
        for deleted in ("false", "true")
    ]
    config = topic({"id": "int64", "name": "string"}, ["id"], "debezium_avro", registry.url)
    frame = RecordDecoder(config).decode(records(values))
    assert frame.select("_op", "id", "name", "_lsn").rows() == [("u", 1, "a", 9), ("d", 1, "a", 9)]


def test_records_that_are_no_changes(registry: SchemaRegistry) -> None:
    schema = record(
        "Card", id="string", at={"type": "long", "logicalType": "timestamp-micros"}, geo=record("Geo", x="int")
    )
    config = topic(
        {"id": "string", "at": "timestamptz", "x": {"type": "int64", "path": "geo.x"}}, (), "avro", registry.url
    )
    value = written(registry.add(schema), schema, {"id": "a", "at": MOMENT, "geo": {"x": 5}})
    frame = RecordDecoder(config).decode(records([value, None, b"\0\0\0\0\x09", value[:-1], value + b"x", b"{}"]))
    assert "_op" not in frame.columns
    assert frame.select("id", "at", "x").rows() == [("a", MOMENT, 5), *[(None,) * 3] * 5]
    errors = frame["_error"].to_list()
    assert errors[:3] == [None, "no value (a tombstone)", "the schema registry has no schema 9"]
    assert errors[3].startswith("no value of schema 1: ")
    assert errors[4:] == [
        "no value of schema 1: 1 bytes too many",
        "expected Avro with a schema's id (a zero byte and four more), got other bytes",
    ]
    assert frame["_raw"][3] == value[:-1]


def test_a_schema_may_change(registry: SchemaRegistry) -> None:
    first = record("Card", id="string", amount="int", old=["null", "string"])
    second = record("Card", amount="long", id="string", note=["null", "string"])
    values = [
        written(registry.add(first), first, {"id": "a", "amount": 1, "old": "x"}),
        written(registry.add(second), second, {"id": "b", "amount": 2**40, "note": "n"}),
    ]
    fields = {"id": "string", "amount": "int64", "note": {"type": "string", "optional": True}}
    decoder = RecordDecoder(topic(fields, (), "avro", registry.url))
    assert decoder.decode(records([values[1], values[0], values[1]])).select(*fields).rows() == [
        ("b", 2**40, "n"),
        ("a", 1, None),
        ("b", 2**40, "n"),
    ]
    fields["note"] = "string"
    strict = RecordDecoder(topic(fields, (), "avro", registry.url)).decode(records(values))
    assert strict["_error"].to_list() == ["$.note: required field is missing", None]


def test_a_schema_that_refers_to_another(registry: SchemaRegistry) -> None:
    inner = record("Money", amount="int")
    outer = record("Card", id="string", money="Money")
    reference = {"name": "Money", "subject": str(registry.add(inner)), "version": 1}
    whole = record("Card", id="string", money=inner)
    value = written(registry.add(outer, [reference]), whole, {"id": "a", "money": {"amount": 5}})
    config = topic({"id": "string", "amount": {"type": "int64", "path": "money.amount"}}, (), "avro", registry.url)
    assert RecordDecoder(config).decode(records([value])).select("id", "amount").rows() == [("a", 5)]


def test_a_registry_that_does_not_answer_stops_the_topic_and_quarantines_nothing(registry: SchemaRegistry) -> None:
    schema = record("Card", id="string")
    values = [written(registry.add(schema), schema, {"id": "a"})]
    decoder = RecordDecoder(topic({"id": "string"}, (), "avro", registry.url))
    for status, reason in ((503, "ROWS_REGISTRY answers 503: not now"), (401, "answers 401"), (404, "answers 404")):
        registry.status = status
        with pytest.raises(SourceError, match=reason):
            decoder.decode(records(values))
    registry.status = 200
    assert decoder.decode(records(values))["id"].to_list() == ["a"]
    registry.status = 503
    assert decoder.decode(records(values))["id"].to_list() == ["a"], "a schema that is known needs no registry"
    unreachable = RecordDecoder(topic({"id": "string"}, (), "avro", "http://127.0.0.1:1"))
    with pytest.raises(SourceError, match=r"ROWS_REGISTRY cannot be reached.*\n.*goes on when it answers"):
        unreachable.decode(records(values))


def test_a_missing_or_wrong_url_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ROWS_REGISTRY is not set"):
        RecordDecoder(topic({"id": "string"}, (), "avro"))
    with pytest.raises(SettingsError, match="ROWS_REGISTRY is no URL"):
        RecordDecoder(topic({"id": "string"}, (), "avro", "registry:8081"))
