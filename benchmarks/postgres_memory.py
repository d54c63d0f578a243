"""Memory and cost per row of PostgreSQL capture as logs, tables, transactions and the lake grow.

Each landing is a process of its own; its peak memory is its greatest RSS. Printed: the peak for a log and a snapshot of
1,000,000 and of ten times as many rows, and for one transaction of 2,000,000 rows; and the seconds per million changes
of a log that is landed in a lake of 10,000 rows and, by turns, in one of more than 10,000,000 (the yardstick of each
other).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from _postgres import CREATE, INSERT, settings_of, write_inserts

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.lake import Lake


def land_here() -> None:
    """In the child: land all that the source has, then print rows, seconds and peak memory as JSON."""
    settings = load_settings()
    rows, started = 0, time.perf_counter()
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        while ingested := ingest.step(settings.batch_rows):
            rows += sum(item.rows for item in ingested)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started, "peak": peak}))


def land(settings: Settings) -> dict[str, float]:
    """Land in a process of its own."""
    assert settings.postgres_dsn is not None
    environment = os.environ | {
        "FRAUD_LAKE": settings.lake,
        "FRAUD_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "FRAUD_POSTGRES_SLOT": settings.postgres_slot,
    }
    command = [sys.executable, __file__, "--child"]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    print(f"{result['rows']:,} rows, {result['seconds']:.1f} s, {result['peak'] / 1e6:.0f} MB", file=sys.stderr)
    return result


def new_table(server: EmbeddedPostgres, home: Path, name: str, rows: int) -> Settings:
    """A database with that many rows, and a lake that has none of them yet."""
    dsn = server.create_database(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CREATE)
        connection.execute(INSERT, [1, rows])
    return settings_of(dsn, home)


def measure(home: Path, server: EmbeddedPostgres, rows: int, runs: int) -> dict[str, object]:
    """All figures; `rows` is the small size, ten times that the large one."""
    peaks: dict[str, float] = {}
    small = new_table(server, home, "small", 0)
    large = new_table(server, home, "large", rows)
    few = new_table(server, home, "few", rows // 100)
    land(small)
    peaks["snapshot_small"] = land(large)["peak"]
    land(few)
    write_inserts(small.postgres_dsn.get_secret_value(), rows)
    peaks["log_small"] = land(small)["peak"]
    write_inserts(large.postgres_dsn.get_secret_value(), 10 * rows)
    long = land(large)
    peaks["log_large"] = long["peak"]
    again = settings_of(large.postgres_dsn.get_secret_value(), home)
    peaks["snapshot_large"] = land(again)["peak"]
    with psycopg.connect(small.postgres_dsn.get_secret_value(), autocommit=True) as connection:
        connection.execute(INSERT, [1, 2 * rows])
    one = land(small)
    peaks["one_transaction"] = one["peak"]
    per_million: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(runs):
        for kind, settings in (("few", few), ("many", large)):
            write_inserts(settings.postgres_dsn.get_secret_value(), rows // 5)
            taken = land(settings)
            per_million[kind].append(taken["seconds"] / taken["rows"] * 1e6)
    medians = {kind: statistics.median(found) for kind, found in per_million.items()}
    return {
        "rows": rows,
        "peak_mb": {kind: round(peak / 1e6) for kind, peak in peaks.items()},
        "transaction_rows": one["rows"],
        "log_large_seconds_per_million": round(long["seconds"] / long["rows"] * 1e6, 2),
        "seconds_per_million": {kind: round(found, 2) for kind, found in medians.items()},
        "cost_ratio": round(medians["many"] / medians["few"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000, help="the small size; the large one is ten times it")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        land_here()
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        figures = measure(Path(folder), server, options.rows, options.runs)
    figures["load_average"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(figures))
        return
    peak = figures["peak_mb"]
    print(
        f"peak memory: log of {options.rows:,} rows {peak['log_small']} MB, ten times as many {peak['log_large']} MB;"
        f" snapshot {peak['snapshot_small']} and {peak['snapshot_large']} MB; one transaction of"
        f" {figures['transaction_rows']:,} rows {peak['one_transaction']} MB\n"
        f"seconds per million changes: {figures['seconds_per_million']['many']} into {11 * options.rows:,} rows,"
        f" {figures['seconds_per_million']['few']} into {options.rows // 100:,} ({figures['cost_ratio']} x;"
        f" load {figures['load_average']:.1f})"
    )


if __name__ == "__main__":
    main()
