"""A day of one commit a second: how a table then opens, reads and takes the next commit.

Real: every commit (Appender, or the dbt writer's append), the writer's housekeeping every hundred, the daily
upkeep at the end. Simulated: the hour of the day (`--hours` of commits, as fast as they go) and with it the hour that
checkpoints remember removed files for, which lasts as long as 3,600 commits do; no fsync; the hourly thinning of
checkpoints sees the minutes that the run takes. Yardstick of each figure, in the same run: the same rows in a table
written in one commit and compacted; for a commit, the same Appender's at version 100.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
from deltalake import DeltaTable, Transaction

from fraud_lakehouse.storage import housekeeping
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake, scan
from fraud_lakehouse.storage.maintenance import maintain_table
from fraud_lakehouse.transform import writer

ROWS = 10  # of a commit
SCHEMA: dict[str, pl.DataType] = {"id": pl.Int64(), "amount": pl.Float64(), "note": pl.String()}
REPEATS = 15
LAYERS = ("bronze", "gold")


def frame(first: int, rows: int) -> pl.DataFrame:
    """Rows numbered from `first`."""
    ids = pl.int_range(first, first + rows, eager=True)
    return pl.DataFrame({"id": ids, "amount": ids * 0.25, "note": "note " + ids.cast(pl.String)}, schema=SCHEMA)


def medians_ms(*actions: Callable[[], object]) -> list[float]:
    """Median milliseconds of each action; they take turns, so that the machine's load is the same for all."""
    taken: list[list[float]] = [[] for _ in actions]
    for _ in range(REPEATS):
        for action, times in zip(actions, taken, strict=True):
            started = time.perf_counter()
            action()
            times.append(time.perf_counter() - started)
    return [statistics.median(times) * 1e3 for times in taken]


def compress_hour() -> int:
    """Let checkpoints remember removed files for as long as 3,600 commits take here; those seconds."""
    with tempfile.TemporaryDirectory() as folder:
        table = Appender.open(Lake.at(folder), "bronze", "t", SCHEMA)
        started = time.perf_counter()
        for number in range(300):
            table.append(frame(number * ROWS, ROWS), {"bench": number + 1})
        seconds = round(3_600 * (time.perf_counter() - started) / 300)
    real = housekeeping.properties
    retention = {"delta.deletedFileRetentionDuration": f"interval {seconds} seconds"}
    housekeeping.properties = lambda **table: real(**table) | retention
    return seconds


def bronze_day(lake: Lake, commits: int) -> dict[str, float]:
    """Commits through one Appender; milliseconds of a commit from version 100 and at the end (medians of a hundred)."""
    table = Appender.open(lake, "bronze", "t", SCHEMA)
    taken: list[float] = []
    for number in range(commits):
        rows = frame(number * ROWS, ROWS)
        started = time.perf_counter()
        table.append(rows, {"bench": number + 1})
        taken.append(time.perf_counter() - started)
    early, late = taken[100:200], taken[-100:]
    return {
        "commit_early_ms": statistics.median(early) * 1e3,
        "commit_late_ms": statistics.median(late) * 1e3,
        "mean_early_ms": statistics.mean(taken[100:1100]) * 1e3,
        "mean_late_ms": statistics.mean(taken[-1000:]) * 1e3,
    }


def gold_day(lake: Lake, commits: int) -> None:
    """Commits through the writer of dbt's Delta materialization, on a handle kept as a warm process keeps it."""
    target: DeltaTable | None = None
    for number in range(commits):
        plan: Any = SimpleNamespace(
            consumer=("gold", "t"), target=target, transactions=lambda at=number + 1: [Transaction("reads:bench", at)]
        )
        writer.append(lake, plan, frame(number * ROWS, ROWS).to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())
        if target is None or number % 100 == 0:
            target = lake.open("gold", "t")


def compared(lake: Lake, fresh: Lake, layer: str) -> dict[str, float]:
    """Milliseconds to open and to read the table, and of the compacted one with the same rows."""
    opened = medians_ms(lambda: lake.open(layer, "t"), lambda: fresh.open(layer, "t"))
    read = medians_ms(lambda: scan(lake.open(layer, "t")).collect(), lambda: scan(fresh.open(layer, "t")).collect())
    figures = {"open_ms": opened[0], "compacted_open_ms": opened[1], "read_ms": read[0], "compacted_read_ms": read[1]}
    figures["open_ratio"] = figures["open_ms"] / figures["compacted_open_ms"]
    figures["read_ratio"] = figures["read_ms"] / figures["compacted_read_ms"]
    return figures


def measure(home: Path, layer: str, commits: int) -> dict[str, float]:
    """A day of a table of this layer, before and after its daily upkeep."""
    lake, fresh = Lake.at(home / "lake"), Lake.at(home / "fresh")
    figures = bronze_day(lake, commits) if layer == "bronze" else {}
    if layer == "gold":
        gold_day(lake, commits)
    Appender.open(fresh, layer, "t", SCHEMA).append(frame(0, commits * ROWS), {"bench": commits})
    maintain_table(fresh, layer, "t")
    figures |= {f"before_upkeep_{name}": value for name, value in compared(lake, fresh, layer).items()}
    started = time.perf_counter()
    done = maintain_table(lake, layer, "t")
    figures |= {"upkeep_seconds": time.perf_counter() - started}
    figures |= {"files_before": done.files_before, "log_entries": done.entries_after, "files_after": done.files_after}
    return figures | compared(lake, fresh, layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--layer", choices=LAYERS, action="append", help="default: both")
    options = parser.parse_args()
    commits = round(options.hours * 3600)
    os.fsync = lambda descriptor: None  # the disk of the machine is not what is measured
    layers = options.layer or list(LAYERS)
    figures: dict[str, Any] = {"commits": commits, "hour_seconds": compress_hour()}
    for layer in layers:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), layer, commits)
        figures[layer] = {name: round(value, 2) for name, value in found.items()}
    figures["load_average"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(figures))
        return
    for layer in layers:
        one = figures[layer]
        print(
            f"{layer} after {commits:,} commits: open {one['before_upkeep_open_ms']} ms"
            f" ({one['before_upkeep_open_ratio']} x a compacted table), read {one['before_upkeep_read_ms']} ms"
            f" ({one['before_upkeep_read_ratio']} x); after the daily upkeep ({one['upkeep_seconds']} s) open"
            f" {one['open_ratio']} x, read {one['read_ratio']} x; {one['log_entries']} files in the log"
        )
    if "bronze" in layers:
        one = figures["bronze"]
        print(
            f"a commit at version 100: {one['commit_early_ms']} ms, at the end: {one['commit_late_ms']} ms (with"
            f" housekeeping, means of 1,000: {one['mean_early_ms']} and {one['mean_late_ms']} ms)"
        )
    print(f"an hour lasted {figures['hour_seconds']} s; load {figures['load_average']:.1f}")


if __name__ == "__main__":
    main()
