"""Two databases in one pipeline: each is captured exactly, and what happens to one stops nothing of the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fraud_lakehouse import cli
from fraud_lakehouse.checks.status import collect
from fraud_lakehouse.errors import GapError, SourceError
from fraud_lakehouse.ingest import PostgresIngest, resync
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.storage.audit import Audit
from fraud_lakehouse.storage.lake import Lake
from tests.declared import bank_and_cards
from tests.integration.test_live_run import ROOT, SCHEMA, unknown_user
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(1200)]

SHOP_SCHEMA = """
create table users (login text primary key, is_seller bool);
create table orders (id serial primary key, buyer text, total numeric(12,2));
insert into users values ('ann', false), ('bob', true);
insert into orders (buyer, total) values ('ann', 12.50);
"""
PREFIX = "  prefix: shop_\n"
Run = Callable[..., tuple[int, str]]


@dataclass
class Databases:
    """The shipped bank and a shop of another shape, both with a table `users`."""

    settings: Settings
    bank: psycopg.Connection[Any]
    shop: psycopg.Connection[Any]
    folder: Path

    @property
    def lake(self) -> Lake:
        return Lake.at(self.settings.lake)

    def declare(self, shop: str = "") -> None:
        """Write sources.yml, with more keys of the shop."""
        text = f"shop:\n  type: postgres\n  dsn_env: SHOP_DSN\n{shop}"
        (self.folder / "sources.yml").write_text((bank_and_cards() / "sources.yml").read_text() + text)

    def pay(self) -> str:
        """A payment that raises an alert; its id."""
        return unknown_user(self.bank)

    def order(self) -> int:
        """An order in the shop; its id."""
        row = self.shop.execute("insert into orders (buyer, total) values ('bob', 5) returning id").fetchone()
        assert row is not None
        return int(row[0])

    def alerted(self) -> list[str]:
        """Payments with an alert, in the order of their ids."""
        if not self.lake.exists("gold", "alerts"):
            return []
        alerts = pl.read_delta(self.lake.uri("gold", "alerts"))
        return sorted(alerts.filter(pl.col("rule") == "unknown_user")["transaction_id"], key=int)

    def assert_same(self, connection: psycopg.Connection[Any], table: str, replica: str) -> None:
        """The replica has exactly the rows of the table."""
        rows = connection.execute(f"select * from {table} order by 1").fetchall()
        found = pl.read_delta(self.lake.uri("silver", replica))
        assert found.sort(found.columns[0]).rows() == rows

    def assert_all_same(self, prefix: str = "shop_") -> None:
        """All four replicas have exactly the rows of their tables."""
        for table in ("users", "transactions"):
            self.assert_same(self.bank, table, table)
        for table in ("users", "orders"):
            self.assert_same(self.shop, table, f"{prefix}{table}")

    def assert_each_event_once(self, table: str) -> None:
        """No event of bronze is there twice."""
        events = pl.read_delta(self.lake.uri("bronze", table))
        assert not events.select("_lsn", "_seq").is_duplicated().any()


@pytest.fixture
def databases(
    database: str, second_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Databases]:
    for name in [name for name in os.environ if name.startswith("FRAUD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_DSN", second_database)
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "streams.yml").write_text((bank_and_cards() / "streams.yml").read_text())
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, pipeline=folder)
    with (
        psycopg.connect(database, autocommit=True) as bank,
        psycopg.connect(second_database, autocommit=True) as shop,
    ):
        bank.execute(SCHEMA)
        shop.execute(SHOP_SCHEMA)
        made = Databases(settings, bank, shop, folder)
        made.declare(PREFIX)
        yield made


@pytest.fixture
def run(databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command line; exit code, and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for name, value in databases.settings.environment().items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["fraud-lakehouse", *arguments])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out + printed.err

    return call


def test_a_table_of_the_same_name_is_left_out_until_the_second_database_has_a_prefix(databases: Databases) -> None:
    databases.declare()
    with PostgresIngest(databases.settings, databases.lake, postgres_source(databases.settings, "shop")) as first:
        assert [batch.table for batch in first.step(1000)] == ["orders"], "a stream of the bank names the other"
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
    bank, shop = collect(databases.settings).sources
    assert (bank.name, bank.left_out, bank.error, shop.name, shop.error) == ("bank", [], None, "shop", None)
    (left_out,) = shop.left_out
    assert left_out["table"] == "public.users"
    assert "would land in bronze/users, which belongs to the source bank" in left_out["problem"]
    assert "`prefix: x_`" in left_out["fix"]
    databases.assert_same(databases.bank, "users", "users")
    databases.assert_same(databases.shop, "orders", "orders")
    databases.declare(PREFIX)
    databases.shop.execute("update users set is_seller = true")
    databases.order()
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
    assert collect(databases.settings).sources[1].left_out == []
    databases.assert_same(databases.shop, "users", "shop_users")
    databases.assert_same(databases.shop, "orders", "orders")  # a name once given stays
    databases.assert_same(databases.bank, "users", "users")


def test_both_databases_are_captured_with_positions_of_their_own(databases: Databases) -> None:
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
        for number in range(5):
            databases.pay()
            databases.order()
            databases.shop.execute("update users set is_seller = %s", (number % 2 == 0,))
            databases.bank.execute("update users set name = %s", (f"name {number}",))
        cycle.catch_up()
    databases.assert_all_same()
    assert len(databases.alerted()) == 5
    slots = {postgres_source(databases.settings, name).slot for name in ("bank", "shop")}
    assert slots == {"fraud_lakehouse", "fraud_lakehouse_shop"}
    for source in collect(databases.settings).sources:
        assert (source.error, source.slot_health and source.slot_health["level"]) == (None, "ok")
        assert source.lag_bytes is not None and source.lag_bytes < 1_000  # a server writes some records by itself
        assert source.last_batch is not None
    audit = Audit(databases.lake)
    assert [[row.event for row in audit.rows(name)] for name in ("bank", "shop")] == [["registered", "snapshot"]] * 2


def test_a_database_that_does_not_answer_is_the_only_problem(
    databases: Databases, second_database: str, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
    databases.order()
    with monkeypatch.context() as patch:
        patch.setenv("SHOP_DSN", make_conninfo(second_database, port=1))
        first = databases.pay()
        with Cycle(databases.settings) as cycle:
            result = cycle.run(cycle.capture())
            assert result.problems.keys() == {"shop"} and "SHOP_DSN" in result.problems["shop"]
            assert databases.alerted() == [first]
        second = databases.pay()
        code, output = run("catch-up")
        assert code == SourceError.exit_code and "SHOP_DSN" in output and "FRAUD_POSTGRES_DSN" not in output
        assert databases.alerted() == [first, second]
    assert run("catch-up")[0] == 0
    databases.assert_all_same()


def test_a_database_whose_slot_was_dropped_waits_for_its_resync_and_the_other_goes_on(
    databases: Databases, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.source.GAP_SECONDS", 0.0)
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
        cycle.sources[1].ingest.close()
        databases.shop.execute("select pg_drop_replication_slot('fraud_lakehouse_shop')")
        databases.order()
        paid = [databases.pay()]
        result = cycle.run(cycle.capture())
        assert result.problems.keys() == {"shop"}
        assert "`fraud-lakehouse resync --source shop`" in result.problems["shop"]
        assert databases.alerted() == paid
        paid.append(databases.pay())
        with pytest.raises(GapError, match="fraud_lakehouse_shop"):
            cycle.catch_up()
        assert databases.alerted() == paid
        resync(databases.settings, databases.lake, [], "shop")
        databases.order()
        paid.append(databases.pay())
        while cycle.capture():
            pass
        assert cycle.problems == {}
        cycle.catch_up()
    assert databases.alerted() == paid
    databases.assert_all_same()
    audit = Audit(databases.lake)
    assert [row.event for row in audit.rows("bank")] == ["registered", "snapshot"]
    assert [row.event for row in audit.rows("shop")] == [
        "registered",
        "snapshot",
        "slot_lost",
        "resync_started",
        "resync",
    ]


def test_commands_about_a_database_take_its_name(databases: Databases, run: Run) -> None:
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
    for command in ("resync", "forget-slot"):
        code, output = run(command)
        assert code != 0 and "there are several PostgreSQL sources" in output and "name one of: bank, shop" in output
        code, output = run(command, "--source", "shops")
        assert code != 0 and "there is no PostgreSQL source shops" in output
    databases.shop.execute("delete from orders")
    code, output = run("resync", "--source", "shop")
    assert code == 0 and "bronze/shop_orders: 0 rows in the source" in output
    assert "bronze/shop_users: 2 rows in the source" in output and "bronze/users" not in output
    code, output = run("resync", "users", "--source", "bank")
    assert code == 0 and "bronze/users: 1 rows in the source" in output
    code, output = run("forget-slot", "--source", "shop")
    assert code == 0 and "replication slot fraud_lakehouse_shop dropped" in output
    slots = databases.bank.execute("select slot_name from pg_replication_slots where slot_name like 'fraud_lake%'")
    assert slots.fetchall() == [("fraud_lakehouse",)]
    databases.order()
    databases.pay()
    assert run("catch-up")[0] == 0
    databases.assert_all_same()
    code, output = run("accept-source", "shop")
    assert code == 0, output
    databases.order()
    assert run("catch-up")[0] == 0
    databases.assert_all_same()


@pytest.mark.crash
def test_a_killed_live_process_loses_and_doubles_nothing_of_either_database(databases: Databases) -> None:
    stop, paid, ordered = threading.Event(), list[str](), list[int]()

    def write() -> None:
        while not stop.wait(0.05):
            paid.append(databases.pay())
            ordered.append(databases.order())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for point in ("postgres.before_position:3", "bronze.after_commit:6", "postgres.before_acknowledge:5"):
            environment = {**os.environ, **databases.settings.environment(), "FRAUD_FAILPOINT": point}
            command = [sys.executable, "-m", "fraud_lakehouse.cli", "live"]
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == -signal.SIGKILL, f"{point} was never reached: {done.stderr[-3000:]}"
    finally:
        stop.set()
        writer.join()
    with Cycle(databases.settings) as cycle:
        cycle.catch_up()
    databases.assert_all_same()
    for table in ("transactions", "users", "shop_orders", "shop_users"):
        databases.assert_each_event_once(table)
    events = pl.read_delta(databases.lake.uri("bronze", "transactions"))["transaction_id"]
    assert Counter(map(str, events)) == Counter(paid)
    assert databases.alerted() == paid
    orders = pl.read_delta(databases.lake.uri("bronze", "shop_orders"))["id"]
    assert Counter(orders) == Counter([1, *ordered])
