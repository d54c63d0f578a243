"""One lake under test: two databases, a topic, the product's settings, and the record of what was committed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from uuid import uuid4

import polars as pl
import psycopg

from fraud_lakehouse.ingest import open_ingest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import configured_sources, postgres_source
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.storage.lake import Lake
from tests.patience import PATIENCE
from tests.soak.bronze_verdict import Verdict, judge_cards, judge_changes, judge_positions
from tests.soak.cards import CardStream
from tests.soak.ledger import Ledger
from tests.soak.product import Product
from tests.soak.servers import Servers
from tests.soak.shop import Shop, declare
from tests.soak.wall_clock import WallClock
from tests.soak.workload import Workload

PARTITIONS = 2
_IDLE = 0.1  # seconds between three transactions of a workload in the background and the next
DRAIN_ROWS = 10_000


class Stand:
    """Everything of one lake but the product's process.

    Args:
        servers: running.
        home: folder of this lake, its work folder and the product's output.
        seed: of the workload and of the faults' times.
        batch_rows: of the product; small, so that a crash falls between batches.
        alert_urls: where alerts go, one by one.
        clock: what the product's processes read as the time; default: the machine's.
    """

    def __init__(
        self,
        servers: Servers,
        home: Path,
        seed: int,
        *,
        batch_rows: int = 60,
        alert_urls: Sequence[str] = (),
        clock: WallClock | None = None,
    ) -> None:
        self.servers = servers
        self.home = home
        self.dice = Random(seed)
        self.database = f"soak_{uuid4().hex[:12]}"
        dsn = servers.postgres.create_database(self.database)
        self.ledger = Ledger(dsn, seed)
        self.ledger.create()
        topic = f"soak-{uuid4().hex[:12]}"
        servers.broker.create_topic(topic, PARTITIONS)
        self.shop_database = f"shop_{uuid4().hex[:12]}"
        """The second database, and the name of its source."""
        self.shop = Shop(servers.postgres.create_database(self.shop_database), seed)
        self.shop.create()
        self._shop_variable = f"{self.shop_database.upper()}_DSN"
        os.environ[self._shop_variable] = self.shop.dsn
        self.cards = CardStream(servers.broker.bootstrap, topic, seed, PARTITIONS, transactional=servers.broker.keeps)
        home.mkdir(parents=True, exist_ok=True)
        self.pipeline = home / "pipeline"
        declare(self.pipeline, self.shop_database, self._shop_variable)
        self._given = {
            "pipeline": str(self.pipeline),
            "lake": str(home / "lake"),
            "work": str(home / "work"),
            "postgres_dsn": dsn,
            "postgres_slot": self.database,
            "kafka_bootstrap_servers": servers.broker.bootstrap,
            "kafka_topic": topic,
            "batch_rows": str(batch_rows),
            "replica_interval": "1",
            "alert_urls": ",".join(alert_urls),
            "alert_burst": "100000",
        }
        self.clock = clock
        self.tables: list[str] = []  # created by faults, of schema public
        self.lake = Lake.at(home / "lake")
        self._started = 0
        self._positions: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def settings(self) -> Settings:
        """The product's settings, for use in this process: not through the proxy, and in large batches."""
        return load_settings(**self._given | {"batch_rows": DRAIN_ROWS})

    def bronze_name(self, table: str) -> str:
        """The bronze table of a table of schema public."""
        return bronze_name("public", table, reserved=postgres_source(self.settings, "bank").reserved)

    def product(
        self, program: str, *arguments: str, failpoint: str = "", obey: bool = False, work: str = "work", rows: int = 0
    ) -> Product:
        """Start a process of the product, which reaches PostgreSQL through the proxy.

        Args:
            work: name of its work folder: another one is another machine's, whose locks nobody sees.
            rows: of a batch; default: those of this stand.
        """
        environment = {f"FRAUD_{name.upper()}": text for name, text in self._given.items()}
        environment["FRAUD_POSTGRES_DSN"] = self.servers.through_proxy(self._given["postgres_dsn"])
        environment[self._shop_variable] = self.servers.through_proxy(self.shop.dsn)
        environment["FRAUD_WORK"] = str(self.home / work)
        environment["FRAUD_BATCH_ROWS"] = str(rows or self._given["batch_rows"])
        environment |= self.clock.environment if self.clock is not None else {}
        self._started += 1
        log = self.home / f"{program}-{self._started}.log"
        return Product(program, environment, log, *arguments, failpoint=failpoint, obey=obey)

    def work(self, transactions: int = 12) -> None:
        """Commit so many transactions and card records."""
        for workload in self._workloads:
            workload.run(transactions)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """All workloads in the background, until the block ends; their failures are raised then."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def keep_on(workload: Workload | CardStream) -> None:
            try:
                while not stop.is_set():
                    workload.run(3, stop.is_set)
                    time.sleep(_IDLE)
            except BaseException as error:  # noqa: BLE001 (raised below, in the test's thread)
                failures.append(error)

        threads = [threading.Thread(target=keep_on, args=(one,), daemon=True) for one in self._workloads]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        for failure in failures:
            raise failure
        assert not any(thread.is_alive() for thread in threads), "the workload hangs"

    def pause(self, shortest: float, longest: float) -> None:
        """Let some time pass that the seed decides."""
        time.sleep(self.dice.uniform(shortest, longest))

    def rows(self) -> int:
        """Rows in bronze now, 0 before there is any table."""
        return sum(
            int(pl.scan_delta(self.lake.uri("bronze", table)).select(pl.len()).collect().item())
            for table in self.lake.tables("bronze")
        )

    def drain(self) -> None:
        """Land what is left, in this process."""
        settings = self.settings
        for config in configured_sources(settings).values():
            with contextlib.closing(open_ingest(config, settings, self.lake, tuple)) as ingest:
                while ingest.step(DRAIN_ROWS):
                    pass

    def end_slot_reader(self) -> None:
        """End the sessions that read the slots, as the product's message says."""
        with psycopg.connect(self.servers.postgres.dsn) as connection:
            connection.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where database = any(%s)",
                (self._databases,),
            )

    def judge(self) -> Verdict:
        """Compare bronze with the record; the lake must be drained."""
        steady_clock = self.clock is None or not self.clock.has_stepped
        result = judge_changes(self.lake, self.ledger, steady_clock=steady_clock)
        result.add(judge_changes(self.lake, self.shop, steady_clock=steady_clock))
        result.add(judge_cards(self.lake, self.cards))
        result.add(judge_positions(self.lake, self._positions))
        return result

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """No folder of the lake may be written by a process that obeys permissions."""
        folders = [folder for folder, _, _ in os.walk(self.lake.root)]
        for folder in folders:
            os.chmod(folder, 0o555)
        try:
            yield
        finally:
            for folder in folders:
                os.chmod(folder, 0o755)

    def close(self) -> None:
        """End the workloads' connections, and free the slots: the server has only so many."""
        for workload in self._workloads:
            workload.close()
        with psycopg.connect(self.servers.postgres.dsn, autocommit=True) as connection:
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where database = any(%s) and not active",
                (self._databases,),
            )
        del os.environ[self._shop_variable]

    @property
    def _workloads(self) -> tuple[Workload | CardStream, ...]:
        return self.ledger, self.shop, self.cards

    @property
    def _databases(self) -> list[str]:
        return [self.database, self.shop_database]
