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
from pathlib import Path
from random import Random

from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.alert_receiver import Receiver
from tests.apache_kafka import ApacheKafka, ApacheKafkaMissingError
from tests.soak import landing_faults, live_faults
from tests.soak.landing_faults import Fault
from tests.soak.live_faults import LiveFault
from tests.soak.live_stand import LiveStand
from tests.soak.product import ProductError
from tests.soak.report import Report
from tests.soak.servers import ApacheSoakBroker, EmbeddedSoakBroker, Servers, SoakBroker, server_home
from tests.soak.stand import Stand

FAULTS_OF_A_LIFE = 40
WHOLE_EVERY = 5
GOLD_EVERY = 20
FRESH_PROCESS = 0.3
"""Share of the catch-ups that are a process of their own."""


def soak(home: Path, minutes: float, seed: int, broker: str) -> Report:
    """Run for about so many minutes, or until something is wrong."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(server_home(home / "postgres"), fsync=False))
        servers = stack.enter_context(Servers(postgres, _broker(stack, home / "kafka", broker)))
        report = Report(seed, servers.postgres_version, servers.broker.version)
        number = 0
        while time.monotonic() - began < 60 * minutes and report.verdict.clean:
            number += 1
            _life(report, servers, home / f"life-{number}", seed + number, began + 60 * minutes)
            report.seconds = time.monotonic() - began
    return report


def _life(report: Report, servers: Servers, home: Path, seed: int, until: float) -> None:
    dice = Random(seed)
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        stand = Stand(servers, home, seed, batch_rows=dice.choice([60, 300, 2_000]), alert_url=receiver.url)
        stack.callback(stand.close)
        life = stack.enter_context(LiveStand(stand, receiver))
        faults: list[Fault | LiveFault] = [dice.choice(landing_faults.SNAPSHOT)]
        faults += [_choice(dice, servers.broker.keeps) for _ in range(FAULTS_OF_A_LIFE)]
        for number, fault in enumerate(faults, 1):
            last = number == len(faults) or time.monotonic() > until
            _injected(report, life, fault)
            whole = last or isinstance(fault, LiveFault) or number % WHOLE_EVERY == 0
            _judged(report, life, fault, dice, whole=whole, gold=last or number % GOLD_EVERY == 0)
            if last or not report.verdict.clean:
                break
        report.add_workload(stand.ledger, len(stand.cards.published), len(life.alerts))
        report.recoveries += life.recoveries
        try:
            life.end()
        except ProductError as error:
            report.verdict.wrong(f"at the end of a life: {error}")
    if report.verdict.clean:
        shutil.rmtree(home)


def _injected(report: Report, life: LiveStand, fault: Fault | LiveFault) -> None:
    print(f"{time.strftime('%T')} {fault.name}", flush=True)
    report.faults[fault.kind] += 1
    try:
        if isinstance(fault, LiveFault):
            fault.inject(life)
        else:
            life.end()
            fault.inject(life.stand)
    except Exception as error:  # noqa: BLE001 (whatever it is, the report must tell it)
        report.verdict.wrong(f"{fault.name}: {type(error).__name__}: {error}")


def _judged(
    report: Report, life: LiveStand, fault: Fault | LiveFault, dice: Random, *, whole: bool, gold: bool
) -> None:
    """Catch up and compare: everything, or only bronze after a fault of landing."""
    try:
        if not (whole or gold):
            life.stand.drain()
            report.verdict.add(life.stand.judge())
            return
        life.settle(fresh_process=dice.random() < FRESH_PROCESS)
        report.verdict.add(life.judge(gold=gold))
    except Exception as error:  # noqa: BLE001 (whatever it is, the report must tell it)
        report.verdict.wrong(f"after {fault.name}: {type(error).__name__}: {error}")


def _choice(dice: Random, broker_keeps: bool) -> Fault | LiveFault:
    kinds: list[list[Fault | LiveFault]] = [
        [*landing_faults.LOG, *(landing_faults.APACHE if broker_keeps else [])],
        [*live_faults.KILLS, *live_faults.MORE_KILLS, *live_faults.model_kills()],
        [
            *live_faults.DISTURBANCES,
            *live_faults.MORE_DISTURBANCES,
            *([live_faults.BROKER_RESTART] if broker_keeps else []),
        ],
    ]
    return dice.choice(dice.choices(kinds, [3, 2, 3])[0])


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
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="fraud-lakehouse-soak-"))
    home.chmod(0o711)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are stopped
    print(f"seed {options.seed}", flush=True)
    report = soak(home, options.minutes, options.seed, options.broker)
    print(report.text(), flush=True)
    if report.verdict.clean:
        shutil.rmtree(home, ignore_errors=True)
        return 0
    print(f"the lake is kept in {home}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
