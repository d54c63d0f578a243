"""The source's tables change while they are captured: nothing stops, and the lake ends up with what the source has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fraud_lakehouse.ingest import postgres as ingest_postgres
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.lake import Lake
from tests.integration.replayed import Row

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]


@pytest.fixture
def ingest(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresIngest]:
    """Looks at the catalog at every step."""
    monkeypatch.setattr(ingest_postgres, "NEW_TABLES_SECONDS", 0.0)
    settings = load_settings(
        lake=str(tmp_path / "lake"), work=str(tmp_path / "work"), postgres_dsn=database, postgres_tables=(),
        postgres_slot=conninfo_to_dict(database)["dbname"],
    )  # fmt: skip
    with PostgresIngest(settings, Lake.at(settings.lake)) as opened:
        yield opened


def drain(ingest: PostgresIngest) -> None:
    while ingest.step(1000):
        pass


def lake_rows(lake: Lake, name: str) -> list[Row]:
    """What the events of a bronze table describe, with the columns that the source has; lower-case names, in order."""
    properties = lake.open("bronze", name).metadata().configuration
    columns = [column["name"] for column in json.loads(properties["fraud_lakehouse.columns"] or "")]
    key = json.loads(properties["fraud_lakehouse.key"] or "")
    rows: dict[tuple[Any, ...], Row] = {}
    for event in pl.read_delta(lake.uri("bronze", name)).sort("_lsn", "_seq").iter_rows(named=True):
        place = tuple(event[part] for part in key)
        if event["_op"] == "t":
            rows.clear()
        elif event["_op"] == "d":
            rows.pop(place, None)
        else:
            rows[place] = {column.lower(): event[column] for column in columns}
    return sorted(rows.values(), key=lambda row: row["id"])


def source_rows(source: psycopg.Connection, name: str) -> list[Row]:
    cursor = source.execute(f"select * from {name} order by id")
    names = [column.name.lower() for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


CHANGES = [
    "alter table payments add kind text default 'old'",
    "alter table payments add level int not null default 3, drop note",
    "alter table payments rename amount to total",
    "alter table payments alter total type text using 'EUR ' || total",
    "alter table payments alter total type numeric(12,3) using substr(total, 5)::numeric",
    "alter table payments drop kind, add kind text default 'again'",
    "alter table payments alter kind type text using upper(kind)",
    'alter table payments rename kind to "Kind"',
    "alter table payments alter id type bigint",
    "truncate payments",
    "alter table payments drop constraint payments_pkey, add primary key (level, id)",
    "drop table payments; create table payments (id int primary key, note text)",
]


def test_every_change_of_a_table_ends_with_what_the_source_has(
    source: psycopg.Connection, ingest: PostgresIngest
) -> None:
    source.execute("insert into payments(note, amount) select 'n' || i, i from generate_series(1, 50) i")
    drain(ingest)
    numbers = iter(range(1000, 10_000))
    for change in CHANGES:
        source.execute("insert into payments(id) values (%s)", (next(numbers),))
        source.execute("delete from payments where id in (select min(id) from payments)")
        for statement in change.split("; "):
            source.execute(statement)
        source.execute("insert into payments(id) values (%s)", (next(numbers),))
        drain(ingest)
        expected = source_rows(source, "payments")
        assert lake_rows(ingest.lake, "payments") == expected, change
        assert list(lake_rows(ingest.lake, "payments")[0]) == list(expected[0]), change


def test_changes_seen_together_after_a_while(source: psycopg.Connection, ingest: PostgresIngest) -> None:
    source.execute("create table early (id int primary key)")
    source.execute("insert into payments(note, amount) select 'n' || i, i from generate_series(1, 50) i")
    drain(ingest)
    for number, change in enumerate(CHANGES[:9]):
        source.execute("insert into payments(id) values (%s)", (1000 + number,))
        source.execute("delete from payments where id = %s", (number + 1,))
        source.execute(change)
    source.execute("insert into early values (1)")
    source.execute("drop table early")
    source.execute("create table late (id int primary key, v text)")
    source.execute("insert into late values (1, 'x')")
    drain(ingest)
    assert lake_rows(ingest.lake, "payments") == source_rows(source, "payments")
    assert lake_rows(ingest.lake, "late") == [{"id": 1, "v": "x"}]
    assert lake_rows(ingest.lake, "early") == [{"id": 1}], "a dropped table keeps what it had"


def test_detached_attached_and_truncated_partitions(source: psycopg.Connection, ingest: PostgresIngest) -> None:
    source.execute("create table parts (id int primary key, v text) partition by range (id)")
    for number in range(3):
        bounds = f"from ({100 * number}) to ({100 * number + 100})"
        source.execute(f"create table parts_{number} partition of parts for values {bounds}")
        source.execute("insert into parts select i, 'v' from generate_series(0, 209) i where i / 100 = %s", (number,))
    drain(ingest)
    for statement in (
        "truncate parts_0",
        "alter table parts detach partition parts_1",
        "update parts_1 set v = 'apart'",
        "alter table parts attach partition parts_1 for values from (100) to (200)",
        "create table parts_3 partition of parts for values from (300) to (400)",
        "insert into parts values (300, 'new')",
        "drop table parts_2",
    ):
        source.execute(statement)
        drain(ingest)
        if "apart" not in statement:
            assert lake_rows(ingest.lake, "parts") == source_rows(source, "parts"), statement


def test_a_new_table_that_cannot_be_captured_holds_up_no_other(
    source: psycopg.Connection, ingest: PostgresIngest, caplog: pytest.LogCaptureFixture
) -> None:
    drain(ingest)
    source.execute("create table keyless (id int)")
    for number in (1, 2):
        source.execute("insert into payments(id) values (%s)", (number,))
        drain(ingest)
    assert [row["id"] for row in lake_rows(ingest.lake, "payments")] == [1, 2]
    (named,) = [record.getMessage() for record in caplog.records if "not captured" in record.getMessage()]
    assert 'ALTER TABLE "public"."keyless" ADD PRIMARY KEY' in named
    source.execute("alter table keyless add primary key (id)")
    source.execute("insert into keyless values (7)")
    drain(ingest)
    assert lake_rows(ingest.lake, "keyless") == [{"id": 7}]
    source.execute("drop table payments")
    drain(ingest)
    assert [row["id"] for row in lake_rows(ingest.lake, "payments")] == [1, 2]


def test_nothing_is_compared_without_a_cause(source: psycopg.Connection, ingest: PostgresIngest) -> None:
    drain(ingest)
    for statement in (
        "truncate payments",
        "vacuum full payments",
        "analyze payments",
        "alter table payments alter note set storage external",
        "create index on payments (note)",
    ):
        source.execute(statement)
        source.execute("insert into payments(note) values ('x')")
        drain(ingest)
    assert [row.event for row in ingest._audit.rows("bank")] == ["registered", "snapshot"]
