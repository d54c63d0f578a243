"""One lake under test: a database, a topic, the product's settings, and the record of what was committed."""

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

from fraud_lakehouse.ingest import KafkaIngest, PostgresIngest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import postgres_source
from fraud_lakehouse.sources.postgres.names import bronze_name
from fraud_lakehouse.storage.lake import Lake
from tests.patience import PATIENCE
from tests.soak.bronze_verdict import Verdict, judge_cards, judge_ledger, judge_positions
from tests.soak.cards import CardStream
from tests.soak.ledger import Ledger
from tests.soak.product import Product
from tests.soak.servers import Servers
from tests.soak.wall_clock import WallClock

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
        self.cards = CardStream(servers.broker.bootstrap, topic, seed, PARTITIONS, transactional=servers.broker.keeps)
        home.mkdir(parents=True, exist_ok=True)
        self._given = {
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
        return bronze_name("public", table, reserved=postgres_source(self.settings).reserved)

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
        environment["FRAUD_WORK"] = str(self.home / work)
        environment["FRAUD_BATCH_ROWS"] = str(rows or self._given["batch_rows"])
        environment |= self.clock.environment if self.clock is not None else {}
        self._started += 1
        log = self.home / f"{program}-{self._started}.log"
        return Product(program, environment, log, *arguments, failpoint=failpoint, obey=obey)

    def work(self, transactions: int = 12) -> None:
        """Commit so many transactions and card records."""
        self.ledger.run(transactions)
        self.cards.run(transactions)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Both workloads in the background, until the block ends; their failures are raised then."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def keep_on(workload: Ledger | CardStream) -> None:
            try:
                while not stop.is_set():
                    workload.run(3, stop.is_set)
                    time.sleep(_IDLE)
            except BaseException as error:  # noqa: BLE001 (raised below, in the test's thread)
                failures.append(error)

        threads = [threading.Thread(target=keep_on, args=(one,), daemon=True) for one in (self.ledger, self.cards)]
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
        with PostgresIngest(settings, self.lake) as postgres:
            while postgres.step(DRAIN_ROWS):
                pass
        with KafkaIngest(settings, self.lake) as kafka:
            while kafka.step(DRAIN_ROWS, 0.1):
                pass

    def end_slot_reader(self) -> None:
        """End the session that reads the slot, as the product's message says."""
        with psycopg.connect(self.ledger.dsn) as connection:
            connection.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s",
                (self.database,),
            )

    def judge(self) -> Verdict:
        """Compare bronze with the record; the lake must be drained."""
        steady_clock = self.clock is None or not self.clock.has_stepped
        verdict = judge_ledger(self.lake, self.ledger, steady_clock=steady_clock)
        verdict.add(judge_cards(self.lake, self.cards))
        verdict.add(judge_positions(self.lake, self._positions))
        return verdict

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
        """End the workloads' connections."""
        self.ledger.close()
        self.cards.close()
