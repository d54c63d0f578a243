"""Whether an open Kafka transaction hangs: it has been open for too long, and what is committed behind it waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.capture import KafkaCapture
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.sources.kafka.transactions import OpenTransaction


@dataclass(frozen=True)
class TransactionHealth:
    """An open transaction and what is to be said of it.

    Args:
        found: the facts.
        open_seconds: how long it has been open; None: not known.
        hanging: whether that is too long.
        problem, fix: for people.
    """

    found: OpenTransaction
    open_seconds: float | None
    hanging: bool
    problem: str
    fix: str

    def evidence(self) -> dict[str, Any]:
        """Facts and words as plain values; times in seconds."""
        return {
            "partition": self.found.partition,
            "last_stable_offset": self.found.last_stable_offset,
            "high_watermark": self.found.high_watermark,
            "waiting": self.found.waiting,
            "open_seconds": self.open_seconds,
            "hanging": self.hanging,
            "problem": self.problem,
            "fix": self.fix,
        }


def assess(
    found: Sequence[OpenTransaction], limit: float, bootstrap: str, now: datetime | None = None
) -> list[TransactionHealth]:
    """Decide which open transactions of a topic hang.

    Args:
        limit: seconds that a transaction may be open (FRAUD_KAFKA_TRANSACTION_SECONDS).
        bootstrap: the brokers, for the commands that people are given.
        now: UTC; default: the clock.
    """
    now = now or datetime.now(UTC)
    return [_assess(one, limit, bootstrap, now) for one in found]


def current_transactions(settings: Settings, topic: TopicConfig | None = None) -> list[TransactionHealth]:
    """The open transactions of a topic, assessed now.

    Args:
        topic: default: the one that the settings are shorthand for.

    Raises:
        SourceError: the broker does not answer.
    """
    with KafkaCapture(settings, topic) as capture:
        capture.be_patient(False)
        found = capture.open_transactions()
        return assess(found, settings.kafka_transaction_seconds, capture.config.servers or "")


def _assess(one: OpenTransaction, limit: float, bootstrap: str, now: datetime) -> TransactionHealth:
    seconds = None if one.since is None else max(0.0, round((now - one.since).total_seconds(), 1))
    tool = f"kafka-transactions.sh --bootstrap-server {bootstrap}"
    place = f"--topic {one.topic} --partition {one.partition}"
    lasted = "for a time that its records do not say" if seconds is None else f"for {seconds:,.0f} s"
    return TransactionHealth(
        one,
        seconds,
        seconds is not None and seconds >= limit,
        f"a transaction in partition {one.partition} of topic {one.topic} has been open {lasted}: reading stops at the"
        f" last stable offset {one.last_stable_offset}, and {one.waiting:,} records up to the high watermark"
        f" {one.high_watermark} wait",
        f"let its producer commit, or stop the producer (`{tool} describe-producers {place}` names it); if it is gone:"
        f" `{tool} abort {place} --start-offset {one.last_stable_offset}` ends the transaction, whose own records then"
        f" count as never written (`{tool} find-hanging {place}` lists those that no coordinator will end)",
    )
