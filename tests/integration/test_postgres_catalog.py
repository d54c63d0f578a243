"""What the catalog says of the source's tables: silent changes of rows, generated columns, names."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import polars as pl
import psycopg
import pytest

from fraud_lakehouse.sources.postgres import publication_epoch as postgres_membership
from fraud_lakehouse.sources.postgres.capture import PostgresCapture
from fraud_lakehouse.sources.postgres.catalog import STORED_IN_LOG, TableInfo
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.sources.postgres.fingerprint import Shape
from tests.integration.replayed import Replayed, read_whole

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_versions]
Open = Callable[..., PostgresCapture]


LONE = "create table parts_x (id int not null, region text not null)"
ATTACH = "alter table parts attach partition parts_x for values in ('x')"
HOSTILE = [
    'x"; drop table y; --',
    "Mixed Case",
    "perc%ent %s",
    "naïve 🙂",
    "a.b/../c",
    "{{ boom }}",
    "^.*$",
    "*",
    "l" * 63,
]


def poll(capture: PostgresCapture, name: str) -> TableInfo:
    return next(table for table in capture.tables() if table.name == name)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("insert into payments values (9, 'x', 1); delete from payments; analyze payments", None),
        ("truncate payments", None),
        ("vacuum full payments", None),
        ("alter table payments alter amount set statistics 7", None),
        ("alter table payments alter note set default 'x'", None),
        ("create index on payments (note)", None),
        ("alter table payments add kind text", "column kind was added"),
        ("alter table payments drop note", "column note was dropped"),
        ("alter table payments drop note, add note text default 'x'", "column note was added"),
        ("alter table payments rename note to words", "column note was renamed to words"),
        ("alter table payments alter amount type numeric(20,4)", "the type of column amount changed"),
        ("alter table payments alter note type text using lower(note)", "a column's values were rewritten"),
        ("alter table payments drop constraint payments_pkey, add primary key (note)", "its key is now note"),
        ("drop table payments; create table payments (id int primary key, note text, amount int)", "recreated"),
    ],
)
def test_changes_of_rows_that_the_log_is_silent_about(
    source: psycopg.Connection, capture_of: Open, statement: str, reason: str | None
) -> None:
    source.execute("insert into payments values (1, 'A', 1)")
    capture = capture_of()
    before = poll(capture, "payments")
    for part in statement.split("; "):
        source.execute(part)
    found = Shape.read(poll(capture, "payments").shape).silent_change(Shape.read(before.shape))
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("insert into parts values (7, 'eu')", None),
        ("create table parts_us partition of parts for values in ('us')", None),
        (f"{LONE}; {ATTACH}", None),
        (f"{LONE}; insert into parts_x values (1, 'x'); {ATTACH}", "attached"),
        ("alter table parts detach partition parts_eu", "detached or dropped"),
        ("drop table parts_eu", "detached or dropped"),
        ("truncate parts_eu", "truncated or rewritten"),
    ],
)
def test_changes_of_partitions_that_the_log_is_silent_about(
    source: psycopg.Connection, capture_of: Open, statement: str, reason: str | None
) -> None:
    source.execute("create table parts (id int, region text, primary key (region, id)) partition by list (region)")
    source.execute("create table parts_eu partition of parts for values in ('eu')")
    source.execute("insert into parts values (1, 'eu')")
    model, capture = Replayed(), capture_of(postgres_tables=("parts",))
    model.snapshot(capture)
    before = poll(capture, "parts")
    for part in statement.split("; "):
        source.execute(part)
    found = Shape.read(poll(capture, "parts").shape).silent_change(Shape.read(before.shape))
    assert found is None if reason is None else reason in (found or "")
    model.follow(capture)
    rows = source.execute("select region, id from parts").fetchall()
    assert (set(model.rows["parts"]) == set(rows)) == (reason is None), "the log is not silent about it"


def test_an_empty_partition_that_fills_up_is_no_silent_change(source: psycopg.Connection, capture_of: Open) -> None:
    source.execute("create table parts (id int primary key) partition by range (id)")
    capture = capture_of(postgres_tables=("parts",))
    shapes = [Shape.read(poll(capture, "parts").shape)]
    empty = "create table parts_1 partition of parts for values from (0) to (9)"
    for statement in (empty, "insert into parts values (1)"):
        source.execute(statement)
        shapes.append(Shape.read(poll(capture, "parts").shape))
    assert [now.silent_change(before) for before, now in pairwise(shapes)] == [None, None]


def test_truncating_the_root_of_partitions_is_in_the_log(source: psycopg.Connection, capture_of: Open) -> None:
    source.execute("create table parts (id int primary key) partition by range (id)")
    source.execute("create table parts_1 partition of parts for values from (0) to (9)")
    source.execute("insert into parts values (1)")
    model, capture = Replayed(), capture_of(postgres_tables=("parts",))
    model.snapshot(capture)
    source.execute("truncate parts")
    source.execute("insert into parts values (2)")
    model.follow(capture)
    assert set(model.rows["parts"]) == {(2,)}


def test_rows_of_inheriting_tables_are_their_own(source: psycopg.Connection, capture_of: Open) -> None:
    source.execute("create table refunds (reason text, primary key (id)) inherits (payments)")
    source.execute("insert into refunds (id, note, reason) values (7, 'back', 'broken')")
    source.execute("insert into payments (id, note) values (1, 'paid')")
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    source.execute("insert into refunds (id, note) values (8, 'again')")
    source.execute("update payments set note = 'both'")  # of both tables
    model.follow(capture)
    assert {key: row["note"] for key, row in model.rows["payments"].items()} == {(1,): "both"}
    assert {key: row["note"] for key, row in model.rows["refunds"].items()} == {(7,): "both", (8,): "both"}


def test_stored_generated_columns_are_captured_where_the_log_carries_them(
    database: str, source: psycopg.Connection, capture_of: Open
) -> None:
    if source.info.server_version < STORED_IN_LOG:
        source.execute("create table priced (id int primary key, net int, gross int generated always as (net) stored)")
        assert poll(capture_of(), "priced").left_out == ("gross",)
        return
    source.execute("create table priced (id int primary key, net int, gross int generated always as (net * 2) stored,"
                   " label text generated always as ('n' || net) virtual)")  # fmt: skip
    source.execute("insert into priced values (1, 10)")
    model, capture = Replayed(), capture_of()
    model.snapshot(capture)
    source.execute("insert into priced values (2, 20)")
    source.execute("update priced set net = 11 where id = 1")
    model.follow(capture)
    assert list(model.rows["priced"].values()) == [
        {"id": 1, "net": 11, "gross": 22},
        {"id": 2, "net": 20, "gross": 40},
    ]
    assert poll(capture, "priced").left_out == ("label",)

    source.execute("alter publication fraud_lakehouse set (publish_generated_columns = none)")
    table = poll(capture, "priced")
    assert [column.name for column in table.columns] == ["id", "net"]
    assert table.left_out == ("gross", "label")
    source.execute("insert into priced values (3, 30)")
    batch = read_whole(capture, model.after, model.position, 100)
    assert batch is not None
    assert "gross" not in batch.frames["priced"].columns


def test_a_key_that_the_log_does_not_carry_is_named(source: psycopg.Connection, capture_of: Open) -> None:
    source.execute("create table odd (n int not null, k int generated always as (n * 2) stored primary key)")
    source.execute("create publication fraud_lakehouse for table odd")
    with pytest.raises(SourceTableError, match="generated column k"):
        capture_of(postgres_tables=("odd",)).preflight()


@pytest.mark.parametrize(
    ("tables", "knows_schemas"),
    [
        ("", True),
        ("for table payments", True),
        ("for table payments", False),
        ("for all tables", True),
        ("for all tables", False),
        ("for tables in schema public", True),
        ("for tables in schema other", True),
    ],
)
def test_a_publication_has_what_the_server_says_it_has(
    source: psycopg.Connection, capture_of: Open, monkeypatch: pytest.MonkeyPatch, tables: str, knows_schemas: bool
) -> None:
    if not knows_schemas:  # as an older server is asked
        monkeypatch.setattr(postgres_membership, "SCHEMAS_PUBLISHED", 10**9)
    source.execute("create schema other")
    source.execute("create table other.cards (id int primary key)")
    source.execute("create table parts (id int primary key) partition by range (id)")
    source.execute(f"create publication fraud_lakehouse {tables} with (publish_via_partition_root = true)")
    capture = capture_of(postgres_tables=("payments", "parts", "other.cards"))
    view = "select schemaname, tablename from pg_publication_tables where pubname = 'fraud_lakehouse'"
    found = capture.tables()
    members = capture.memberships(found)
    assert {(one.schema, one.table) for one in found if one.name in members} == set(source.execute(view).fetchall())


def test_a_hostile_name_is_just_a_name(source: psycopg.Connection, capture_of: Open) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in HOSTILE]
    events = ["_op", "_LSN", "_ingested_at", "_lake_x", "row", "c1"]
    columns = ", ".join(f"{name} int" for name in quoted + [f'"{name}"' for name in events])
    for schema in ("public", '"other "" schema"'):
        source.execute(f"create schema if not exists {schema}")
        for table in quoted:
            source.execute(f'create table {schema}.{table} ("Id" int, "id" int, {columns}, primary key ("id", "Id"))')
    names = [f"{schema}.{table}" for schema in ("public", 'other " schema') for table in HOSTILE]
    width = 2 + len(HOSTILE) + len(events)

    def insert(first: int) -> None:
        for schema in ("public", '"other "" schema"'):
            for table in quoted:
                values = ", ".join(str(first + number) for number in range(width))
                source.execute(f"insert into {schema}.{table} values ({values})")

    insert(0)
    model, capture = Replayed(), capture_of(postgres_tables=tuple(names))
    model.snapshot(capture)
    insert(100)
    model.follow(capture)
    tables = capture.tables()
    assert len({table.name.lower() for table in tables}) == len(tables) == 2 * len(HOSTILE)
    for table in tables:
        named = [column.name for column in table.columns]
        assert len({name.lower() for name in (*named, *table.frame_schema)}) == len(table.frame_schema)
        assert named[0] == "Id"
        assert named[1] != "id"
        assert named[2 : 2 + len(HOSTILE)] == HOSTILE
        for first in (0, 100):
            values = {name: first + n for n, name in enumerate(named)}
            assert model.rows[table.name][(first + 1, first)] == values


def test_tables_whose_names_differ_in_case_only_stay_apart(source: psycopg.Connection, capture_of: Open) -> None:
    for table in ("users", '"Users"', '"USERS"'):
        source.execute(f"create table {table} (id int primary key)")
    source.execute("create schema a")
    source.execute("create table a.b (id int primary key)")
    source.execute("create table a__b (id int primary key)")
    model, capture = Replayed(), capture_of(postgres_tables=("users", "Users", "USERS", "a.b", "a__b"))
    model.snapshot(capture)
    for number, table in enumerate(("users", '"Users"', '"USERS"', "a.b", "a__b")):
        source.execute(f"insert into {table} values (%s)", (number,))
    model.follow(capture)
    names = {(table.schema, table.table): table.name for table in capture.tables()}
    assert names["public", "users"] == "users"
    assert names["a", "b"] == "a__b"
    assert len({name.lower() for name in names.values()}) == 5
    found = {source: list(model.rows[name]) for source, name in names.items()}
    assert found == {
        ("public", "users"): [(0,)],
        ("public", "Users"): [(1,)],
        ("public", "USERS"): [(2,)],
        ("a", "b"): [(3,)],
        ("public", "a__b"): [(4,)],
    }


def test_a_snapshot_has_the_columns_of_the_log(source: psycopg.Connection, capture_of: Open) -> None:
    generated = "generated always as (id * 2) stored"
    source.execute(f'create table twice (id int primary key, "ID" text, doubled int {generated})')
    source.execute("insert into twice values (1, 'a')")
    model, capture = Replayed(), capture_of(postgres_tables=("twice",))
    with capture.snapshot() as snapshot:
        taken = pl.concat(snapshot.chunks(snapshot.tables[0]))
        model.after, model.position = {"twice": snapshot.lsn}, snapshot.lsn
    source.execute("insert into twice values (2, 'b')")
    batch = read_whole(capture, model.after, model.position, 100)
    assert batch is not None
    assert batch.frames["twice"].schema == taken.schema
