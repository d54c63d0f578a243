from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from fraud_lakehouse.checks.contracts import check_bronze, check_columns, check_positions, check_quarantine
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.sources.kafka.records import schema_of
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import AUDIT
from tests.fixtures_kafka import CARD_SCHEMA, CARDS

CHANGES = {
    "user_id": pl.Int32(),
    "name": pl.String(),
    "email": pl.String(),
    "registration_date": pl.Datetime("us"),
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path)


def land_changes(lake: Lake, *positions: tuple[int, int]) -> None:
    rows = [{"_op": "c", "_lsn": lsn, "_seq": seq} for lsn, seq in positions]
    frame = pl.DataFrame(rows, schema_overrides={"_lsn": pl.Int64, "_seq": pl.Int64})
    BronzeTable.open_or_create(lake, "users", CHANGES, ["user_id"]).append(frame, {})


def land_records(lake: Lake, *offsets: tuple[int, int], error: str | None = None) -> None:
    rows = [
        {"_topic": "transaction", "_partition": part, "_offset": offset, "_error": error} for part, offset in offsets
    ]
    frame = pl.DataFrame(rows, schema={name: CARD_SCHEMA[name] for name in rows[0]})
    BronzeTable.open_or_create(lake, "card_transactions", CARD_SCHEMA, []).append(frame, {})


def test_tables_as_the_capture_writes_them_keep_every_contract(lake: Lake) -> None:
    land_changes(lake, (100, 0), (100, 1), (200, 0))
    land_changes(lake, (300, 0))
    land_records(lake, (0, 0), (0, 1), (1, 0))
    land_records(lake, (0, 2), (1, 1))
    results = [*check_bronze(lake, "users"), *check_bronze(lake, "card_transactions", CARDS)]
    assert [(one.contract, one.problems) for one in results] == [
        ("columns", ()),
        ("positions", ()),
        ("columns", ()),
        ("positions", ()),
        ("quarantine", ()),
    ]
    assert [one.numbers["rows"] for one in results if one.contract == "positions"] == [4, 5]


def test_a_missing_column_and_a_wrong_type_are_named(lake: Lake) -> None:
    frame = pl.DataFrame({"user_id": ["1"], "_op": ["c"], "_lsn": [1], "_seq": [1]})
    write_deltalake(lake.uri("bronze", "users"), frame)
    (result,) = check_bronze(lake, "users")
    assert "column user_id is string, expected long or integer or short or byte" in result.problems
    assert "column _committed_at is missing" in result.problems
    assert "column name is missing" in result.problems


def test_another_bronze_table_needs_the_change_columns(lake: Lake) -> None:
    write_deltalake(lake.uri("bronze", "accounts"), pl.DataFrame({"id": [1]}))
    assert len(check_columns(lake, "bronze", "accounts").problems) == 5


def test_rows_with_values_that_no_column_holds_are_counted(lake: Lake) -> None:
    schema = {**CHANGES, "_text": pl.String()}
    table = BronzeTable.open_or_create(lake, "users", schema, ["user_id"])
    assert check_columns(lake, "bronze", "users").numbers["rows_with_text"] == 0
    for texts in ([None, '{"registration_date": "infinity"}'], [None], ['{"registration_date": "0044-03-15 BC"}']):
        rows = {"_op": "c", "_lsn": range(len(texts)), "_seq": 1, "_text": texts}
        table.append(pl.DataFrame(rows, schema={name: schema[name] for name in rows}), {})
    assert check_columns(lake, "bronze", "users").numbers["rows_with_text"] == 2
    land_records(lake, (0, 0))
    assert "rows_with_text" not in check_columns(lake, "bronze", "card_transactions", CARDS).numbers


def test_silver_amounts_may_be_decimal_and_not_text(lake: Lake) -> None:
    frame = pl.DataFrame({"transaction_id": [1], "user_id": [1], "transaction_date": [None]})
    frame = frame.cast({"transaction_date": pl.Datetime("us")})
    amount = pl.Series("amount", ["1.50"])
    write_deltalake(lake.uri("silver", "transactions"), frame.with_columns(amount.cast(pl.Decimal(10, 2))))
    assert check_columns(lake, "silver", "transactions").passed
    write_deltalake(
        lake.uri("silver", "transactions"), frame.with_columns(amount), mode="overwrite", schema_mode="overwrite"
    )
    assert not check_columns(lake, "silver", "transactions").passed


def test_a_table_that_is_not_there_yet_passes(lake: Lake) -> None:
    assert all(one.passed for one in check_bronze(lake, "users") + check_bronze(lake, "card_transactions", CARDS))


@pytest.mark.parametrize(
    "first, second, problem",
    [
        ([(100, 0), (100, 0)], [(200, 0)], "1 rows repeat a position"),
        ([(100, 0), (200, 0)], [(200, 0)], "1 batches overlap an earlier one"),
        ([(100, 0), (300, 0)], [(200, 0)], "1 batches overlap an earlier one"),
        ([(100, 0), (200, 5)], [(200, 4)], "1 batches overlap an earlier one"),
    ],
)
def test_doubled_and_rewound_changes_are_seen(
    lake: Lake, first: list[tuple[int, int]], second: list[tuple[int, int]], problem: str
) -> None:
    land_changes(lake, *first)
    land_changes(lake, *second)
    (found,) = check_positions(lake, "users").problems
    assert problem in found


def test_a_snapshot_in_chunks_shares_its_lsn(lake: Lake) -> None:
    land_changes(lake, (100, 0), (100, 1))
    land_changes(lake, (100, 2), (100, 3))
    assert check_positions(lake, "users").passed


def test_doubled_records_are_seen_by_partition_and_after_compaction(lake: Lake) -> None:
    land_records(lake, (0, 5), (1, 5))
    land_records(lake, (0, 6), (1, 5))
    assert not check_positions(lake, "card_transactions", CARDS).passed
    DeltaTable(lake.uri("bronze", "card_transactions")).optimize.compact()
    result = check_positions(lake, "card_transactions", CARDS)
    assert not result.passed
    assert result.numbers["overlapping_batches"] == 1


def test_an_accepted_source_starts_with_new_positions(lake: Lake) -> None:
    land_records(lake, (0, 5), (0, 6))
    at = datetime.now(UTC)
    row = {"at": at, "source": "kafka", "event": "accepted", "detail": "{}"}
    write_deltalake(lake.uri("control", "audit"), pl.DataFrame([row], schema=AUDIT))
    land_records(lake, (0, 0), (0, 5), (0, 6))
    assert check_positions(lake, "card_transactions", CARDS).passed
    row["at"] = at - timedelta(days=1)
    write_deltalake(lake.uri("control", "audit"), pl.DataFrame([row], schema=AUDIT), mode="overwrite")
    assert not check_positions(lake, "card_transactions", CARDS).passed


def test_only_the_newest_files_are_read(lake: Lake) -> None:
    land_changes(lake, (100, 0), (100, 0))
    land_changes(lake, (200, 0))
    assert check_positions(lake, "users", recent_rows=1).passed
    assert not check_positions(lake, "users", recent_rows=2).passed


@pytest.mark.parametrize("bad, passed", [(0, True), (5, True), (6, False), (100, False)])
def test_quarantined_share(lake: Lake, bad: int, passed: bool) -> None:
    if bad < 100:
        land_records(lake, *[(0, offset) for offset in range(100 - bad)])
    if bad:
        land_records(lake, *[(0, offset) for offset in range(100 - bad, 100)], error="no JSON object")
    result = check_quarantine(lake, CARDS)
    assert result.passed is passed
    assert result.numbers["quarantined"] == bad
    assert result.numbers["reasons"] == ({"no JSON object": bad} if bad else {})


def test_a_topics_table_has_its_declared_fields(lake: Lake) -> None:
    fields = (Field(name="id", type="string"), Field(name="amount", type="decimal(9,2)"))
    topic = replace(CARDS, name="wires", topic="wires", table="wires", fields=fields)
    assert [one.passed for one in check_bronze(lake, "wires", topic)] == [True] * 3
    table = BronzeTable.open_or_create(lake, "wires", schema_of(topic), [])
    rows = [{"_topic": "wires", "_partition": 0, "_offset": offset, "_error": "bad"} for offset in range(100)]
    table.append(pl.DataFrame(rows, schema_overrides={"_partition": pl.Int32}), {})
    columns, positions, quarantine = check_bronze(lake, "wires", topic)
    assert (columns.passed, positions.passed, quarantine.passed) == (True, True, False)
    assert quarantine.problems == ("100 of the newest 100 records of topic wires cannot be read (100.0%, limit 5.0%)",)
    wider = replace(
        topic, fields=(*fields[:1], Field(name="amount", type="decimal(12,2)"), Field(name="to", type="date"))
    )
    (result,) = check_bronze(lake, "wires", wider)
    assert result.problems == ("column to is missing", "column amount is decimal(9,2), expected decimal(12,2)")


def test_an_acceptance_of_another_topic_of_the_source_does_not_count(lake: Lake) -> None:
    land_records(lake, (0, 5), (0, 6))
    detail = '{"scope": "another topic", "commit": 9}'
    row = {"at": datetime.now(UTC), "source": "kafka", "event": "accepted", "detail": detail}
    write_deltalake(lake.uri("control", "audit"), pl.DataFrame([row], schema=AUDIT))
    land_records(lake, (0, 5))
    assert not check_positions(lake, "card_transactions", CARDS).passed


def test_few_records_are_not_judged(lake: Lake) -> None:
    land_records(lake, (0, 0), error="no JSON object")
    assert check_quarantine(lake, CARDS).passed
