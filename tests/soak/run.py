"""The soak: `python -m tests.soak.run --minutes 30 --seed 7`. Exit code 1 if anything was lost; the lake is kept then.

Lives follow each other: a new database, topic and lake, killed in its first snapshot, then faults in an order that
the seed decides, each followed by a verdict on what it could have harmed; at the end gold is recomputed from bronze.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random

from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.alert_receiver import Receiver
from tests.apache_kafka import ApacheKafka, ApacheKafkaMissingError
from tests.soak import landing_faults
from tests.soak.deck import AnyFault, rounds
from tests.soak.hostile_destination import HostileDestination
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand
from tests.soak.product import ProductError
from tests.soak.report import Report
from tests.soak.servers import ApacheSoakBroker, EmbeddedSoakBroker, Servers, SoakBroker, server_home
from tests.soak.stand import Stand
from tests.soak.wall_clock import WallClock

FAULTS_OF_A_LIFE = 45
WHOLE_EVERY = 4
GOLD_EVERY = 20
FRESH_PROCESS = 0.1
"""Share of the catch-ups that are a process of their own."""


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        minutes: about how long.
        seed: of the workload and of the order of faults.
        only: a regular expression, found in the names of all faults but the first.
    """

    minutes: float
    seed: int
    only: str


def soak(home: Path, plan: Plan, broker: str) -> Report:
    """Run for about so many minutes, or until something is wrong."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        clock = WallClock(home / "clock")
        postgres = stack.enter_context(EmbeddedPostgres(server_home(home / "postgres"), fsync=False))
        servers = stack.enter_context(Servers(postgres, _broker(stack, home / "kafka", broker)))
        report = Report(plan.seed, servers.postgres_version, servers.broker.version)
        dice = Random(plan.seed)
        faults = chain.from_iterable(rounds(dice, servers.broker.keeps, plan.only))
        until = began + 60 * plan.minutes
        while time.monotonic() < until and report.result.clean:
            seed = plan.seed + report.lives + 1
            _life(report, servers, clock, home / f"life-{seed}", seed, faults, until)
            report.seconds = time.monotonic() - began
    return report


def _life(
    report: Report, servers: Servers, clock: WallClock, home: Path, seed: int, faults: Iterator[AnyFault], until: float
) -> None:
    dice = Random(seed)
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        hostile = stack.enter_context(HostileDestination())
        stand = Stand(
            servers,
            home,
            seed,
            batch_rows=dice.choice([300, 1_000, 2_000]),
            alert_urls=[receiver.url, hostile.url],
            clock=clock,
        )
        stack.callback(stand.close)
        life = stack.enter_context(LiveStand(stand, receiver, hostile))
        first: AnyFault = dice.choice(landing_faults.SNAPSHOT)
        for number, fault in enumerate(chain([first], islice(faults, FAULTS_OF_A_LIFE)), 1):
            last = number > FAULTS_OF_A_LIFE or time.monotonic() > until
            began = time.monotonic()
            _injected(report, life, fault)
            whole = last or isinstance(fault, LiveFault) or number % WHOLE_EVERY == 0
            gold = last or number % GOLD_EVERY == 0 or (isinstance(fault, LiveFault) and fault.rebuild)
            injected = time.monotonic() - began
            _judged(report, life, fault, dice, whole=whole, gold=gold)
            print(f"{time.strftime('%T')} {injected:5.1f} + {time.monotonic() - began - injected:.1f} s {fault.name}")
            sys.stdout.flush()
            if last or not report.result.clean:
                break
        if report.result.clean:
            report.result.add(life.check_last_deliveries())
        report.add_life(life)
        try:
            life.end()
        except ProductError as error:
            report.result.wrong(f"at the end of a life: {error}")
    if report.result.clean:
        shutil.rmtree(home)


def _injected(report: Report, life: LiveStand, fault: AnyFault) -> None:
    report.faults[fault.kind] += 1
    try:
        if isinstance(fault, LiveFault):
            fault.inject(life)
        else:
            life.end()
            fault.inject(life.stand)
    except Exception as error:  # noqa: BLE001 (whatever it is, the report must tell it)
        report.result.wrong(f"{fault.name}: {type(error).__name__}: {error}")


def _judged(report: Report, life: LiveStand, fault: AnyFault, dice: Random, *, whole: bool, gold: bool) -> None:
    """Catch up and compare: everything, or only bronze after a fault of ingestion."""
    try:
        if not (whole or gold):
            life.stand.drain()
            report.result.add(life.stand.judge())
            return
        life.settle(fresh_process=dice.random() < FRESH_PROCESS)
        report.result.add(life.judge(gold=gold))
    except Exception as error:  # noqa: BLE001 (whatever it is, the report must tell it)
        report.result.wrong(f"after {fault.name}: {type(error).__name__}: {error}")


def _broker(stack: contextlib.ExitStack, home: Path, wanted: str) -> SoakBroker:
    if wanted != "embedded":
        server = ApacheKafka(home)
        home.mkdir(parents=True)
        stack.callback(server.stop)
        try:
            server.start()
            return ApacheSoakBroker(server)
        except ApacheKafkaMissingError as reason:
            if wanted == "apache":
                sys.exit(f"error: {reason}")
            print(f"on the embedded broker, because of Apache Kafka: {reason}", flush=True)
    return EmbeddedSoakBroker(stack.enter_context(EmbeddedKafka(home)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--broker", choices=["auto", "apache", "embedded"], default="auto")
    parser.add_argument("--only", default="", metavar="REGEX", help="only faults whose names match")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-soak-"))
    home.chmod(0o711)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are stopped
    print(f"seed {options.seed}", flush=True)
    report = soak(home, Plan(options.minutes, options.seed, options.only), options.broker)
    print(report.text(), flush=True)
    if report.result.clean:
        shutil.rmtree(home, ignore_errors=True)
        return 0
    print(f"the lake is kept in {home}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
