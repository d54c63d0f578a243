"""What tests of publishing share: `_versions` tables made by hand, and a topic read as a consumer of it would."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from fraud_lakehouse.sinks.kafka.feature_topic import feature_topics, text_headers
from fraud_lakehouse.storage.lake import Lake
from tests.numbered import commit

OVER, TUMBLE = feature_topics("")
START = datetime(2024, 1, 1)  # noqa: DTZ001 event times have no zone
NOW = datetime(2024, 6, 1, tzinfo=UTC)
Row = dict[str, Any]
SCHEMAS: dict[str, dict[str, Any]] = {
    OVER.table: {
        "trans_num": pl.String,
        "user_id": pl.Int64,
        "trans_date_trans_time": pl.Datetime("us"),
        "user_mean_trans_amt_last_360min": pl.Float64,
        "user_trans_count_last_360min": pl.Int64,
        "version": pl.Int32,
        "known_at": pl.Datetime("us", "UTC"),
    },
    TUMBLE.table: {
        "window_start": pl.Datetime("us"),
        "window_end": pl.Datetime("us"),
        "user_id": pl.Int64,
        "user_mean_trans_amt_last_360min": pl.Float64,
        "user_trans_count_last_360min": pl.Int64,
        "version": pl.Int32,
        "known_at": pl.Datetime("us", "UTC"),
        "is_deleted": pl.Boolean,
    },
}


def over_row(number: int, version: int = 1, **others: Any) -> Row:
    """A row of the OVER table; three in a row share their event time, some have no user."""
    row = {
        "trans_num": f"t{number:05}",
        "user_id": None if number % 11 == 10 else number % 4 - 2,
        "trans_date_trans_time": START + timedelta(seconds=number // 3),
        "user_mean_trans_amt_last_360min": number / 3,
        "user_trans_count_last_360min": number % 5,
    }
    return row | {"version": version, "known_at": NOW} | others


def window_row(number: int, version: int = 1, **others: Any) -> Row:
    """A row of the TUMBLE table: four users a window, one of them nobody."""
    start = START + timedelta(hours=6 * (number // 4))
    row = {
        "window_start": start,
        "window_end": start + timedelta(hours=6),
        "user_id": None if number % 4 == 3 else number % 4,
        "user_mean_trans_amt_last_360min": number / 7,
        "user_trans_count_last_360min": 1 + number % 5,
    }
    return row | {"version": version, "known_at": NOW, "is_deleted": False} | others


def add(lake: Lake, table: str, rows: list[Row], mode: Any = "append") -> None:
    """One commit."""
    commit(lake.uri("gold", table), pl.DataFrame(rows, schema=SCHEMAS[table], orient="row"), mode)


def identity(row: Row) -> tuple[Any, ...]:
    """What is unique in a table: the key and the version."""
    key = (row["trans_num"],) if "trans_num" in row else (str(row["window_start"]), row["user_id"])
    return (*key, row["version"])


def read_back(bootstrap: str, topic: str) -> list[tuple[str | None, Row, dict[str, str]]]:
    """Key, body and headers of every message, as a `read_committed` consumer sees them."""
    config = {"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": "read_committed"}
    others = {"enable.partition.eof": True, "enable.auto.commit": False, "log_level": 0, "fetch.wait.max.ms": 50}
    consumer = Consumer(config | others)
    found = []
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        left = set(partitions)
        while left:
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    key = message.key()
                    found.append(
                        (key.decode() if key else None, json.loads(message.value()), text_headers(message.headers()))
                    )
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    left.discard(message.partition())
    finally:
        consumer.close()
    return found


def reported(messages: list[tuple[str | None, Row, dict[str, str]]]) -> list[tuple[Any, ...]]:
    """The identity of the row of each message."""
    return [
        (headers["trans_num"], int(headers["version"]))
        if "trans_num" in headers
        else (body["window_start"], body["user_id"], int(headers["version"]))
        for _, body, headers in messages
    ]
