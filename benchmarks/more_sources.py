"""What a third and a fourth source cost: processor time per row, and seconds from commit to alert.

Rounds alternate between the shipped sources alone and these with a second database and a second topic, which a pipeline
folder declares. Each source has `--rate` rows a second; servers and lake are new in every round. Of each round:
processor milliseconds of the live process and of its background worker per row ingested, and percentiles by stream. The
ratio is of processor time per row, four sources to two: 1 means that the further sources cost their share. Other
programs on the machine change the figures of a round, so compare within a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
from _feeding import USERS, due_rows, write_bank, write_cards
from _processor import cpu_seconds
from confluent_kafka import Producer
from live import cycle, receiver, wait_for_cycle

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.pipeline import shipped_folder
from fraud_lakehouse.settings import Settings, load_settings

SOURCES = """
shop: {type: postgres, dsn_env: BENCH_SHOP_DSN, prefix: shop__, tables: [payments]}
web:
  type: kafka
  servers_env: BENCH_WEB_SERVERS
  topics: [{topic: orders, table: orders, fields: {ref: string, placed: timestamp, total: double, buyer: int64}}]
"""
STREAMS = """
shop_payments:
  {from: shop__payments, kind: changes, id: payment_id, time: paid_at, amount: total, entities: {account: account}}
web_orders: {from: orders, kind: events, id: ref, time: placed, amount: total, entities: {buyer: buyer}}
"""
CREATE = "create table payments (payment_id bigserial primary key, account int, paid_at timestamp, total numeric(12,2))"
INSERT = (
    "insert into payments (account, paid_at, total)"
    f" select 1 + floor(random() * {USERS}), now(), case when random() < 0.05 then 1000 + random() * 9000"
    " else 10 + random() * 990 end from generate_series(1, %s)"
)
OURS = ("live", "beside")
"""Parts of the process table (_processor.py) that are the product's own."""


def write_shop(dsn: str, rate: float, stop: threading.Event) -> None:
    """Insert `rate` payments a second."""
    with psycopg.connect(dsn) as connection:
        for due in due_rows(rate, stop):
            connection.execute(INSERT, (due,))
            connection.commit()


def write_orders(servers: str, rate: float, stop: threading.Event) -> None:
    """Send `rate` orders a second."""
    producer, number, chance = Producer({"bootstrap.servers": servers}), 0, random.Random(7)
    for due in due_rows(rate, stop):
        for _ in range(due):
            amount = 1000 + 9000 * chance.random() if chance.random() < 0.01 else 20 + 80 * chance.random()
            order = {"ref": f"{number:032x}", "placed": str(datetime.now(UTC).replace(tzinfo=None)), "total": amount}
            producer.produce("orders", json.dumps(order | {"buyer": number * 7919 % USERS}))
            number += 1
        producer.poll(0)
    producer.flush(10)


@contextmanager
def written(settings: Settings, shop: str, servers: str, rate: float, sources: int) -> Iterator[None]:
    """All sources being written."""
    assert settings.postgres_dsn is not None
    bank, stop = settings.postgres_dsn.get_secret_value(), threading.Event()
    BankWriter(bank).prepare()
    threads = [
        threading.Thread(target=write_bank, args=(bank, rate, stop)),
        threading.Thread(target=write_cards, args=(settings, rate, stop)),
        threading.Thread(target=write_shop, args=(shop, rate, stop)),
        threading.Thread(target=write_orders, args=(servers, rate, stop)),
    ][:sources]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def declared(folder: Path, sources: int) -> Path:
    """A pipeline folder with the shipped sources, or with all four."""
    folder.mkdir()
    for name, further in (("sources.yml", SOURCES), ("streams.yml", STREAMS), ("features.yml", "")):
        (folder / name).write_text((shipped_folder() / name).read_text() + (further if sources == 4 else ""))
    return folder


def measured(sources: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one round."""
    with tempfile.TemporaryDirectory() as folder, receiver() as url:
        home = Path(folder)
        with EmbeddedPostgres(home) as postgres, EmbeddedKafka(home / "kafka") as kafka:
            shop = postgres.create_database("shop")
            with psycopg.connect(shop) as connection:
                connection.execute(CREATE)
            for topic in ("transaction", "orders"):
                kafka.create_topic(topic, 1)
            os.environ |= {"BENCH_SHOP_DSN": shop, "BENCH_WEB_SERVERS": kafka.bootstrap}
            settings = load_settings(
                lake=str(home / "lake"),
                postgres_dsn=postgres.create_database("bench"),
                kafka_bootstrap_servers=kafka.bootstrap,
                alert_urls=url,
                pipeline=declared(home / "pipeline", sources),
            )
            with (
                written(settings, shop, kafka.bootstrap, options.rate, sources),
                cycle(settings, home, dagster=False),
            ):
                wait_for_cycle(settings)
                time.sleep(options.warm_up)
                began, before = datetime.now(UTC), cpu_seconds(home)
                time.sleep(options.seconds)
                spent = {part: now - before.get(part, 0.0) for part, now in cpu_seconds(home).items()}
                ended = datetime.now(UTC)
            return figures(settings, began, ended, {part: spent.get(part, 0.0) for part in OURS})


def figures(settings: Settings, began: datetime, ended: datetime, spent: dict[str, float]) -> dict[str, Any]:
    """Of what was ingested and what fired between two moments."""
    batches = pl.read_delta(f"{settings.lake}/control/batches")
    rows = int(batches.filter(pl.col("landed_at").is_between(began, ended))["rows"].sum())
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").filter(pl.col("source_committed_at") >= began)
    taken = (pl.col("fired_at") - pl.col("source_committed_at")).dt.total_microseconds() / 1e6
    by_stream = alerts.group_by("stream").agg(
        alerts=pl.len(), p50=taken.quantile(0.5).round(2), p99=taken.quantile(0.99).round(2)
    )
    return {
        "rows_per_second": round(rows / ((ended - began) / timedelta(seconds=1))),
        "cpu_ms_per_row": {part: round(1000 * seconds / rows, 2) for part, seconds in spent.items()},
        "streams": {row.pop("stream"): row for row in by_stream.sort("stream").to_dicts()},
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rate", type=float, default=100.0, help="rows a second of each source")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds before what is measured")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured")
    options = parser.parse_args()
    found: dict[int, list[dict[str, Any]]] = {2: [], 4: []}
    for _ in range(options.rounds):
        for sources, rounds in found.items():
            rounds.append(measured(sources, options))
            if not options.json:
                print(sources, "sources:", rounds[-1], flush=True)
    means = {
        sources: {part: sum(one["cpu_ms_per_row"][part] for one in rounds) / len(rounds) for part in OURS}
        for sources, rounds in found.items()
    }
    ratios = {part: round(means[4][part] / means[2][part], 2) for part in OURS}
    ratios["together"] = round(sum(means[4].values()) / sum(means[2].values()), 2)
    if options.json:
        print(json.dumps({"two": found[2], "four": found[4], "ratio": ratios}))
    else:
        print(f"processor time per row, four sources to two: {ratios}")


if __name__ == "__main__":
    main()
