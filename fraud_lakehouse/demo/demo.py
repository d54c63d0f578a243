"""The demo from start to stop: embedded servers, generators, the live cycle, Dagster and the dbt docs.

Order of the start: servers, tables, one cycle (the backfill), generators, and only then what is merely looked at.
Order of the stop: what writes first, then the cycle drains both sources, then the servers; so nothing that was
generated is missing in the lake, though the embedded Kafka keeps its log in memory only.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.home import HomeLock
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.progress import Progress, distinct_cards
from fraud_lakehouse.demo.services import DagsterServices, DocsServer, Service, Watchdog
from fraud_lakehouse.demo.truth import BankTruth, CardTruth
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.settings import Settings, load_settings

if TYPE_CHECKING:
    from fraud_lakehouse.live import Cycle

TOPIC = "transaction"
DOCS_PORT = 8580
_BATCH_EVERY = 120  # seconds between the runs that Dagster's sensors request beside the demo's own live cycle
_DRAIN_SECONDS = 60.0


@dataclass
class Stopper:
    """Set by the first signal or when the time is over; `hurry` by the second signal."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    deadline: float | None = None

    def asked(self) -> bool:
        """Whether the demo is to stop."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.stop.set()
        return self.stop.is_set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop; the second time, hurry; the third time, at once."""
        if self.hurry.is_set():
            raise KeyboardInterrupt
        if self.stop.is_set():
            self.hurry.set()
            _say("stopping without draining the sources")
        else:
            _say("stopping: generators first, then what is under way (Ctrl-C again to hurry)")
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
    home = home.resolve()
    stopper = Stopper()
    with HomeLock(home), _signals(stopper), ExitStack() as stack:
        guard = Watchdog()
        stack.callback(guard.close)
        settings, postgres, kafka = _servers(home, stack, guard)
        bank, cards = BankTruth(_dsn(settings)), CardTruth(home, TOPIC)
        stack.callback(bank.close)
        _describe(home, settings)
        cycle = _cycle(settings, stack)
        progress = Progress(cycle.lake, bank, cards, _say)
        begin = distinct_cards(cycle.lake)
        stack.callback(progress.stop)
        progress.note(cycle.run())  # the backfill, before anything moves
        progress.level()
        progress.start()
        env = _environment(settings)
        command = [sys.executable, "-m", "fraud_lakehouse.demo.generate", f"--rate={rate}", f"--home={home}"]
        generators = Service("the generators", [*command, f"--begin={begin}"], home / "logs" / "generators.log", env=env)
        generators.start(guard)
        stack.callback(generators.stop)
        stopper.deadline = None if seconds is None else time.monotonic() + seconds
        watched = _Interface(home, env, guard, stopper.stop) if ui else None
        if watched is not None:
            stack.callback(watched.stop)
        _run(cycle, stopper, progress, generators)
        generators.stop()
        if watched is not None:
            watched.stop()
        progress.stop()
        if not stopper.hurry.is_set():
            _drain(cycle, stopper, progress)
        progress.refresh(everything=not progress.missing())
        _say(progress.summary())
    return 0


class _Interface:
    """Dagster and the dbt docs, started in the background while the cycle runs already."""

    def __init__(self, home: Path, env: dict[str, str], guard: Watchdog, stop: threading.Event) -> None:
        self._home = home
        self._guard = guard
        self._stop = stop
        self._dagster = DagsterServices(home, {**env, "FRAUD_UPDATE_DELAY": str(_BATCH_EVERY)})
        self._site = DocsServer(home / "docs", DOCS_PORT)
        command = [sys.executable, "-m", "fraud_lakehouse.cli", "docs", f"--folder={home / 'docs'}"]
        self._writer = Service("dbt's documentation", command, home / "logs" / "docs.log", env=env, nice=True)
        _say(f"Dagster UI  {self._dagster.url}  (coming up)")
        _say(f"dbt docs    {self._site.url}  (coming up)")
        self._thread = threading.Thread(target=self._start, name="interface")
        self._thread.start()

    def stop(self) -> None:
        """Stop both; does nothing the second time."""
        self._stop.set()
        self._thread.join()
        self._dagster.stop()
        self._writer.stop()
        if self._site is not None:
            self._site.close()

    def _start(self) -> None:
        try:
            if self._dagster.start(self._guard, self._stop):
                _say(f"Dagster UI is ready: {self._dagster.url}")
            if not self._stop.is_set():
                self._writer.start(self._guard)
            while self._writer.running and not self._stop.wait(0.2):
                pass
            if not self._stop.is_set():
                _say(f"dbt docs are ready: {self._site.url}")
        except LakehouseError as error:
            _say(f"the demo goes on without it: {error}")


def _servers(home: Path, stack: ExitStack, guard: Watchdog) -> tuple[Settings, EmbeddedPostgres, EmbeddedKafka]:
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
    stack.callback(lambda: postgres.pid and guard.release(postgres.pid))
    # One partition: 15 s of allowed lateness are 17 ms at this speed of event time, less than partitions differ by.
    kafka.create_topic(TOPIC, 1)
    BankWriter(dsn).prepare()
    settings = load_settings(
        lake=str(home / "lake"),
        work=home / "work",
        postgres_dsn=dsn,
        postgres_tables=(),
        kafka_bootstrap_servers=bootstrap,
        kafka_topic=TOPIC,
        kafka_config_file=None,
        update_delay=0.0,
    )
    return settings, postgres, kafka


def _cycle(settings: Settings, stack: ExitStack) -> Cycle:
    from fraud_lakehouse.lake.ingest import accept
    from fraud_lakehouse.live import Cycle

    lake = Lake.at(settings.lake)
    if lake.exists("bronze", "card_transactions"):
        accept(settings, lake, "kafka")  # our own broker keeps no log over a restart: its topic is always a new one
    return stack.enter_context(Cycle(settings))


def _run(cycle: Cycle, stopper: Stopper, progress: Progress, generators: Service) -> None:
    from fraud_lakehouse.live import run_until

    told = False

    def asked() -> bool:
        nonlocal told
        if not told and not generators.running and not stopper.stop.is_set():
            told = True
            _say(f"the generators have ended: {generators.log_tail()}")
        return stopper.asked()

    run_until(cycle, asked, progress.note)


def _drain(cycle: Cycle, stopper: Stopper, progress: Progress) -> None:
    """Cycles until every row generated has landed, then every layer."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while progress.missing() and time.monotonic() < deadline and not stopper.hurry.is_set():
        progress.note(cycle.run(strict=True))
    if not stopper.hurry.is_set():
        cycle.catch_up(progress.note)


def _describe(home: Path, settings: Settings) -> None:
    _say(f"home        {home}")
    _say(f"lake        {settings.lake}")
    _say(f"PostgreSQL  {_dsn(settings).partition('password')[0].strip()} (password in {home / 'postgres.password'})")
    _say(f"Kafka       {settings.kafka_bootstrap_servers}, topic {TOPIC}")


def _dsn(settings: Settings) -> str:
    assert settings.postgres_dsn is not None
    return settings.postgres_dsn.get_secret_value()


def _environment(settings: Settings) -> dict[str, str]:
    """Our environment with the demo's settings in it, for child processes."""
    own = {
        "FRAUD_LAKE": settings.lake,
        "FRAUD_WORK": str(settings.work_dir),
        "FRAUD_POSTGRES_DSN": _dsn(settings),
        "FRAUD_POSTGRES_TABLES": "",
        "FRAUD_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers or "",
        "FRAUD_KAFKA_TOPIC": settings.kafka_topic,
        "FRAUD_KAFKA_CONFIG_FILE": "",
        "FRAUD_UPDATE_DELAY": "",
    }
    return {**os.environ, **own}


@contextmanager
def _signals(stopper: Stopper) -> Iterator[None]:
    before = {number: signal.signal(number, stopper.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("fraud_lakehouse").setLevel(logging.WARNING)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, flush=True)
