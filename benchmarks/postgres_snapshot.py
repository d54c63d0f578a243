"""A snapshot of 1,000,000 rows of a 4-column table into fsynced Delta.

Measured: seconds of the first `PostgresIngest.step` over a new lake (slot, publication and positions included).
Yardstick, alternating with it: `psql -c "copy transactions to stdout"` read to /dev/null.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from _postgres import CREATE, program, server_cpu, settings_of, version_of, write_inserts

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake


def copy(dsn: str) -> float:
    """Seconds of psql to read the table to /dev/null."""
    command = [program("psql"), "-X", "-q", "-d", dsn, "-c", "copy transactions to stdout"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def take(settings: Settings, server: EmbeddedPostgres, rows: int) -> tuple[float, float, float]:
    """Seconds, our CPU seconds and the server's to land the snapshot in a new lake."""
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        server_before, own_before, started = server_cpu(server), time.process_time(), time.perf_counter()
        ingested = sum(item.rows for item in ingest.step(settings.batch_rows))
        seconds = time.perf_counter() - started
    if ingested != rows:
        raise SystemExit(f"{ingested} rows were landed of {rows}")
    return seconds, time.process_time() - own_before, server_cpu(server) - server_before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    yardstick, taken = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as server:
            dsn = server.create_database("bench")
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(CREATE)
                write_inserts(dsn, options.rows)
                connection.execute("vacuum (analyze) transactions")
                for _ in range(options.runs):
                    yardstick.append(copy(dsn))
                    settings = settings_of(dsn, home)
                    taken.append(take(settings, server, options.rows))
                    connection.execute("select pg_drop_replication_slot(%s)", [settings.postgres_slot])
    seconds, own, servers = ([one[place] for one in taken] for place in range(3))
    mine, theirs = statistics.median(seconds), statistics.median(yardstick)
    figures = {
        "yardstick": version_of("psql"),
        "rows": options.rows,
        "seconds": [round(one, 2) for one in seconds],
        "psql_copy_seconds": [round(one, 2) for one in yardstick],
        "rows_per_second": round(options.rows / mine),
        "ratio": round(theirs / mine, 2),
        "cpu_seconds_per_million": round(statistics.median(own) * 1e6 / options.rows, 2),
        "server_cpu_seconds_per_million": round(statistics.median(servers) * 1e6 / options.rows, 2),
        "load_average": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"snapshot of {options.rows:,} rows in {mine:.2f} s, {figures['ratio']} x the rate of COPY to /dev/null by"
        f" {figures['yardstick']} ({theirs:.2f} s); CPU per million: ours {figures['cpu_seconds_per_million']} s,"
        f" server {figures['server_cpu_seconds_per_million']} s (load {figures['load_average']:.1f})"
    )


if __name__ == "__main__":
    main()
