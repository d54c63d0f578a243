"""The bronze table of a topic follows its declaration: new columns, wider types, and nothing lost."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.topic_table import FieldTypeError, evolve, open_topic_table
from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.records import RawRecords, RecordDecoder
from fraud_lakehouse.storage.lake import Lake
from tests.fixtures_kafka import CARDS


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path)


def topic(**types: str) -> TopicConfig:
    fields = tuple(Field(name=name, type=kind) for name, kind in types.items())
    return replace(CARDS, name="wires", topic="wires", table="wires", fields=fields)


def ingest(lake: Lake, config: TopicConfig, first: int, *rows: dict[str, Any]) -> BronzeTable:
    """Ingest records as capture does, from this offset on."""
    table = open_topic_table(lake, config)
    evolve(lake, table, config)
    values: list[bytes | None] = [json.dumps(row).encode() for row in rows]
    offsets = range(first, first + len(values))
    records = RawRecords("wires", [0] * len(values), offsets, [0] * len(values), values)
    table.append(RecordDecoder(config).decode(records), {"kafka:C:T:0": first + len(values)})
    return table


def bronze(lake: Lake) -> pl.DataFrame:
    return pl.read_delta(lake.uri("bronze", "wires")).sort("_offset")


def test_a_new_field_is_a_new_column_and_a_removed_one_stays(lake: Lake) -> None:
    ingest(lake, topic(id="string", note="string"), 0, {"id": "a", "note": "x"})
    config = topic(id="string", amount="decimal(9,2)")
    table = ingest(lake, config, 1, {"id": "b", "note": "y", "amount": "1.5"})
    assert bronze(lake).select("id", "note", "amount", "_extra", "_error").rows() == [
        ("a", "x", None, None, None),
        ("b", None, Decimal("1.50"), '{"note":"y"}', None),
    ]
    assert table.position("kafka:C:T:0") == 2
    assert not evolve(lake, table, config), "nothing is left to change"


@pytest.mark.parametrize(
    "before, after, value",
    [
        ("int32", "int64", 7),
        ("int32", "double", 7),
        ("int32", "decimal(10,0)", 7),
        ("int64", "decimal(21,2)", 2**63 - 1),
        ("decimal(9,2)", "decimal(12,4)", "1.25"),
    ],
)
def test_a_type_is_widened(lake: Lake, before: str, after: str, value: Any) -> None:
    ingest(lake, topic(id="string", amount=before), 0, {"id": "a", "amount": value})
    table = ingest(lake, topic(id="string", amount=after), 1, {"id": "b", "amount": value})
    assert bronze(lake)["amount"].to_list() == [Decimal(value) if "decimal" in after else value] * 2
    assert bronze(lake).select("_offset", "_error", "id").rows() == [(0, None, "a"), (1, None, "b")]
    assert table.position("kafka:C:T:0") == 2


@pytest.mark.parametrize(
    "before, after, value",
    [
        ("int64", "int32", 7),
        ("int64", "double", 7),
        ("int64", "decimal(18,0)", 7),
        ("decimal(9,2)", "decimal(9,3)", "1.25"),
        ("string", "int64", "7"),
        ("int64", "string", 7),
        ("timestamp", "timestamptz", "2024-01-01T00:00:00"),
    ],
)
def test_a_type_that_cannot_hold_what_is_there_is_named(lake: Lake, before: str, after: str, value: Any) -> None:
    ingest(lake, topic(id="string", amount=before), 0, {"id": "a", "amount": value})
    rows = bronze(lake)
    with pytest.raises(FieldTypeError) as failed:
        ingest(lake, topic(id="string", amount=after, more="string"), 1, {"id": "b", "amount": value})
    problem = f"the field amount of topic 'wires' is declared as {after}, but bronze/wires has values of type {before}"
    assert failed.value.problem.startswith(f"wires: {problem}")
    assert bronze(lake).equals(rows), "nothing changed"


def test_a_column_without_values_takes_any_type(lake: Lake) -> None:
    ingest(lake, topic(id="string", at="timestamp"), 0, {"id": "a", "at": "2024-01-01T00:00:00Z"})
    assert bronze(lake)["_error"].null_count() == 0, "declared wrongly at first: its records wait in quarantine"
    ingest(lake, topic(id="string", at="timestamptz"), 1, {"id": "b", "at": "2024-01-01T00:00:00Z"})
    assert bronze(lake)["at"].dtype == pl.Datetime("us", "UTC")
    assert bronze(lake).select(pl.col("at").is_null(), pl.col("_error").is_null()).rows() == [
        (True, False),
        (False, True),
    ]
