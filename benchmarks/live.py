"""Seconds from the source's commit to the recorded alert, of `fraud-lakehouse live` on embedded servers.

Beside it the floor, measured in the same run: one dbt build of the hot lane that finds nothing new, and one Delta
commit of a single row. Dagster does not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl

from fraud_lakehouse.demo.generate import run_generators
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.lake.appender import Appender
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.transform.runner import Transformer

WARM_UP_SECONDS = 15.0


def median_seconds(action: object, times: int = 5) -> float:
    """Median time of a call, after one that is not counted."""
    assert callable(action)
    action()
    taken = []
    for _ in range(times):
        started = time.monotonic()
        action()
        taken.append(time.monotonic() - started)
    return sorted(taken)[times // 2]


def floor(settings: Settings) -> dict[str, float]:
    """Seconds of a warm build without new rows, and of a Delta commit of one row."""
    transformer = Transformer(settings)
    build = median_seconds(lambda: transformer.build_lane("hot"))
    transformer.close()
    table = Appender.open(Lake.at(settings.lake), "control", "floor", {"n": pl.Int64()})
    commit = median_seconds(lambda: table.append(pl.DataFrame({"n": [1]}), {}))
    return {"empty_build_seconds": round(build, 3), "delta_commit_seconds": round(commit, 3)}


def measure(settings: Settings, rate: float, seconds: float) -> dict[str, float]:
    """Percentiles of fired_at - source_committed_at over the alerts of `seconds` at `rate` rows a second."""
    stop = threading.Event()
    generators = threading.Thread(target=run_generators, args=(settings, rate / 2, stop))
    environment = os.environ | {
        "FRAUD_LAKE": settings.lake,
        "FRAUD_POSTGRES_DSN": settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else "",
        "FRAUD_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers or "",
        "FRAUD_ALERT_URLS": "",
    }
    generators.start()
    time.sleep(1.0)  # tables and topic exist by then; nothing is measured yet
    command = [sys.executable, "-m", "fraud_lakehouse.cli", "live"]
    live = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    began = time.time() + WARM_UP_SECONDS
    time.sleep(WARM_UP_SECONDS + seconds)
    stop.set()
    generators.join()
    live.send_signal(signal.SIGTERM)
    if live.wait(60) != 0:
        sys.exit("live failed")
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").with_columns(
        ((pl.col("fired_at") - pl.col("source_committed_at")).dt.total_microseconds() / 1e6).alias("seconds")
    )
    late = alerts.filter(pl.col("source_committed_at").dt.epoch("s") >= began)["seconds"]
    if late.is_empty():
        sys.exit("no alert fired in the time measured: use more --seconds")
    return {
        "rate": rate,
        "alerts": late.len(),
        "p50_seconds": round(float(late.quantile(0.5) or 0), 2),
        "p99_seconds": round(float(late.quantile(0.99) or 0), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rate", type=float, default=50.0, help="rows a second, both sources together")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as postgres, EmbeddedKafka(home / "kafka") as kafka:
            dsn = postgres.create_database("bench")
            kafka.create_topic("transaction", 1)
            settings = load_settings(
                lake=str(home / "lake"), postgres_dsn=dsn, kafka_bootstrap_servers=kafka.bootstrap, alert_urls=""
            )
            figures = measure(settings, options.rate, options.seconds) | floor(settings)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"source commit to recorded alert at {options.rate:g} rows a second: p50 {figures['p50_seconds']} s,"
            f" p99 {figures['p99_seconds']} s over {figures['alerts']} alerts (empty warm build"
            f" {figures['empty_build_seconds']} s, Delta commit {figures['delta_commit_seconds']} s;"
            f" load {figures['load_average']})"
        )


if __name__ == "__main__":
    main()
