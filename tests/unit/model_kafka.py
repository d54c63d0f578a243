"""A topic and its capture, as a model that keeps the contract of `KafkaCapture`.

What is tested against it lies in `test_kafka_ingest`; real brokers are in tests/integration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import polars as pl

from fraud_lakehouse.sources.kafka.capture import KafkaBatch, PartitionLag
from fraud_lakehouse.sources.kafka.topic import KafkaTopic, RetentionGapError
from tests.fixtures_kafka import CARD_SCHEMA

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@dataclass
class ModelTopic:
    """A topic: partition -> values by offset; `start` is where retention has come to.

    Every record has the same `event_time`; the broker does not answer while it `is_silent`.
    """

    partitions: int = 2
    topic_id: str = "T1"
    event_time: str | None = None
    is_silent: bool = False
    records: dict[int, list[int]] = field(default_factory=dict)
    start: dict[int, int] = field(default_factory=dict)

    def publish(self, partition: int, value: int) -> None:
        self.records.setdefault(partition, []).append(value)


class ModelKafka:
    """The contract of KafkaCapture over a ModelTopic."""

    def __init__(self, model: ModelTopic) -> None:
        self.model = model
        self.group: dict[str, int] = {}
        self._ends: dict[str, int] | None = None

    @property
    def topic(self) -> KafkaTopic:
        return KafkaTopic("transaction", "C1", self.model.topic_id, self.model.partitions)

    def preflight(self) -> None:
        pass

    def close(self) -> None:
        pass

    def read(
        self,
        positions: Mapping[str, int | None],
        max_rows: int,
        timeout: float,
        max_bytes: int,
        *,
        fail_fast: bool = False,
    ) -> KafkaBatch | None:
        assert timeout == 0
        self._ends = None
        if self.model.is_silent:
            return None
        more = False
        rows: list[dict[str, Any]] = []
        after: dict[str, int] = {}
        first: dict[str, int] = {}
        for number in range(self.model.partitions):
            app_id = self.topic.app_id(number)
            known = positions.get(app_id)
            begin = self.model.start.get(number, 0) if known is None else known
            if begin < self.model.start.get(number, 0):
                raise RetentionGapError(f"partition {number}: {begin} is gone", "accept")
            values = self.model.records.get(number, [])[begin : begin + max_rows - len(rows)]
            for offset, value in enumerate(values, begin):
                place = {"_topic": self.topic.name, "_partition": number, "_offset": offset, "_timestamp": NOON}
                rows.append({"user_id": value, "trans_date_trans_time": self.model.event_time, **place})
            after[app_id] = begin + len(values)
            more |= after[app_id] < len(self.model.records.get(number, []))
            if values:
                first[app_id] = begin
        if not rows:
            self._ends = after
            return None
        return KafkaBatch(pl.DataFrame(rows, schema=CARD_SCHEMA), after, first, NOON, more)

    def confirmed_ends(self) -> dict[str, int] | None:
        return self._ends

    def commit_group(self, positions: Mapping[str, int]) -> None:
        self.group = dict(positions)

    def lag(self, positions: Mapping[str, int | None]) -> Any:
        ends = {n: len(self.model.records.get(n, [])) for n in range(self.model.partitions)}
        found = {
            self.topic.app_id(n): PartitionLag(positions.get(self.topic.app_id(n)), self.model.start.get(n, 0), end, 0)
            for n, end in ends.items()
        }
        return SimpleNamespace(partitions=found)
