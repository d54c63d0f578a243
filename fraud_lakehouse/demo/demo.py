"""The demo from start to stop: embedded servers, generators, the live cycle, Dagster and the dbt docs.

Order of the start: servers, tables, one cycle (the backfill), generators, and only then what is merely looked at.
Order of the stop: what writes first, then the cycle drains both sources, then the servers; so nothing that was
generated is missing in the lake, though the embedded Kafka keeps its log in memory only.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
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
from fraud_lakehouse.demo.progress import Progress, distinct_cards
from fraud_lakehouse.demo.services import Service, Watchdog
from fraud_lakehouse.demo.truth import BankTruth, CardTruth
from fraud_lakehouse.pipeline import shipped_folder
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.live import Cycle

TOPIC = "transaction"
_DRAIN_SECONDS = 60.0


@dataclass
class Stopper:
    """Set by the first signal or when the time is over; `hurry` by the second signal."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def after(self, seconds: float | None) -> Iterator[None]:
        """Within the block: stop when so many seconds are over; None: never."""
        timer = threading.Timer(threading.TIMEOUT_MAX if seconds is None else seconds, self.stop.set)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop; the second time, hurry; the third time, at once."""
        if self.hurry.is_set():
            raise KeyboardInterrupt
        if self.stop.is_set():
            self.hurry.set()
            typer.echo("stopping without draining the sources")
        else:
            typer.echo("stopping: generators first, then what is under way (Ctrl-C again to hurry)")
        self.stop.set()


def run_demo(home: Path, seconds: float | None, rate: float, ui: bool) -> int:
    """Run the demo until Ctrl-C, SIGTERM or `seconds` of generating are over; answers the exit code.

    Args:
        home: everything lies in this folder, the lake in `<home>/lake`; a second run continues where it was.
        seconds: how long to generate; None: until told to stop.
        rate: operations and records a second, each source.
        ui: whether Dagster and the dbt docs are started.

    Raises:
        LakehouseError: the folder is in use by another demo, a server or a child does not come up, a gap.
    """
    begun, home, stopper = time.monotonic(), home.resolve(), Stopper()
    with HomeLock(home), _signals(stopper), ExitStack() as stack:
        guard = Watchdog()
        stack.callback(guard.close)
        settings = _servers(home, stack, guard)
        bank, cards = BankTruth(_dsn(settings)), CardTruth(home, TOPIC)
        stack.callback(bank.close)
        _describe(home, settings)
        cycle = _cycle(settings, stack)
        progress = Progress(cycle.lake, bank, cards, typer.echo, begun)
        stack.callback(progress.stop)
        begin = distinct_cards(cycle.lake)
        while cycle.capture():  # the backfill, and what a killed demo left; nothing moves yet
            pass
        progress.backfilled()
        progress.start()
        with ExitStack() as children:
            env = {**os.environ, **settings.environment()}
            generators = _generators(home, rate, begin, env)
            children.callback(generators.stop)
            generators.start(guard)
            children.enter_context(stopper.after(seconds))
            if ui:  # the first alert need not share the processor with three services that start
                children.callback(Interface(home, env, guard, stopper.stop, progress.first_alert).stop)
            _run(cycle, stopper, progress, generators)
        progress.stop()
        if not stopper.hurry.is_set():
            _drain(cycle, stopper, progress)
        progress.refresh(everything=not progress.missing())
        typer.echo(progress.summary())
    return 0


def _generators(home: Path, rate: float, begin: int, env: dict[str, str]) -> Service:
    command = [sys.executable, "-m", "fraud_lakehouse.demo.generate"]
    command += [f"--rate={rate}", f"--home={home}", f"--begin={begin}"]
    return Service("the generators", command, home / "logs" / "generators.log", env=env)


def _servers(home: Path, stack: ExitStack, guard: Watchdog) -> Settings:
    """Start both servers side by side while this thread imports what the cycle needs."""
    postgres, kafka = EmbeddedPostgres(home), EmbeddedKafka(home / "kafka")
    stack.callback(postgres.stop)
    stack.callback(kafka.stop)
    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(postgres.start), pool.submit(kafka.start)
        import fraud_lakehouse.live  # noqa: F401  # dbt and dagster take seconds to import

        dsn, bootstrap = (each.result() for each in starting)
    assert postgres.pid is not None
    guard.guard(postgres.pid, signal.SIGINT)
    # One partition: 15 s of allowed lateness are 17 ms at this speed of event time, less than partitions differ by.
    kafka.create_topic(TOPIC, 1)
    with closing(BankWriter(dsn)) as bank:
        bank.prepare()
    return load_settings(
        lake=str(home / "lake"),
        work=home / "work",
        pipeline=shipped_folder(),  # the demo writes to the shipped sources only, whatever this user has declared
        postgres_dsn=dsn,
        postgres_tables=(),
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=TOPIC,
        kafka_config_file=None,
        max_future=0.0,  # event times run ahead of the clock
        publish_features=False,  # the embedded broker cannot abort a transaction, nor keep a position
        update_delay=0.0,
    )


def _cycle(settings: Settings, stack: ExitStack) -> Cycle:
    from fraud_lakehouse.ingest import accept
    from fraud_lakehouse.live import Cycle

    lake = Lake.at(settings.lake)
    if lake.exists("bronze", "card_transactions"):
        accept(settings, lake, "cards")  # our own broker keeps no log over a restart: its topic is always a new one
    return stack.enter_context(Cycle(settings))


def _run(cycle: Cycle, stopper: Stopper, progress: Progress, generators: Service) -> None:
    from fraud_lakehouse.live import run_until
    from fraud_lakehouse.live.background import Beside

    told = False

    def asked() -> bool:
        nonlocal told
        if not told and not generators.running and not stopper.stop.is_set():
            told = True
            typer.echo(f"the generators have ended: {generators.log_tail()}")
        return stopper.stop.is_set()

    with Beside(cycle.settings) as beside:
        run_until(cycle, beside, asked, progress.note)


def _drain(cycle: Cycle, stopper: Stopper, progress: Progress) -> None:
    """Cycles until every row generated has landed, then every layer."""
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
    typer.echo(f"Kafka       {settings.kafka_bootstrap_servers}, topic {TOPIC}")


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
