"""PostgreSQL's log to bronze: 1,000,000 changes of a 4-column table in 1,000 transactions, from WAL to fsynced Delta.

Measured: seconds of `PostgresIngest` to drain its slot into a new lake, CPU seconds of this process and of the server's
processes. Yardstick, alternating with it: pg_recvlogical receiving the same publication's changes (`-f /dev/null`).
Two logs: inserts only; and 70 % inserts, 20 % updates, 10 % deletes.
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
from uuid import uuid4

import psycopg
from _postgres import CREATE, program, server_cpu, settings_of, version_of, write_inserts, write_mixed

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.ingest.postgres import PostgresIngest
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres.slot_state import format_lsn
from fraud_lakehouse.storage.lake import Lake

PUBLICATION = "fraud_lakehouse"


def receive(dsn: str, slot: str, end: int) -> float:
    """Seconds that pg_recvlogical needs to receive the slot's changes up to `end`, written to /dev/null."""
    command = [program("pg_recvlogical"), "-d", dsn, "--slot", slot, "--start", "-f", "/dev/null", "--no-loop"]
    command += ["-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}", "--endpos", format_lsn(end)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def land(settings: Settings, server: EmbeddedPostgres, rows: int) -> tuple[float, float, float]:
    """Seconds, our CPU seconds and the server's CPU seconds to drain the slot into its lake."""
    with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
        server_before, own_before, started = server_cpu(server), time.process_time(), time.perf_counter()
        ingested = 0
        while ingested < rows:
            ingested += sum(item.rows for item in ingest.step(settings.batch_rows))
        seconds = time.perf_counter() - started
        return seconds, time.process_time() - own_before, server_cpu(server) - server_before


def measure(home: Path, server: EmbeddedPostgres, kind: str, rows: int, runs: int) -> dict[str, object]:
    """One kind of log, landed and received `runs` times by turns, each from a slot made before it was written."""
    dsn = server.create_database(kind)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CREATE)
        ours = [settings_of(dsn, home) for _ in range(runs)]
        for settings in ours:
            with PostgresIngest(settings, Lake.at(settings.lake)) as ingest:
                ingest.step(settings.batch_rows)
        theirs = [f"y_{uuid4().hex[:12]}" for _ in range(runs)]
        for slot in theirs:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        (write_inserts if kind == "inserts" else write_mixed)(dsn, rows)
        end = connection.execute("select (pg_current_wal_lsn() - '0/0')::int8").fetchone()[0]
        connection.execute("checkpoint")
        yardstick, seconds, own, servers = [], [], [], []
        for settings, slot in zip(ours, theirs, strict=True):
            yardstick.append(receive(dsn, slot, end))
            taken = land(settings, server, rows)
            for total, one in zip((seconds, own, servers), taken, strict=True):
                total.append(one)
            connection.execute(
                "select pg_drop_replication_slot(s) from unnest(%s::name[]) s", [[slot, settings.postgres_slot]]
            )
    mine, their = statistics.median(seconds), statistics.median(yardstick)
    return {
        "rows": rows,
        "seconds": [round(one, 2) for one in seconds],
        "pg_recvlogical_seconds": [round(one, 2) for one in yardstick],
        "rows_per_second": round(rows / mine),
        "ratio": round(their / mine, 2),
        "cpu_seconds_per_million": round(statistics.median(own) * 1e6 / rows, 2),
        "server_cpu_seconds_per_million": round(statistics.median(servers) * 1e6 / rows, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kind", choices=["inserts", "mixed"], action="append")
    options = parser.parse_args()
    figures: dict[str, object] = {"yardstick": version_of("pg_recvlogical")}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as server:
            for kind in options.kind or ["inserts", "mixed"]:
                figures[kind] = measure(home, server, kind, options.rows, options.runs)
    figures["load_average"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(figures))
        return
    for kind in options.kind or ["inserts", "mixed"]:
        one = figures[kind]
        print(
            f"{kind}: {one['rows']:,} changes in {statistics.median(one['seconds'])} s, {one['ratio']} x the rate of"
            f" {figures['yardstick']} ({statistics.median(one['pg_recvlogical_seconds'])} s); CPU per million: ours"
            f" {one['cpu_seconds_per_million']} s, server {one['server_cpu_seconds_per_million']} s"
            f" (load {figures['load_average']:.1f})"
        )


if __name__ == "__main__":
    main()
