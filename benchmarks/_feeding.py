"""What `live.py` fills the sources with: the demo's generators, or above 1,000 rows a second made beforehand; history.

As a program it writes `--rate` rows a second, half to each source, until SIGTERM: one set-based transaction and one
burst of messages each 50 ms, in the mix of the demo (70 % inserts, 20 % deletes, 10 % updates; a tenth of the amounts
is far too high or low), of 10,000 users.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import polars as pl
import psycopg
from micro_batch import cards

from fraud_lakehouse.demo.bank import BankWriter
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.kafka.config import KafkaClients, shipped_topic
from fraud_lakehouse.storage.lake import Lake

MOST_BY_GENERATORS = 1_000
USERS = 10_000
TICK = 0.05
BEGIN = datetime(2012, 1, 1, 8)  # noqa: DTZ001 event times have no zone; the demo's cards begin here
SPEED_UP = 900.0  # event seconds of cards a second
CHUNK = 1_000_000
_USERS = (
    "insert into public.users (user_id, name, email) select g, 'User ' || g, 'user' || g || '@example.com'"
    f" from generate_series(1, {USERS}) g on conflict do nothing"
)
_AMOUNT = (
    "case when random() < 0.05 then 1000 + random() * 9000 when random() < 0.05 then random()"
    " else 10 + random() * 990 end"
)
_INSERT = (
    "insert into public.transactions (user_id, transaction_date, amount)"
    f" select 1 + floor(random() * {USERS}), date_trunc('second', now() - random() * interval '300 days'), {_AMOUNT}"
    " from generate_series(1, %s)"
)
_NEWEST = "select transaction_id from public.transactions order by 1 desc offset 1000 limit %s"
_UPDATE = f"update public.transactions set amount = {_AMOUNT} where transaction_id in ({_NEWEST})"
_DELETE = f"delete from public.transactions where transaction_id in ({_NEWEST})"


@contextmanager
def feeding(settings: Settings, rate: float) -> Iterator[Callable[[], None]]:
    """Write `rate` rows a second, half to each source, from a process of its own, until the function is called."""
    demo = [sys.executable, "-m", "fraud_lakehouse.demo.generate", f"--rate={rate / 2}"]
    bulk = [sys.executable, __file__, f"--rate={rate}"]
    command = demo if rate <= MOST_BY_GENERATORS else bulk
    BankWriter(_dsn(settings)).prepare()
    process = subprocess.Popen(command, env={**os.environ, **settings.environment()})

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    try:
        yield stop
    finally:
        if process.poll() is None:
            stop()


def preload(settings: Settings, rows: int) -> None:
    """Fill lake and PostgreSQL with history, and build every layer. Cards are landed without a topic."""
    BankWriter(_dsn(settings)).prepare()
    with psycopg.connect(_dsn(settings)) as connection:
        connection.execute(_USERS)
        connection.execute(_INSERT, (rows // 2,))
    bronze = BronzeTable.open_or_create(Lake.at(settings.lake), "card_transactions", cards(0, 1).schema, [])
    for first in range(0, rows // 2, CHUNK):
        count = min(CHUNK, rows // 2 - first)
        before = (BEGIN - timedelta(seconds=rows // 2 - first)).isoformat(sep=" ")
        at = pl.lit(before).str.to_datetime() + pl.duration(seconds=pl.int_range(pl.len()))
        bronze.append(
            cards(first, count).with_columns(
                at.dt.strftime("%Y-%m-%d %H:%M:%S").alias("trans_date_trans_time"),
                pl.col("_offset") - rows,  # before the topic's own
            ),
            {},
        )
    with Cycle(settings) as cycle:
        cycle.catch_up()


def _dsn(settings: Settings) -> str:
    assert settings.postgres_dsn is not None
    return settings.postgres_dsn.get_secret_value()


def write_bank(dsn: str, rate: float, stop: threading.Event) -> None:
    """Change `rate` transactions a second."""
    with psycopg.connect(dsn) as connection:
        connection.execute(_USERS)
        connection.commit()
        for due in due_rows(rate, stop):
            connection.execute(_INSERT, (round(0.7 * due),))
            connection.execute(_DELETE, (round(0.2 * due),))
            connection.execute(_UPDATE, (round(0.1 * due),))
            connection.commit()


def write_cards(settings: Settings, rate: float, stop: threading.Event) -> None:
    """Send `rate` card payments a second."""
    producer, number, chance = KafkaClients(shipped_topic(settings)).producer(), 0, random.Random(7)
    for due in due_rows(rate, stop):
        millisecond = time.time_ns() // 1_000_000
        for _ in range(due):
            producer.produce(settings.kafka_topic, _card(number, rate, chance), timestamp=millisecond)
            number += 1
        producer.poll(0)
    producer.flush(10)


def _card(number: int, rate: float, chance: random.Random) -> bytes:
    user, share = number * 7919 % USERS, chance.random()
    amount = 1000 + 9000 * chance.random() if share < 0.01 else 20 + 80 * chance.random()
    at = BEGIN + timedelta(seconds=int(number * SPEED_UP / rate))
    return (
        f'{{"trans_date_trans_time":"{at}","cc_num":{4_000_000_000_000_000 + user},'
        f'"merchant":"fraud_Merchant {number % 693}","category":"gas_transport",'
        f'"amt":{amount:.2f},"first":"First","last":"Last {user}","zipcode":"53186",'
        f'"dob":"1/2/46","trans_num":"{number:032x}","is_fraud":0,"user_id":{user}}}'
    ).encode()


def due_rows(rate: float, stop: threading.Event) -> Iterator[int]:
    """How many rows are due, each TICK; a writer that is too slow catches up by larger transactions."""
    start, done = time.monotonic(), 0
    while not stop.wait(TICK):
        due = int((time.monotonic() - start) * rate) - done
        done += due
        yield due


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=3000.0)
    options = parser.parse_args()
    settings, stop = load_settings(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    half = options.rate / 2
    threads = [
        threading.Thread(target=write_bank, args=(_dsn(settings), half, stop)),
        threading.Thread(target=write_cards, args=(settings, half, stop)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
