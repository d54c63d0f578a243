"""Runs both generators: the bank's operations into PostgreSQL, the card stream into Kafka.

As a program (`python -m fraud_lakehouse.demo.generate`) it is the demo's child process. `fraud-lakehouse generate` uses
the same function to fill the user's sources.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from confluent_kafka import KafkaError, Message

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.cards import BLOCK, CardStream, first_checkpoint
from fraud_lakehouse.demo.truth import Anomaly, CardTruth, Generated
from fraud_lakehouse.errors import SettingsError, SourceError
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.kafka.config import KafkaClients, shipped_topic
from fraud_lakehouse.sources.kafka.topic import KafkaSource, TopicMissingError

SEED = 7
_TICK = 0.05  # seconds
_log = logging.getLogger(__name__)


class CardWriter:
    """Publishes the card stream; writes truth and progress once the broker has acknowledged the records.

    Args:
        settings: name the broker and the topic, which is created with one partition if it does not exist.
        truth: stores truth, checkpoints and progress.
        rate: records per second.
        begin: number of records to generate but not send. None: continue after the last one sent.

    Raises:
        SourceError: the broker cannot be reached.
    """

    def __init__(
        self, settings: Settings, truth: CardTruth, rate: float, begin: int | None = None, seed: int = SEED
    ) -> None:
        clients = KafkaClients(shipped_topic(settings))
        source = KafkaSource(clients, settings.kafka_topic)
        try:
            source.describe()
        except TopicMissingError:
            # One partition: at this speed of event time, partitions differ by more than the allowed lateness of 15 s.
            source.create()
        finally:
            source.close()
        self._topic = settings.kafka_topic
        self._truth = truth
        self._rate = rate
        self._failed: KafkaError | None = None
        self._producer = clients.producer()
        self._stream = self._resume(seed, truth.generated().rows if begin is None else begin)

    def write(self, count: int, stop: threading.Event) -> None:
        """Publish the next `count` records; returns once the broker has acknowledged them, or when `stop` is set.

        Raises:
            SourceError: the broker rejected a record.
        """
        millisecond = time.time_ns() // 1_000_000
        now = datetime.fromtimestamp(millisecond / 1000, UTC)
        anomalies: list[Anomaly] = []
        for purchase in islice(self._stream, count):
            if purchase.kind and purchase.case:
                anomalies.append(Anomaly(purchase.record.trans_num, purchase.kind, purchase.case, now))
            self._publish(encode(purchase.record), millisecond)
            if self._stream.number % BLOCK == 0:
                self._truth.add_checkpoint(self._stream.checkpoint())
        while self._producer.flush(0.2) > 0:
            if stop.is_set() and self._producer.flush(5.0) > 0:
                return  # the broker is unreachable: the next start generates the unacknowledged records again
        if self._failed is not None:
            raise SourceError(f"Kafka rejected a record: {self._failed.str()}", "see the broker's log")
        self._truth.append(anomalies)
        self._truth.save_progress(Generated(self._stream.number, now))

    def run(self, stop: threading.Event) -> None:
        """Publish at the rate until `stop` is set."""
        start, done = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - start) * self._rate) - done
            if due > 0:
                self.write(min(due, max(1, int(self._rate))), stop)  # after an outage, one second's records at once
                done += due
            stop.wait(_TICK if self._rate > 1 / _TICK else min(1 / self._rate, 0.5))

    def _resume(self, seed: int, begin: int) -> CardStream:
        checkpoint = self._truth.checkpoint_before(begin)
        if checkpoint is None:
            checkpoint = first_checkpoint(self._rate)
            self._truth.add_checkpoint(checkpoint)
        stream = CardStream(seed, checkpoint)
        for _ in range(begin - checkpoint.number):
            next(stream)
        if checkpoint.step != first_checkpoint(self._rate).step:
            self._truth.forget_after(begin)
            self._truth.add_checkpoint(stream.retime(self._rate))
        self._truth.save_progress(Generated(begin, datetime.now(UTC)))
        return stream

    def _publish(self, value: bytes, timestamp: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, timestamp=timestamp, on_delivery=self._delivered)
            except BufferError:  # the queue is full: wait for the broker
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._failed = error or self._failed


def run_generators(
    settings: Settings, rate: float, stop: threading.Event, home: Path | None = None, begin: int | None = None
) -> None:
    """Write to every configured source, `rate` operations or records per second each, until `stop` is set.

    Args:
        settings: name the sources.
        rate: operations and records per second.
        stop: ends both.
        home: stores truth and progress in `<home>/truth`; default: the work folder.
        begin: number of card records already in the lake, not to be sent again (see `CardWriter`).

    Raises:
        SettingsError: no source is configured.
        SourceError: Kafka rejected a record.
    """
    works: list[Callable[[], None]] = []
    if settings.postgres_dsn is not None:
        bank = BankWriter(settings.postgres_dsn.get_secret_value(), SEED)
        works.append(lambda: bank.run(rate, stop))
    if settings.kafka_bootstrap_servers is not None:
        truth = CardTruth(home or settings.work_dir, settings.kafka_topic)
        cards = CardWriter(settings, truth, rate, begin)
        works.append(lambda: cards.run(stop))
    if not works:
        raise SettingsError("no source is configured", "set FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS or both")
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        wait(running, return_when=FIRST_EXCEPTION)
        stop.set()  # a failure of one ends the other
        for each in running:
            each.result()


def main() -> None:
    """Generate until SIGTERM or SIGINT; the sources come from the environment (FRAUD_...)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rate", type=float, default=50.0, help="operations and records per second")
    parser.add_argument("--home", type=Path, help="folder for truth and progress, in its subfolder truth")
    parser.add_argument("--begin", type=int, help="card records not to send again")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_generators(load_settings(), arguments.rate, stop, arguments.home, arguments.begin)


if __name__ == "__main__":
    main()
