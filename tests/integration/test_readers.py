"""Every version of every table, read by engines other than the product's: all of them find the same rows.

pyarrow (through delta-rs), DataFusion, DuckDB, polars and Daft have each a Parquet reader of their own. The lake is one
that the product has made: snapshots and changes of PostgreSQL, cards of Kafka, replicas that are merged into and
deleted from, columns that are added, alerts, compaction and vacuum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import datafusion
import duckdb
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.ingest import forget_postgres_slot
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage import schemas
from fraud_lakehouse.storage.lake import LAYERS, Lake, data_files
from fraud_lakehouse.storage.maintenance import maintain
from tests.daft_reader import VERSION, Daft
from tests.fetched import NotFetchedError
from tests.fixtures_kafka import Broker, card
from tests.optional import not_tested

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(1800)]

SCHEMA = """
create table users (user_id int primary key, name text not null, email text, registration_date timestamp);
create table transactions
  (transaction_id serial primary key, user_id int, transaction_date timestamp, amount decimal(10,2));
create table kinds (
  id bigint not null, part text not null, small smallint, double double precision, is_true boolean, bytes bytea,
  instant timestamptz, day date, exact numeric(38, 9), huge numeric, document jsonb, name uuid, span interval,
  several int[], "a column, {named}; so=(far)" text, primary key (id, part));
insert into users select i, 'user ' || i, 'u@example.org', now() from generate_series(1, 20) i;
insert into transactions (user_id, transaction_date, amount) select 1 + i % 20, now(), i from generate_series(1, 60) i;
insert into kinds values
  (1, 'a', -3, 1.5, true, '\\xff00', now(), '2026-01-01', 12345678901234567890123456789.123456789, 1e50, '{"a": 1}',
   '00000000-0000-0000-0000-000000000001', '1 day', '{1,2}', 'text'),
  (2, '', null, 'nan', false, '', 'infinity', '0001-01-01 BC', null, 'nan', 'null', null, null, null, null);
"""
ROUND = """
insert into transactions (user_id, transaction_date, amount) values (9999, now(), 50), (1, now(), 9000);
update users set name = name || ' again' where user_id % 3 = 0;
update transactions set amount = amount + 1 where transaction_id % 7 = 0;
delete from transactions where transaction_id % 11 = 5;
update kinds set small = 7, bytes = bytes || '\\x01'::bytea;
"""


@dataclass(frozen=True)
class Version:
    """A version of a table, the first with its files."""

    table: DeltaTable
    layer: str
    name: str

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return schemas.frame_schema(self.table.schema())

    def __str__(self) -> str:
        return f"{self.layer}/{self.name} at version {self.table.version()}"


@pytest.fixture(scope="module")
def lake(postgres: EmbeddedPostgres, kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    database, topic = postgres.create_database("readers"), kafka.new_topic()
    settings = load_settings(
        lake=str(tmp_path_factory.mktemp("readers") / "lake"),
        postgres_dsn=database,
        postgres_slot="readers",
        kafka_bootstrap_servers=kafka.bootstrap,
        kafka_topic=topic,
    )
    lake = Lake.at(settings.lake)
    with psycopg.connect(database, autocommit=True) as bank, Cycle(settings) as cycle:
        bank.execute(SCHEMA)
        for number in range(10):
            bank.execute(ROUND)
            if number == 5:
                bank.execute("alter table users add column note text default 'none'")
            kafka.publish(topic, [encode(card(10 * number + one)) for one in range(10)] + [b"no record"])
            cycle.catch_up() if number in (0, 6, 9) else cycle.capture()
        maintain(lake)
        bank.execute(ROUND)
        cycle.catch_up()
    forget_postgres_slot(settings, lake)
    return lake


@pytest.fixture(scope="module")
def daft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daft]:
    try:
        session = Daft(tmp_path_factory.mktemp("daft"))
    except NotFetchedError as reason:
        not_tested(f"Daft {VERSION} cannot be had here: {reason}", "DAFT")
    with closing(session):
        yield session


def versions(lake: Lake) -> Iterator[Version]:
    """The versions of all tables, each with other files or columns than the one before."""
    for layer in LAYERS:
        for name in lake.tables(layer):
            seen = None
            for number in range(lake.open(layer, name).version() + 1):
                table = DeltaTable(lake.uri(layer, name), version=number)
                content = (table.schema().to_json(), sorted(data_files(table)))
                if content != seen:
                    yield Version(table, layer, name)
                seen = content


def by_pyarrow(version: Version) -> pl.DataFrame:
    return pl.DataFrame(version.table.to_pyarrow_table())


def by_datafusion(version: Version) -> pl.DataFrame:
    context = datafusion.SessionContext()
    context.register_table("rows", version.table)
    return pl.DataFrame(context.sql("select * from rows").to_arrow_table())


def by_polars(version: Version) -> pl.DataFrame:
    return pl.read_delta(version.table.table_uri, version=version.table.version())


def by_duckdb(version: Version) -> pl.DataFrame:
    """From the list of files alone, as any reader of Parquet does."""
    if not (files := data_files(version.table)):
        return pl.DataFrame(schema=version.schema)
    with duckdb.connect() as engine:
        engine.execute("set TimeZone = 'UTC'")
        relation = engine.from_parquet(files, union_by_name=True)
        names = ", ".join(
            quoted(name) if name in relation.columns else f"null as {quoted(name)}" for name in version.schema
        )
        return pl.DataFrame(relation.select(names).to_arrow_table())


def rows(version: Version, read: Callable[[Version], pl.DataFrame]) -> pl.DataFrame:
    """The rows as a reader finds them, in one order."""
    found = read(version)
    assert set(found.columns) == set(version.schema), version
    return found.select(pl.col(name).cast(kind) for name, kind in version.schema.items()).sort(
        pl.all(), nulls_last=True
    )


def test_every_version_of_every_table_has_the_same_rows_for_every_reader(lake: Lake, daft: Daft) -> None:
    def by_daft(version: Version) -> pl.DataFrame:
        return daft.read(version.table.table_uri, version.table.version())

    read = 0
    for version in versions(lake):
        expected = rows(version, by_pyarrow)
        for reader in (by_datafusion, by_polars, by_duckdb, by_daft):
            try:
                assert_frame_equal(rows(version, reader), expected)
            except BaseException as error:
                raise AssertionError(f"{reader.__name__} of {version}: {error}") from error
        read += 1
    assert read > 100
    assert {"silver/users", "silver/kinds", "bronze/card_transactions"} <= {
        str(one).split()[0] for one in versions(lake)
    }


def test_the_tables_ask_nothing_of_a_reader_that_it_may_not_have(lake: Lake) -> None:
    for version in versions(lake):
        protocol = version.table.protocol()
        assert set(protocol.reader_features or ()) <= {"timestampNtz"}, version
        assert set(protocol.writer_features or ()) <= {"timestampNtz", "appendOnly", "invariants"}, version
        for field in json.loads(version.table.schema().to_json())["fields"]:
            assert field["nullable"], f"{field['name']} of {version}"
        for action in pl.DataFrame(version.table.get_add_actions(flatten=True)).iter_rows(named=True):
            assert not action.get("deletion_vector.storageType"), version
    for layer in LAYERS:
        for file in sorted((Path(lake.root) / layer).glob("*/*.parquet")):
            written = pq.read_schema(file)
            assert [f"{one.name}: {one.type}" for one in written if not _is_plain(one.type)] == [], file


def _is_plain(kind: pa.DataType) -> bool:
    """Whether every reader has a type: no views, dictionaries, nanoseconds, unsigned or nested ones."""
    if pa.types.is_timestamp(kind):
        return kind.unit == "us" and kind.tz in (None, "UTC")
    return (
        pa.types.is_signed_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date32(kind)
        or (pa.types.is_decimal128(kind) and kind.precision <= 38)
        or kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    )
