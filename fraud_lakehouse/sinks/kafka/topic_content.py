"""Reads back what a topic contains of a lake's features, to compare a rebuilt table with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from fraud_lakehouse.sinks.kafka.errors import PublishError, refuse
from fraud_lakehouse.sinks.kafka.feature_topic import (
    COUNT,
    DELETED,
    EPOCH,
    LAKE,
    MEAN,
    TRANS_NUM,
    VERSION,
    FeatureTopic,
    text_headers,
)
from fraud_lakehouse.sources.kafka.config import KafkaClients

ANSWER_SECONDS = 15.0
SILENT_SECONDS = 30.0
_DECODER = msgspec.json.Decoder()


@dataclass(frozen=True)
class Content:
    """The lake's messages in a topic.

    Args:
        count: number of messages.
        newest: the newest message of each key: the body's columns (times as text), `trans_num` if it is the key,
            `epoch`, `version`, `is_deleted`.
    """

    count: int
    newest: pl.DataFrame


def read_topic(clients: KafkaClients, topic: FeatureTopic, group: str, lake: str) -> Content:
    """Read the whole topic as a `read_committed` consumer and keep what this lake published.

    Raises:
        PublishError: the broker does not respond, or does not allow reading.
    """
    consumer = clients.consumer(group)
    rows: list[dict[str, Any]] = []
    try:
        partitions = consumer.list_topics(topic.name, ANSWER_SECONDS).topics[topic.name].partitions
        consumer.assign([TopicPartition(topic.name, number, OFFSET_BEGINNING) for number in partitions])
        left, heard = set(partitions), time.monotonic()
        while left:
            for message in consumer.consume(10_000, 0.5):
                heard = time.monotonic()
                error = message.error()
                if error is None:
                    _keep(rows, message, lake)
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    refuse(error)
            if time.monotonic() - heard > SILENT_SECONDS:
                refuse(KafkaError(KafkaError._TIMED_OUT, clients.last_error or "no answer"))
    except KafkaException as error:
        raise PublishError(
            f"topic {topic.name} could not be read back from {clients.bootstrap}: {error.args[0].str()}",
            f"allow this user READ on the topic {topic.name}; publishing is retried",
        ) from None
    finally:
        consumer.close()
    return Content(len(rows), _newest(rows, topic))


def _keep(rows: list[dict[str, Any]], message: Any, lake: str) -> None:
    headers = text_headers(message.headers())
    if headers.get(LAKE) != lake:
        return
    row: dict[str, Any] = _DECODER.decode(message.value())
    row["version"], row["epoch"] = int(headers[VERSION]), int(headers.get(EPOCH, 0))
    row["is_deleted"] = headers.get(DELETED) == "true"
    row["trans_num"] = headers.get(TRANS_NUM)
    rows.append(row)


def _newest(rows: list[dict[str, Any]], topic: FeatureTopic) -> pl.DataFrame:
    schema: dict[str, Any] = dict.fromkeys([*topic.body, "trans_num"], pl.String)
    schema |= {"user_id": pl.Int64, MEAN: pl.Float64, COUNT: pl.Int64}
    schema |= {"version": pl.Int64, "epoch": pl.Int64, "is_deleted": pl.Boolean}
    found = pl.DataFrame(rows, schema=schema)
    return found.sort("epoch", "version").unique(list(topic.key), keep="last", maintain_order=True)
