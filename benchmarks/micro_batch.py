"""One micro-batch of 1,000 new rows (500 of each source) through all hot models, by rows of history in the lake.

The history (half of each source) is landed in bronze and built by the hot lane itself; then each micro-batch is landed
and built warm, as the live cycle does. Beside the medians: the floor of the same run, an empty warm build and one Delta
commit, and the seconds of each model. Users are spread evenly; event time of cards is in order, of the bank at random;
a tenth of the bank's changes are updates of any earlier transaction.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import polars as pl
import psutil

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.build_result import BuildResult
from fraud_lakehouse.transform.runner import Transformer

USERS = 10_000
BATCH = 500  # rows of each source
START = datetime(2024, 1, 1)  # noqa: DTZ001 event times have no zone
LANDED = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD = 330 * 86_400  # seconds over which the bank's transaction dates are spread
WARM_UP = 3  # builds, after which what models have read before is in memory
LANDING = 1_000_000  # rows of history landed in one commit


def cards(first: int, count: int) -> pl.DataFrame:
    """Card records numbered from `first`, ten a second of event time, each of another user than the nine before."""
    number = pl.int_range(first, first + count, eager=True)
    user = number * 7919 % USERS
    return pl.DataFrame({"n": number, "user": user}).select(
        (pl.lit(START) + pl.duration(milliseconds=pl.col("n") * 100))
        .dt.strftime("%Y-%m-%d %H:%M:%S")
        .alias("trans_date_trans_time"),
        (4_000_000_000_000_000 + pl.col("user")).alias("cc_num"),
        pl.format("fraud_Merchant {}", pl.col("n") % 693).alias("merchant"),
        pl.lit("gas_transport").alias("category"),
        (20 + (pl.col("n") * 31 % 9_000) / 100 + (pl.col("n") % 1_009 == 0) * 2_000.0).round(2).alias("amt"),
        pl.lit("First").alias("first"),
        pl.format("Last {}", pl.col("user")).alias("last"),
        pl.lit("53186").alias("zipcode"),
        pl.lit("1/2/46").alias("dob"),
        pl.format(
            "{}{}", pl.col("n").hash(1).cast(pl.String).str.zfill(20), pl.col("n").cast(pl.String).str.zfill(12)
        ).alias("trans_num"),
        pl.lit(0, pl.Int64).alias("is_fraud"),
        pl.col("user").cast(pl.Int64).alias("user_id"),
        pl.lit("transaction").alias("_topic"),
        pl.lit(0, pl.Int32).alias("_partition"),
        pl.col("n").cast(pl.Int64).alias("_offset"),
        (pl.lit(LANDED) + pl.duration(milliseconds=pl.col("n"))).alias("_timestamp"),
        pl.lit(None, pl.Binary).alias("_raw"),
        pl.lit(None, pl.String).alias("_error"),
    )


def transactions(first: int, count: int, updates: int = 0) -> pl.DataFrame:
    """Change events numbered from `first`: inserts, of which the last `updates` are updates of earlier ids instead."""
    number = pl.int_range(first, first + count, eager=True)
    is_update = number >= first + count - updates
    return pl.DataFrame({"n": number, "is_update": is_update}).select(
        pl.when("is_update")
        .then(pl.col("n").hash(2) % first)
        .otherwise(pl.col("n"))
        .cast(pl.Int32)
        .alias("transaction_id"),
        (pl.col("n") * 104_729 % USERS).cast(pl.Int32).alias("user_id"),
        (pl.lit(START) + pl.duration(seconds=(pl.col("n").hash(3) % SPREAD).cast(pl.Int64)))
        .cast(pl.Datetime("us"))
        .alias("transaction_date"),
        (10 + (pl.col("n") * 37 % 99_000) / 100).cast(pl.Decimal(10, 2)).alias("amount"),
        pl.when("is_update").then(pl.lit("u")).otherwise(pl.lit("c")).alias("_op"),
        (100 + pl.col("n")).cast(pl.Int64).alias("_lsn"),
        pl.lit(1, pl.Int64).alias("_seq"),
        (pl.lit(LANDED) + pl.duration(milliseconds=pl.col("n"))).alias("_committed_at"),
        pl.lit(None, pl.String).alias("_unchanged"),
        pl.lit(None, pl.String).alias("_text"),
    )


def users() -> pl.DataFrame:
    """The users, as a snapshot read them."""
    number = pl.int_range(0, USERS, eager=True).alias("n")
    return pl.DataFrame({"n": number}).select(
        pl.col("n").cast(pl.Int32).alias("user_id"),
        pl.format("User {}", pl.col("n")).alias("name"),
        pl.format("user{}@example.com", pl.col("n")).alias("email"),
        pl.lit(START).cast(pl.Datetime("us")).alias("registration_date"),
        pl.lit("r").alias("_op"),
        pl.lit(50, pl.Int64).alias("_lsn"),
        pl.col("n").cast(pl.Int64).alias("_seq"),
        pl.lit(LANDED).alias("_committed_at"),
        pl.lit(None, pl.String).alias("_unchanged"),
        pl.lit(None, pl.String).alias("_text"),
    )


@dataclass(frozen=True)
class Built:
    """A build and the CPU seconds of this process it took (on a busy machine the steadier figure)."""

    result: BuildResult
    cpu: float


class Bench:
    """A lake with `history` rows, half of each source, and the next number of each."""

    def __init__(self, root: Path, history: int, memory: str) -> None:
        self.lake = Lake.at(root / "lake")
        settings = load_settings(
            lake=self.lake.root, work=root / "work", postgres_dsn=None, alert_urls="", duckdb_memory=memory
        )
        self.tables = {
            name: BronzeTable.open_or_create(self.lake, name, frame.schema, key)
            for name, frame, key in (
                ("card_transactions", cards(0, 1), []),
                ("transactions", transactions(0, 1), ["transaction_id"]),
                ("users", users(), ["user_id"]),
            )
        }
        self.tables["users"].append(users(), {})
        self.next = 0
        while self.next < history // 2:
            self.land(min(LANDING, history // 2 - self.next), updates=0)
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        self.transformer = Transformer(settings)

    def land(self, rows: int, updates: int) -> None:
        """One commit of `rows` rows into each bronze table."""
        self.tables["card_transactions"].append(cards(self.next, rows), {})
        self.tables["transactions"].append(transactions(self.next, rows, updates), {})
        self.next += rows

    def build(self) -> BuildResult:
        """The hot lane; every model must succeed."""
        result = self.transformer.build_tier("hot")
        result.raise_for_errors()
        return result

    def micro_batch(self) -> Built:
        """Land a micro-batch, then build it."""
        self.land(BATCH, updates=BATCH // 10)
        started = time.process_time()
        result = self.build()
        cpu = time.process_time() - started
        assert result.rows("card_transaction_features") == BATCH, result.rows("card_transaction_features")
        assert result.rows("transaction_features") == BATCH, result.rows("transaction_features")
        return Built(result, cpu)


def timed(action: Callable[[], object], times: int) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return median(taken)


def measure(history: int, times: int, memory: str) -> dict[str, object]:
    """The figures of one size of history."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), history, memory)
        started = time.perf_counter()
        bench.build()
        first = time.perf_counter() - started
        started = time.perf_counter()
        bench.micro_batch()
        warm_up = time.perf_counter() - started
        for _ in range(WARM_UP):
            bench.micro_batch()
        built = [bench.micro_batch() for _ in range(times)]
        results = [one.result for one in built]
        floor = Appender.open(bench.lake, "control", "floor", {"n": pl.Int64()})
        figures: dict[str, object] = {
            "history_rows": history,
            "micro_batch_seconds": round(median(result.seconds for result in results), 3),
            "micro_batch_cpu_seconds": round(median(one.cpu for one in built), 3),
            "slowest_seconds": round(max(result.seconds for result in results), 3),
            "empty_build_seconds": round(timed(bench.build, times), 3),
            "delta_commit_seconds": round(timed(lambda: floor.append(pl.DataFrame({"n": [1]}), {}), times), 3),
            "history_build_seconds": round(first, 1),
            "first_micro_batch_seconds": round(warm_up, 2),
            "rss_mb": psutil.Process().memory_info().rss // 2**20,
            "model_seconds": {
                name: round(median(node.seconds for result in results for node in result.nodes if node.name == name), 3)
                for name in (node.name for node in results[0].nodes)
            },
            "load_average": os.getloadavg()[0],
        }
        bench.transformer.close()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--history", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--times", type=int, default=5, help="micro-batches measured for each size")
    parser.add_argument("--duckdb-memory", default="1GB")
    options = parser.parse_args()
    figures = [measure(history, options.times, options.duckdb_memory) for history in options.history]
    if options.json:
        print(json.dumps(figures))
        return
    for one in figures:
        models = sorted(one["model_seconds"].items(), key=lambda item: -item[1])  # type: ignore[attr-defined]
        print(
            f"1,000 new rows over {one['history_rows']:,}: {one['micro_batch_seconds']} s"
            f" (slowest {one['slowest_seconds']}, CPU {one['micro_batch_cpu_seconds']};"
            f" empty build {one['empty_build_seconds']}, one Delta commit {one['delta_commit_seconds']};"
            f" first micro-batch of a process {one['first_micro_batch_seconds']},"
            f" whole history {one['history_build_seconds']}; RSS {one['rss_mb']} MB; load {one['load_average']:.1f})"
        )
        print("  " + ", ".join(f"{name} {seconds}" for name, seconds in models))
    if len(figures) > 1:
        ratio = figures[-1]["micro_batch_seconds"] / figures[0]["micro_batch_seconds"]  # type: ignore[operator]
        print(f"largest to smallest history: {ratio:.2f} x")


if __name__ == "__main__":
    main()
