"""Seconds from the restart of `fraud-lakehouse live` after kill -9 to its first new row in bronze, committed.

Rows are written to PostgreSQL all the time, as a business does. Beside it the floor, measured in the same run: a
process that imports what landing needs and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from fraud_lakehouse.demo.postgres import EmbeddedPostgres

ROWS_A_SECOND = 50
LIVE = [sys.executable, "-m", "fraud_lakehouse.cli", "live"]
IMPORTS = [sys.executable, "-c", "import fraud_lakehouse.cli, fraud_lakehouse.live"]


def write_rows(dsn: str, stop: threading.Event) -> None:
    """Insert one row after the other until told to stop."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not stop.wait(1 / ROWS_A_SECOND):
            connection.execute("insert into payments (amount) values (1)")


def commits(lake: Path) -> int:
    """Versions of the bronze table that add rows."""
    log = lake / "bronze" / "payments" / "_delta_log"
    return max((int(entry.stem) for entry in log.glob("*.json")), default=-1)


def first_commit(lake: Path, environment: dict[str, str], run_on: float) -> float:
    """Seconds from the start of the process to the next commit; it is killed `run_on` seconds later."""
    before, began = commits(lake), time.monotonic()
    live = subprocess.Popen(LIVE, env=environment, stdout=subprocess.DEVNULL)
    try:
        while commits(lake) == before:
            if live.poll() is not None or time.monotonic() - began > 120:
                sys.exit("live did not land anything")
            time.sleep(0.005)
        taken = time.monotonic() - began
        time.sleep(run_on)
    finally:
        live.kill()
        live.wait()
    return taken


def imports() -> float:
    """Seconds of a process that only imports."""
    began = time.monotonic()
    subprocess.run(IMPORTS, check=True)
    return time.monotonic() - began


def measure(home: Path, runs: int) -> dict[str, float]:
    """Medians and the longest of so many kills."""
    lake, stop = home / "lake", threading.Event()
    with EmbeddedPostgres(home) as postgres:
        dsn = postgres.create_database("bench")
        with psycopg.connect(dsn) as connection:
            connection.execute("create table payments (id serial primary key, amount numeric(10, 2))")
        environment = os.environ | {"FRAUD_LAKE": str(lake), "FRAUD_POSTGRES_DSN": dsn, "FRAUD_ALERT_URLS": ""}
        environment.pop("FRAUD_KAFKA_BOOTSTRAP_SERVERS", None)
        writer = threading.Thread(target=write_rows, args=(dsn, stop))
        writer.start()
        try:
            first_commit(lake, environment, run_on=10.0)  # the first snapshot and the first builds
            recoveries, floors = [], []
            for number in range(runs):
                # Killed at another place each time: while it lands, while it builds.
                recoveries.append(first_commit(lake, environment, run_on=0.5 + 1.5 * number))
                floors.append(imports())
        finally:
            stop.set()
            writer.join()
    return {
        "median_seconds": round(sorted(recoveries)[runs // 2], 2),
        "longest_seconds": round(max(recoveries), 2),
        "import_seconds": round(sorted(floors)[runs // 2], 2),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.runs)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"kill -9 of live, restart to first new row committed: median {figures['median_seconds']} s, longest"
            f" {figures['longest_seconds']} s of {figures['runs']} (imports alone {figures['import_seconds']} s;"
            f" load {figures['load_average']})"
        )


if __name__ == "__main__":
    main()
