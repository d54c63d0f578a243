"""The feature engine with 5,000,000 payments in its longest window, over six entities.

Each step runs in a process of its own: history of `--rows` payments of 30 days is loaded, then batches of 1,000
follow; and `--bulk` payments are added to an empty engine. Every fiftieth payment is up to an hour late. The yardstick
is DuckDB in the same run: the windows of one entity (card: three counts, two sums) over the payments of the bulk, in
event time; the ratio is of processor time, for all 62 features of six entities. Bytes are those of the engine's arrays,
and what the process grew by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

import duckdb
import psutil
import pyarrow as pa

from fraud_lakehouse.features.engine import EngineFeature, FeatureEngine

BATCH = 1_000
DAYS = 30
MINUTE, HOUR, DAY = 60, 3_600, 86_400
ENTITIES = ("user", "card", "merchant", "category", "user_merchant", "user_category")
PAYMENTS = """
    select
        cast((n - case when random() < 0.02 then floor(random() * {hour}) else 0 end) * {step} as bigint) as _at,
        user_id as key_user,
        4000000000000000 + user_id * 50 + cast(floor(random() * 50) as bigint) as key_card,
        merchant as key_merchant,
        category as key_category,
        user_id || '|' || merchant as key_user_merchant,
        user_id || '|' || category as key_user_category,
        amount as units_of_amount,
        amount / 1000000 as value_amount,
        merchant as value_merchant,
        category as value_category
    from (
        select
            n,
            cast(floor(random() * 10000) as bigint) as user_id,
            'fraud_Merchant ' || number as merchant,
            'category ' || (number % 14) as category,
            cast(exp(3 + 1.2 * sqrt(-2 * ln(1 - random())) * cos(6.28318 * random())) * 100 as bigint) * 10000 as amount
        from (select range as n, cast(floor(random() * random() * 1000) as int) as number from range({first}, {end}))
    )"""
WINDOWS = """
    select
        count(*) over last_minutes as a, count(*) over last_hour as b, count(*) over last_day as c,
        sum(units_of_amount) over last_hour as d, sum(units_of_amount) over last_day as e
    from payments
    window
        last_minutes as (partition by key_card order by _at range between 600000000 preceding and current row),
        last_hour as (partition by key_card order by _at range between 3600000000 preceding and current row),
        last_day as (partition by key_card order by _at range between 86400000000 preceding and current row)"""


def features() -> list[EngineFeature]:
    """What some twenty rules read."""
    found = []
    windows = {
        "user": (10 * MINUTE, HOUR, DAY, 30 * DAY),
        "card": (5 * MINUTE, HOUR, DAY, 30 * DAY),
        "merchant": (5 * MINUTE, HOUR, DAY),
        "category": (5 * MINUTE, HOUR, 30 * DAY),
        "user_merchant": (DAY, 30 * DAY),
        "user_category": (DAY, 30 * DAY),
    }
    for entity in ENTITIES:
        for seconds in windows[entity]:
            for aggregate in ("count", "sum", "mean"):
                name = f"{entity}_amount_{aggregate}_{seconds}"
                found.append(EngineFeature(name, entity, aggregate, "amount", seconds, current=aggregate != "mean"))
    for entity in ("user", "card"):
        for measure in ("merchant", "category"):
            name = f"{entity}_{measure}_distinct_1h"
            found.append(EngineFeature(name, entity, "distinct", measure, HOUR, current=True, is_text=True))
        found.append(EngineFeature(f"{entity}_amount_max_30d", entity, "max", "amount", 30 * DAY, current=False))
    for aggregate in ("mean", "count"):
        found.append(EngineFeature(f"user_{aggregate}", "user", aggregate, "amount", None, current=False))
    return found


def payments(first: int, count: int, rows: int, parts: int = 1) -> list[pa.Table]:
    """Payments numbered from `first` on, of so many in 30 days."""
    step = DAYS * DAY * 1_000_000 / rows
    with duckdb.connect() as connection:
        connection.execute("set threads = 1; set preserve_insertion_order = true; select setseed(0.42)").fetchall()
        tables = []
        for part in range(parts):
            begin, end = first + count * part // parts, first + count * (part + 1) // parts
            sql = PAYMENTS.format(first=begin, end=end, step=step, hour=HOUR * 1_000_000 / step)
            tables.append(connection.sql(sql).to_arrow_table())
        return tables


def in_use() -> float:
    pa.default_memory_pool().release_unused()
    return psutil.Process().memory_info().rss / 1e6


def warm() -> FeatureEngine:
    """Compile or load the kernels; answers an empty engine."""
    begun = time.monotonic()
    [few] = payments(0, 100, 1_000_000)
    engine = FeatureEngine(features(), "events", {"amount": 1_000_000})
    engine.load(few)
    engine.add(few)
    engine.evict(0)
    print(f"kernels ready after {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return FeatureEngine(features(), "events", {"amount": 1_000_000})


def live(rows: int, batches: int) -> dict[str, float]:
    """Load history, then add batches."""
    engine = warm()
    before = in_use()
    seconds, cpu = 0.0, 0.0
    for part in range(10):  # as a caller reads it: not all at once
        [history] = payments(rows * part // 10, rows // 10, rows)
        begun, cpu_begun = time.monotonic(), time.process_time()
        engine.load(history)
        seconds, cpu = seconds + time.monotonic() - begun, cpu + time.process_time() - cpu_begun
        del history
    figures = {
        "load_seconds": seconds,
        "load_cpu_seconds": cpu,
        "loaded_megabytes": engine.nbytes / 1e6,
        "loaded_process_megabytes": in_use() - before,
    }
    taken, cpu_taken = [], []
    for batch in payments(rows, batches * BATCH, rows, batches):
        begun, cpu_begun = time.monotonic(), time.process_time()
        engine.add(batch)
        taken.append(time.monotonic() - begun)
        cpu_taken.append(time.process_time() - cpu_begun)
    begun = time.monotonic()
    engine.evict(batches * BATCH * DAYS * DAY * 1_000_000 // rows)
    figures |= {
        "add_1000_milliseconds": median(taken) * 1000,
        "add_1000_cpu_milliseconds": median(cpu_taken) * 1000,
        "add_1000_longest_milliseconds": max(taken) * 1000,
        "evict_seconds": time.monotonic() - begun,
        "rows_kept": engine.rows,
        "megabytes": engine.nbytes / 1e6,
        "process_megabytes": in_use() - before,
    }
    return figures


def bulk(rows: int) -> dict[str, float]:
    """Add payments to an empty engine; compute DuckDB's windows over the same."""
    engine = warm()
    [added] = payments(0, rows, 5_000_000)
    begun, cpu = time.monotonic(), time.process_time()
    engine.add(added)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    with duckdb.connect() as connection:
        connection.execute("set threads = 2")
        connection.register("given", added)
        connection.execute("create table payments as from given")
        begun, cpu_begun = time.monotonic(), time.process_time()
        connection.execute(f"create table windows as {WINDOWS}")
        yardstick, cpu_yardstick = time.monotonic() - begun, time.process_time() - cpu_begun
    return {
        "add_seconds": seconds,
        "add_cpu_seconds": cpu,
        "duckdb_seconds": yardstick,
        "duckdb_cpu_seconds": cpu_yardstick,
        "ratio": cpu / cpu_yardstick,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=5_000_000, help="payments of history")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--bulk", type=int, default=1_000_000, help="payments added at once")
    parser.add_argument("--step", choices=("live", "bulk"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(live(options.rows, options.batches) if options.step == "live" else bulk(options.bulk)))
        return
    figures: dict[str, float] = {"features": len(features()), "rows": options.rows, "bulk_rows": options.bulk}
    for step in ("live", "bulk"):
        command = [sys.executable, __file__, "--step", step, *sys.argv[1:]]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures |= {f"{step}_{name}": value for name, value in json.loads(output.splitlines()[-1]).items()}
    figures = {key: round(value, 2) if isinstance(value, float) else value for key, value in figures.items()}
    figures["load_average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(figures) if options.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
