"""Runs the generators: the bank's operations into PostgreSQL, card payments and bank transfers into Kafka.

As a program (`python -m fraud_lakehouse.demo.generate`) it is the demo's child process. `fraud-lakehouse generate` uses
the same function to fill the user's sources.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fraud_lakehouse.demo.accounts import SEED as ACCOUNT_SEED
from fraud_lakehouse.demo.accounts import changes, users
from fraud_lakehouse.demo.accounts import encode as encode_change
from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.demo.cards import BLOCK, CardStream, first_checkpoint
from fraud_lakehouse.demo.records import Made, RecordWriter
from fraud_lakehouse.demo.transfers import SEED as TRANSFER_SEED
from fraud_lakehouse.demo.transfers import encode as encode_transfer
from fraud_lakehouse.demo.transfers import transfers
from fraud_lakehouse.demo.truth import CardTruth, Generated, RecordTruth
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.sources.kafka.config import TopicConfig, shipped_topic

SEED = 7
TRANSFERS = "bank_transfers"
PAYMENTS, USERS = "user_transaction", "auth_user"
TRANSFER_SHARE = 5.0  # records of cards for each transfer, and for each change of the web shop


class CardWriter(RecordWriter):
    """Publishes the card stream; also stores checkpoints, from which it continues.

    Args:
        settings: name the broker and the topic.
        truth: stores truth, checkpoints and progress.
        rate: records per second.
        begin: number of records to generate but not send. None: continue after the last one sent.

    Raises:
        SourceError: the broker cannot be reached.
    """

    def __init__(
        self, settings: Settings, truth: CardTruth, rate: float, begin: int | None = None, seed: int = SEED
    ) -> None:
        super().__init__(replace(shipped_topic(settings), topic=settings.kafka_topic), truth, rate)
        self._checkpoints = truth
        self._stream = self._resume(seed, truth.generated().rows if begin is None else begin)

    @property
    def number(self) -> int:
        """Records generated so far."""
        return self._stream.number

    def next(self) -> Made:
        """The next record."""
        purchase = next(self._stream)
        if self._stream.number % BLOCK == 0:
            self._checkpoints.add_checkpoint(self._stream.checkpoint())
        return Made(encode(purchase.record), purchase.record.trans_num, purchase.kind, purchase.case)

    def _resume(self, seed: int, begin: int) -> CardStream:
        truth = self._checkpoints
        checkpoint = truth.checkpoint_before(begin)
        if checkpoint is None:
            checkpoint = first_checkpoint(self.rate)
            truth.add_checkpoint(checkpoint)
        stream = CardStream(seed, checkpoint)
        for _ in range(begin - checkpoint.number):
            next(stream)
        if checkpoint.step != first_checkpoint(self.rate).step:
            truth.forget_after(begin)
            truth.add_checkpoint(stream.retime(self.rate))
        truth.save_progress(Generated(begin, datetime.now(UTC)))
        return stream


class TransferWriter(RecordWriter):
    """Publishes the stream of bank transfers; otherwise as CardWriter."""

    def __init__(self, topic: TopicConfig, truth: RecordTruth, rate: float, begin: int | None = None) -> None:
        super().__init__(topic, truth, rate)
        self._number = truth.generated().rows if begin is None else begin
        self._stream = transfers(TRANSFER_SEED, self._number)
        truth.save_progress(Generated(self._number, datetime.now(UTC)))

    @property
    def number(self) -> int:
        """Records generated so far."""
        return self._number

    def next(self) -> Made:
        """The next record."""
        transfer = next(self._stream)
        self._number += 1
        return Made(encode_transfer(transfer), transfer.transaction_id, transfer.kind, transfer.case)


class UserWriter(RecordWriter):
    """Publishes the web shop's users, all of them once."""

    def __init__(self, topic: TopicConfig, truth: RecordTruth) -> None:
        super().__init__(topic, truth, 0.0)
        self._users = [*users(ACCOUNT_SEED)]
        self._number = 0

    @property
    def number(self) -> int:
        """Records generated so far."""
        return self._number

    def next(self) -> Made:
        """The next record."""
        user = self._users[self._number]
        self._number += 1
        return Made(encode_change(user), user.transaction_id, None, None)

    def write_all(self, stop: threading.Event) -> None:
        """Publish all that have not been published."""
        self.write(len(self._users) - self._number, stop)


class AccountWriter(RecordWriter):
    """Publishes changes of the web shop's payments; otherwise as TransferWriter."""

    def __init__(self, topic: TopicConfig, truth: RecordTruth, rate: float, begin: int | None = None) -> None:
        super().__init__(topic, truth, rate)
        self._number = truth.generated().rows if begin is None else begin
        self._stream = changes(ACCOUNT_SEED, self._number)
        truth.save_progress(Generated(self._number, datetime.now(UTC)))

    @property
    def number(self) -> int:
        """Records generated so far."""
        return self._number

    def next(self) -> Made:
        """The next record."""
        change = next(self._stream)
        self._number += 1
        return Made(encode_change(change), change.transaction_id, change.kind, change.case)


def topic_of(settings: Settings, table: str) -> TopicConfig | None:
    """The topic of a bronze table; None where the pipeline declares none, or its servers are not set."""
    configs = configured_sources(settings).values()
    topics = [one for one in configs if isinstance(one, TopicConfig) and one.table == table]
    return topics[0] if topics else None


def run_generators(
    settings: Settings,
    rate: float,
    stop: threading.Event,
    home: Path | None = None,
    begin: int | None = None,
    begin_transfers: int | None = None,
    begin_accounts: int | None = None,
) -> None:
    """Write to every configured source, `rate` operations or records per second each, until `stop` is set.

    Transfers and changes of the web shop come a fifth as often.

    Args:
        settings: name the sources.
        rate: operations and records per second.
        stop: ends all.
        home: stores truth and progress in `<home>/truth`; default: the work folder.
        begin: number of card records already in the lake, not to be sent again (see `CardWriter`).
        begin_transfers, begin_accounts: the same of transfers and of the web shop's changes.

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
    if (topic := topic_of(settings, TRANSFERS)) is not None:
        sent = RecordTruth.of_transfers(home or settings.work_dir, topic.topic)
        writer = TransferWriter(topic, sent, rate / TRANSFER_SHARE, begin_transfers)
        works.append(lambda: writer.run(stop))
    payments, people = topic_of(settings, PAYMENTS), topic_of(settings, USERS)
    if payments is not None and people is not None:
        folder = home or settings.work_dir
        UserWriter(people, RecordTruth(folder, "users", "accounts.auth_user")).write_all(stop)
        accounts = AccountWriter(payments, RecordTruth.of_accounts(folder), rate / TRANSFER_SHARE, begin_accounts)
        works.append(lambda: accounts.run(stop))
    if not works:
        raise SettingsError("no source is configured", "set FRAUD_POSTGRES_DSN, FRAUD_KAFKA_BOOTSTRAP_SERVERS or both")
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        wait(running, return_when=FIRST_EXCEPTION)
        stop.set()  # a failure of one ends the others
        for each in running:
            each.result()


def main() -> None:
    """Generate until SIGTERM or SIGINT; the sources come from the environment (FRAUD_...)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rate", type=float, default=50.0, help="operations and records per second")
    parser.add_argument("--home", type=Path, help="folder for truth and progress, in its subfolder truth")
    parser.add_argument("--begin", type=int, help="card records not to send again")
    parser.add_argument("--begin-transfers", type=int, help="transfers not to send again")
    parser.add_argument("--begin-accounts", type=int, help="changes of the web shop not to send again")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_generators(
        load_settings(),
        arguments.rate,
        stop,
        arguments.home,
        arguments.begin,
        arguments.begin_transfers,
        arguments.begin_accounts,
    )


if __name__ == "__main__":
    main()
