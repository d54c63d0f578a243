"""Whether a Kafka transaction hangs: it has been open too long, and committed records behind it wait."""

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
    """An open transaction and its assessment.

    Args:
        found: the facts.
        open_seconds: how long it has been open; None: unknown.
        hanging: whether that is too long.
        problem, fix: for the operator.
    """

    found: OpenTransaction
    open_seconds: float | None
    hanging: bool
    problem: str
    fix: str

    def evidence(self) -> dict[str, Any]:
        """Facts and messages as plain values; times in seconds."""
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
        bootstrap: the brokers, for the suggested commands.
        now: UTC; default: the clock.
    """
    now = now or datetime.now(UTC)
    return [_assess(one, limit, bootstrap, now) for one in found]


def current_transactions(topic: TopicConfig, settings: Settings) -> list[TransactionHealth]:
    """The open transactions of a topic, assessed now.

    Raises:
        SourceError: the broker does not respond.
    """
    with KafkaCapture(settings, topic) as capture:
        capture.set_blocking(False)
        found = capture.open_transactions()
    return assess(found, settings.kafka_transaction_seconds, topic.servers or "")


def _assess(one: OpenTransaction, limit: float, bootstrap: str, now: datetime) -> TransactionHealth:
    seconds = None if one.since is None else max(0.0, round((now - one.since).total_seconds(), 1))
    tool = f"kafka-transactions.sh --bootstrap-server {bootstrap}"
    place = f"--topic {one.topic} --partition {one.partition}"
    lasted = "for an unknown time" if seconds is None else f"for {seconds:,.0f} s"
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
