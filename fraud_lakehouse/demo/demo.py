"""The demo from start to stop: embedded servers, generators, the live cycle, Dagster and the dbt docs.

Start order: servers, tables, one cycle (the backfill), generators, and last the user interfaces.
Stop order: generators, then the cycle drains the sources, then the servers. So the lake has everything that was
generated, although the embedded Kafka keeps its log only in memory.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.home import HomeLock
from fraud_lakehouse.demo.interface import Interface
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.progress import RECORD_TABLES, Progress, distinct_records
from fraud_lakehouse.demo.services import Service, Watchdog
from fraud_lakehouse.demo.truth import BankTruth, CardTruth, RecordTruth
from fraud_lakehouse.demo.validator import DemoValidator
from fraud_lakehouse.pipeline import shipped_folder
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.live import Cycle

TOPIC = "transaction"
TRANSFERS_TOPIC = "bank-transactions"
ACCOUNT_TOPICS = ("fd.SAMPLE.USER_TRANSACTION", "fd.SAMPLE.AUTH_USER")
ACCOUNTS = "accounts.user_transaction"
_DRAIN_SECONDS = 60.0


@dataclass
class Stopper:
    """`stop` is set by the first signal or after the time limit, `hurry` by the second signal."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def after(self, seconds: float | None) -> Iterator[None]:
        """Inside the block: stop after this many seconds; None: never."""
        timer = threading.Timer(threading.TIMEOUT_MAX if seconds is None else seconds, self.stop.set)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """First call: stop; second: hurry; third: exit at once."""
        if self.hurry.is_set():
            raise KeyboardInterrupt
        if self.stop.is_set():
            self.hurry.set()
            typer.echo("stopping without draining the sources")
        else:
            typer.echo("stopping: generators first, then the current cycle (Ctrl-C again to hurry)")
        self.stop.set()


def run_demo(home: Path, seconds: float | None, rate: float, ui: bool) -> int:
    """Run the demo until Ctrl-C, SIGTERM or after `seconds` of generating; returns the exit code.

    Args:
        home: folder of all files, with the lake in `<home>/lake`; the next run continues from there.
        seconds: how long to generate; None: until stopped.
        rate: operations and records per second, for each source.
        ui: whether to start Dagster and the dbt docs.

    Raises:
        LakehouseError: another demo uses the folder, a server or child process does not start, or there is a gap.
    """
    begun, home, stopper = time.monotonic(), home.resolve(), Stopper()
    with HomeLock(home), _signals(stopper), ExitStack() as stack:
        guard = Watchdog()
        stack.callback(guard.close)
        settings = _servers(home, stack, guard)
        bank = BankTruth(_dsn(settings))
        records = {
            "cards": CardTruth(home, TOPIC),
            "transfers": RecordTruth.of_transfers(home, TRANSFERS_TOPIC),
            ACCOUNTS: RecordTruth.of_accounts(home),
        }
        stack.callback(bank.close)
        _describe(home, settings)
        cycle = _cycle(settings, stack)
        progress = Progress(cycle.lake, bank, records, typer.echo, begun)
        stack.callback(progress.stop)
        begin = {source: distinct_records(cycle.lake, source) for source in records}
        while cycle.capture():  # the backfill, and the backlog of a killed demo; no generator runs yet
            pass
        progress.backfilled()
        progress.start()
        with ExitStack() as children:
            env = {**os.environ, **settings.environment()}
            generators = _generators(home, rate, begin, env)
            children.callback(generators.stop)
            generators.start(guard)
            children.enter_context(stopper.after(seconds))
            if ui:  # so that starting services does not delay the first alert
                children.callback(Interface(home, env, guard, stopper.stop, progress.first_alert).stop)
            _run(cycle, stopper, progress, generators)
        progress.stop()
        if not stopper.hurry.is_set():
            _drain(cycle, stopper, progress)
        progress.refresh(everything=not progress.missing())
        typer.echo(progress.summary())
    return 0


def _generators(home: Path, rate: float, begin: Mapping[str, int], env: dict[str, str]) -> Service:
    command = [sys.executable, "-m", "fraud_lakehouse.demo.generate", f"--rate={rate}", f"--home={home}"]
    command += [f"--begin={begin['cards']}", f"--begin-transfers={begin['transfers']}"]
    command += [f"--begin-accounts={begin[ACCOUNTS]}"]
    return Service("the generators", command, home / "logs" / "generators.log", env=env)


def _servers(home: Path, stack: ExitStack, guard: Watchdog) -> Settings:
    """Start both servers concurrently while this thread imports the modules of the cycle."""
    postgres, kafka, validator = EmbeddedPostgres(home), EmbeddedKafka(home / "kafka"), DemoValidator()
    stack.callback(validator.close)
    stack.callback(postgres.stop)
    stack.callback(kafka.stop)
    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(postgres.start), pool.submit(kafka.start)
        import fraud_lakehouse.live  # noqa: F401  # dbt and dagster take seconds to import

        dsn, bootstrap = (each.result() for each in starting)
    assert postgres.pid is not None
    guard.guard(postgres.pid, signal.SIGINT)
    # One partition: at this speed of event time, partitions differ by more than the allowed lateness of 15 s.
    for topic in (TOPIC, TRANSFERS_TOPIC, *ACCOUNT_TOPICS):
        kafka.create_topic(topic, 1)
    with closing(BankWriter(dsn)) as bank:
        bank.prepare()
    return load_settings(
        lake=str(home / "lake"),
        work=home / "work",
        pipeline=shipped_folder(),  # the demo only writes to the shipped sources, not to the user's
        postgres_dsn=dsn,
        postgres_tables=(),
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=TOPIC,
        kafka_config_file=None,
        max_future=0.0,  # event times are ahead of the clock
        publish_features=False,  # the embedded broker supports neither aborted transactions nor committed positions
        validator_url=validator.url,
        update_delay=0.0,
    )


def _cycle(settings: Settings, stack: ExitStack) -> Cycle:
    from fraud_lakehouse.ingest import accept
    from fraud_lakehouse.live import Cycle

    lake = Lake.at(settings.lake)
    for source, table in RECORD_TABLES.items():
        if lake.exists("bronze", table):
            accept(settings, lake, source)  # the embedded broker loses its log at a restart: its topics are always new
    return stack.enter_context(Cycle(settings))


def _run(cycle: Cycle, stopper: Stopper, progress: Progress, generators: Service) -> None:
    from fraud_lakehouse.live import run_until
    from fraud_lakehouse.live.background import BackgroundWorker

    reported = False

    def asked() -> bool:
        nonlocal reported
        if not reported and not generators.running and not stopper.stop.is_set():
            reported = True
            typer.echo(f"the generators have ended: {generators.log_tail()}")
        return stopper.stop.is_set()

    with BackgroundWorker(cycle.settings) as worker:
        run_until(cycle, worker, asked, progress.note)


def _drain(cycle: Cycle, stopper: Stopper, progress: Progress) -> None:
    """Run cycles until every generated row is ingested, then build every layer."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while progress.missing() and time.monotonic() < deadline and not stopper.hurry.is_set():
        progress.note(cycle.follow(cycle.run(cycle.capture())))
    if not stopper.hurry.is_set():
        cycle.catch_up(progress.note)


def _describe(home: Path, settings: Settings) -> None:
    typer.echo(f"home        {home}")
    typer.echo(f"lake        {settings.lake}")
    shown = _dsn(settings).partition(" password=")[0]
    typer.echo(f"PostgreSQL  {shown} (password in {home / 'postgres.password'})")
    topics = ", ".join((TOPIC, TRANSFERS_TOPIC, *ACCOUNT_TOPICS))
    typer.echo(f"Kafka       {settings.kafka_bootstrap_servers}, topics {topics}")


def _dsn(settings: Settings) -> str:
    assert settings.postgres_dsn is not None
    return settings.postgres_dsn.get_secret_value()


@contextmanager
def _signals(stopper: Stopper) -> Iterator[None]:
    before = {number: signal.signal(number, stopper.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
