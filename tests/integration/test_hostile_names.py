"""Names that SQL, dbt, file systems and Dagster would all read wrongly, from PostgreSQL to Dagster's events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from fraud_lakehouse.checks.status import collect, to_json
from fraud_lakehouse.cli.status_text import render
from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage.lake import Lake, scan

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

COLUMN = "c'd \"e 🙂"
TABLES = [
    ("public", 'a"b; drop table users; --'),
    ("public", "a-b"),
    ("public", "a_b"),
    ("public", "pay$day"),
    ("public", "Überweisung 100% {{ x }}"),
    ("public", 'a,b."c,d"'),
    ("public", "csv"),  # DuckDB takes these for files
    ("public", "parquet"),
    ("public", "_delta_log"),
    ("public", "alerts"),
    ("public", "pay$day_history"),
    ("public", "🙂 x\u2028y\n{% y %}"),
    ('audit"; log', "order's\\lines"),
]


@pytest.fixture
def settings(database: str, source: psycopg.Connection, tmp_path: Path) -> Settings:
    """A lake over a database of tables with such names, two rows each."""
    source.execute("create table users (user_id int primary key, name text, email text, registration_date timestamp)")
    source.execute("insert into users values (1, 'a', 'a@example.com', now())")
    source.execute(sql.SQL("create schema {}").format(sql.Identifier(TABLES[-1][0])))
    for table in TABLES:
        create = sql.SQL("create table {} ({} int primary key, {} text)")
        source.execute(create.format(sql.Identifier(*table), sql.Identifier("id%s"), sql.Identifier(COLUMN)))
        source.execute(sql.SQL("insert into {} values (1, 'old'), (2, 'it''s %s')").format(sql.Identifier(*table)))
    return load_settings(
        lake=str(tmp_path / "lake"),
        postgres_dsn=database,
        postgres_slot=conninfo_to_dict(database)["dbname"],
        postgres_tables=",".join(["users", *(f"{quoted(schema)}.{quoted(table)}" for schema, table in TABLES)]),
    )


def read(settings: Settings, layer: str, table: str) -> list[tuple[Any, ...]]:
    return sorted(scan(Lake.at(settings.lake).open(layer, table)).select("id%s", COLUMN).collect().rows())


def test_names_reach_silver_and_dagster_as_they_are(settings: Settings, source: psycopg.Connection) -> None:
    with Cycle(settings) as cycle:
        cycle.catch_up()
    for table in TABLES:
        update = sql.SQL("update {} set {} = {} where {} = 1")
        names = [sql.Identifier(*table), sql.Identifier(COLUMN), sql.Literal("n'ew\\"), sql.Identifier("id%s")]
        source.execute(update.format(*names))
        source.execute(sql.SQL("delete from {} where {} = 2").format(names[0], names[-1]))
        source.execute(sql.SQL("insert into {} values (3, null)").format(names[0]))
    definitions = build_definitions(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        done = definitions.resolve_job_def("update").execute_in_process(instance=instance)
    reported = {event.asset_key for event in done.get_asset_materialization_events()}
    status = collect(settings)
    shown = {layer: {one["table"] for one in status.layers[layer]} for layer in ("bronze", "silver")}
    for table in TABLES:
        name = bronze_name(*table)
        assert read(settings, "silver", name) == [(1, "n'ew\\"), (3, None)], table
        layers = [("bronze", name), ("silver", name), ("silver", f"{name}_history")]
        assert {table_key(*one) for one in layers} <= reported
        assert name in shown["bronze"] & shown["silver"]
        assert name in render(status) and name in to_json(status)
    assert source.execute("select count(*) from users").fetchone() == (1,)
