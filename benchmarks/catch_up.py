"""catch-up from nothing: 1,000,000 PostgreSQL transactions, as many card records, then 20 % updates, 10 % deletes.

Measured from outside: wall time and peak memory (RSS of the process) of `fraud-lakehouse catch-up`, twice: over the
table as loaded, and over the 300,000 changes that follow. Yardstick in the same run: a bare
COPY of the transactions table, its rows discarded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import Producer

from fraud_lakehouse.demo.card_record import CardTransaction, encode
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres

USERS = 10_000


_USERS = (
    "create table users (user_id serial primary key, name varchar(100), email varchar(100),"
    " registration_date timestamp default now())"
)
_TRANSACTIONS = (
    "create table transactions (transaction_id serial primary key, user_id int,"
    " transaction_date timestamp default now(), amount decimal(10,2))"
)
BANK = (_USERS, _TRANSACTIONS)
"""The bank's tables, as in the reference system."""


def load_postgres(dsn: str, rows: int) -> None:
    """Tables as in the reference system, `rows` transactions of the past year in random order of date."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in BANK:
            connection.execute(statement)
        connection.execute(
            "insert into users (name, email)"
            " select 'User ' || i, 'user' || i || '@example.com' from generate_series(1, %s) i",
            [USERS],
        )
        connection.execute(
            "insert into transactions (user_id, transaction_date, amount)"
            " select 1 + floor(random() * %s)::int, now() - random() * interval '330 days',"
            " case when r < 0.05 then 1000 + random() * 9000 when r < 0.1 then 0.01 + random()"
            " else 10 + random() * 990 end"
            " from (select random() r from generate_series(1, %s)) s",
            [USERS, rows],
        )


def change_postgres(dsn: str) -> None:
    """Update 20 % of the rows and delete 10 %, in transactions of a thousand rows."""
    with psycopg.connect(dsn) as connection:
        top = connection.execute("select max(transaction_id) from transactions").fetchone()[0]
        for first in range(1, top + 1, 10_000):
            connection.execute(
                "update transactions set amount = amount + 1, user_id = 1 + floor(random() * %s)::int"
                " where transaction_id between %s and %s and transaction_id %% 5 = 0",
                [USERS, first, first + 9_999],
            )
            connection.execute(
                "delete from transactions where transaction_id between %s and %s and transaction_id %% 10 = 1",
                [first, first + 9_999],
            )
            connection.commit()


def load_kafka(bootstrap: str, rows: int) -> None:
    """`rows` card records in event time order, ten a second of event time."""
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 2_000_000, "linger.ms": 50})
    start = 1_325_376_000
    for number in range(rows):
        user = number * 7919 % USERS
        record = CardTransaction(
            trans_date_trans_time=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(start + number // 10)),
            cc_num=4_000_000_000_000_000 + user,
            merchant=f"fraud_Merchant {number % 693}",
            category="gas_transport",
            amt=round(20 + (number * 31 % 9_000) / 100 + (2_000 if number % 1_009 == 0 else 0), 2),
            first="First",
            last=f"Last {user}",
            zipcode="53186",
            dob="1/2/46",
            trans_num=f"{number:032x}",
            is_fraud=0,
            user_id=user * 1_000_003 - 4_000_000_000,
        )
        producer.produce("transaction", encode(record))
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush()


def catch_up(environment: dict[str, str]) -> tuple[float, int]:
    """Seconds and peak RSS in bytes of one catch-up."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "fraud_lakehouse.cli", "catch-up"], env=environment, stdout=sys.stderr
    )
    watched = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.1)
    if process.wait() != 0:
        sys.exit("catch-up failed")
    return time.monotonic() - started, peak


def bare_copy(dsn: str) -> float:
    """Seconds to receive the transactions table by COPY, doing nothing with it: the yardstick."""
    started = time.monotonic()
    with psycopg.connect(dsn) as connection, connection.cursor().copy("copy transactions to stdout") as copy:
        for _ in copy:
            pass
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as postgres, EmbeddedKafka(home / "kafka") as kafka:
            dsn = postgres.create_database("bench")
            load_postgres(dsn, options.rows)
            kafka.create_topic("transaction", 1)
            load_kafka(kafka.bootstrap, options.rows)
            copy_seconds = bare_copy(dsn)
            environment = os.environ | {
                "FRAUD_LAKE": str(home / "lake"),
                "FRAUD_POSTGRES_DSN": dsn,
                "FRAUD_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                "FRAUD_ALERT_URLS": "",
            }
            first, first_peak = catch_up(environment)
            change_postgres(dsn)
            second, second_peak = catch_up(environment)
    figures = {
        "rows": options.rows,
        "first_seconds": round(first, 1),
        "changes_seconds": round(second, 1),
        "total_seconds": round(first + second, 1),
        "peak_mb": round(max(first_peak, second_peak) / 1e6),
        "bare_copy_seconds": round(copy_seconds, 2),
        "load_average": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"catch-up of {options.rows:,} transactions and as many card records: {figures['first_seconds']} s;"
            f" of the changes after: {figures['changes_seconds']} s; peak {figures['peak_mb']} MB"
            f" (bare COPY of the table {figures['bare_copy_seconds']} s; load {figures['load_average']:.1f})"
        )


if __name__ == "__main__":
    main()
