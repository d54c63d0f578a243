"""1,000,000 card records from Kafka into typed, fsynced Delta, beside a bare `consume` loop that only counts them.

Alternately, on the same broker: the bare loop with the product's client properties (10,000 records a call), and the
product's landing from an empty lake to the commit of the last record, connecting and first commits included. Medians.
With --changes the records are Debezium's change envelopes without schema, of about 520 bytes and 5 columns.
The broker is the embedded one, or with --apache real Apache Kafka, where `tests/apache_kafka.py` can fetch it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from confluent_kafka import Producer, TopicPartition

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.catch_up import load_kafka
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.ingest.kafka import KafkaIngest
from fraud_lakehouse.pipeline import Field
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import ChangeFormat, KafkaClients, TopicConfig, shipped_topic
from fraud_lakehouse.storage.lake import Lake

TOPIC = "transaction"
CHANGED = {"id": "int64", "amount": "decimal(12,2)", "received_at": "timestamp", "ip_address": "string"}
CHANGED |= {"account_id": "int64"}


def topic_of(settings: Settings, *, changes: bool) -> TopicConfig:
    topic = shipped_topic(settings)
    if not changes:
        return topic
    fields = tuple(Field(name=name, type=kind) for name, kind in CHANGED.items())
    written = ChangeFormat(("id",), decimals="string")
    return replace(topic, table="changes", format="debezium", fields=fields, changes=written, stream=None)


def load_changes(bootstrap: str, rows: int) -> None:
    """Publish inserts as Debezium's connector for PostgreSQL writes them."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    source = {"version": "3.4.3.Final", "connector": "postgresql", "name": "bank", "snapshot": "false", "db": "bank"}
    source |= {"sequence": '["22386720","22386728"]', "schema": "public", "table": "changes", "txId": 739, "xmin": None}
    now = {"ts_ms": 1_796_040_552_723, "ts_us": 1_796_040_552_723_405, "ts_ns": 1_796_040_552_723_405_000}
    for number in range(rows):
        row = {"id": number, "amount": f"{number % 1000}.25", "received_at": 1_767_323_045_123_456 + number}
        row |= {"ip_address": "10.0.0.1", "account_id": number % 2000}
        event = {"before": None, "after": row, "source": source | now | {"lsn": 22_386_728 + number}, "op": "c"}
        value = json.dumps(event | {"transaction": None} | now, separators=(",", ":"))
        while True:
            try:
                producer.produce(TOPIC, value, b'{"id":%d}' % number)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(300) == 0


def bare_loop(settings: Settings, partitions: int, rows: int) -> float:
    """Seconds to consume all records and count them: the yardstick."""
    started = time.monotonic()
    consumer = KafkaClients(shipped_topic(settings)).consumer()
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(partitions)])
    count = 0
    while count < rows:
        messages = consumer.consume(10_000, 1.0)
        count += len(messages)
        if count > rows - 10 * partitions:  # the ends of the partitions come as messages too
            count -= sum(message.error() is not None for message in messages)
    seconds = time.monotonic() - started
    consumer.close()
    return seconds


def landing(settings: Settings, topic: TopicConfig, rows: int) -> tuple[float, float]:
    """Seconds until all records are durable in a new lake, and the CPU seconds of this process for it."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, started = _cpu_seconds(), time.monotonic()
        ingested = 0
        with KafkaIngest(settings, Lake.at(folder), topic) as ingest:
            while ingested < rows:
                ingested += sum(batch.rows for batch in ingest.step(settings.batch_rows, 0.05))
            seconds = time.monotonic() - started
        assert ingested == rows, f"{ingested} rows landed instead of {rows}"
        return seconds, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def broker(apache: bool, home: Path, partitions: int) -> Iterator[str]:
    """The address of a new broker with an empty topic."""
    if not apache:
        with EmbeddedKafka(home) as embedded:
            embedded.create_topic(TOPIC, partitions)
            yield embedded.bootstrap
        return
    from tests.apache_kafka import ApacheKafka
    from tests.fixtures_kafka import Broker

    server = ApacheKafka(home)
    try:
        bootstrap = server.start()
        Broker(bootstrap).create(TOPIC, partitions)
        yield bootstrap
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--apache", action="store_true", help="on real Apache Kafka")
    parser.add_argument("--changes", action="store_true", help="change envelopes instead of card records")
    options = parser.parse_args()
    bare: list[float] = []
    ours: list[float] = []
    cpu: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        broker(options.apache, Path(folder), options.partitions) as bootstrap,
    ):
        (load_changes if options.changes else load_kafka)(bootstrap, options.rows)
        settings = Settings(kafka_bootstrap_servers=bootstrap, kafka_topic=TOPIC)
        for _ in range(options.runs):
            bare.append(bare_loop(settings, options.partitions, options.rows))
            topic = topic_of(settings, changes=options.changes)
            seconds, used = landing(settings, topic, options.rows)
            ours.append(seconds)
            cpu.append(used)
    yardstick, ingested = statistics.median(bare), statistics.median(ours)
    figures = {
        "rows": options.rows,
        "broker": "apache" if options.apache else "embedded",
        "partitions": options.partitions,
        "bare_rows_per_second": round(options.rows / yardstick),
        "landed_rows_per_second": round(options.rows / ingested),
        "ratio": round(yardstick / ingested, 2),
        "ratios": [round(one / other, 2) for one, other in zip(bare, ours, strict=True)],
        "cpu_seconds_per_million": round(statistics.median(cpu) * 1e6 / options.rows, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load_average": round(os.getloadavg()[0], 1),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"{options.rows:,} records, {figures['broker']} broker, {options.partitions} partition(s):"
            f" {figures['landed_rows_per_second']:,} a second into Delta,"
            f" {figures['bare_rows_per_second']:,} a second by a bare consume loop: ratio {figures['ratio']}"
            f" (runs: {', '.join(map(str, figures['ratios']))}; {figures['cpu_seconds_per_million']} CPU seconds a"
            f" million, peak {figures['peak_mb']} MB; load {figures['load_average']})"
        )


if __name__ == "__main__":
    main()
