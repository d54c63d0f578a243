"""Seconds from the source's commit to the alert, recorded and delivered, with everything on this machine.

Embedded PostgreSQL and Kafka, the generators, an HTTP receiver of alerts, and either Dagster (code server, webserver,
daemon, whose sensor starts the live run) or, with --no-dagster, `fraud-lakehouse live` alone. Beside the figures the
floors, measured in the same run: one build of the hot lane that finds nothing new, one Delta commit of a row,
one event written into Dagster's storage. Of the processor time, how much each part took.

--history ROWS lands so many rows (half of each source) and builds them before the cycle starts.
--kill kills the process that runs the cycle (-9) half way: then the longest time without an alert is the figure, and
where it went: seconds from the kill until the next process held the turn, landed, and recorded an alert.
--warm-up 300 --seconds 1800 is how memory is measured: in the first minutes a process fills what it keeps anyway.
--idle SECONDS measures the processor time of the cycle without data afterwards.
Above 1,000 rows a second the sources are filled by statements and messages made beforehand, else by the demo's
generators. An alert is recorded at its `fired_at`, read just before the commit that makes it visible and durable; when
it was delivered is read after both. The slope is of the seconds from commit to alert over the time measured: above 0
the cycle falls behind.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil
from _feeding import feeding, preload
from _processor import cpu_seconds

from fraud_lakehouse.demo.interface import DagsterServices
from fraud_lakehouse.demo.kafka import EmbeddedKafka
from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from fraud_lakehouse.demo.services import Watchdog
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import holder
from fraud_lakehouse.transform.runner import Transformer

START_SECONDS = 180.0


def median_seconds(action: Callable[[], object], times: int = 5) -> float:
    """Median time of a call, after one that is not counted."""
    action()
    taken = []
    for _ in range(times):
        started = time.monotonic()
        action()
        taken.append(time.monotonic() - started)
    return sorted(taken)[times // 2]


def floor(settings: Settings, home: Path) -> dict[str, float]:
    """Seconds of a build that finds nothing new, of a Delta commit of a row, of an event of Dagster's."""
    transformer = Transformer(settings)
    build = median_seconds(lambda: transformer.build_tier("hot"))
    transformer.close()
    table = Appender.open(Lake.at(settings.lake), "control", "floor", {"n": pl.Int64()})
    commit = median_seconds(lambda: table.append(pl.DataFrame({"n": [1]}), {}))
    (home / "floor").mkdir()
    with dg.DagsterInstance.local_temp(str(home / "floor")) as instance:
        event = median_seconds(lambda: instance.report_runless_asset_event(dg.AssetMaterialization("floor")), 20)
    return {
        "empty_build_seconds": round(build, 3),
        "delta_commit_seconds": round(commit, 3),
        "dagster_event_seconds": round(event, 4),
    }


class Receiver(BaseHTTPRequestHandler):
    """Takes alerts and forgets them."""

    def do_POST(self) -> None:
        """Say yes."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No line for each alert."""


@contextmanager
def receiver() -> Iterator[str]:
    """An HTTP server that takes alerts; its Apprise URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def cycle(settings: Settings, home: Path, *, dagster: bool) -> Iterator[None]:
    """The live cycle running, and stopped afterwards."""
    environment = {**os.environ, **settings.environment()}
    if not dagster:
        command = [sys.executable, "-m", "fraud_lakehouse.cli", "live"]
        live = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            live.send_signal(signal.SIGTERM)
            live.wait(60)
        return
    guard = Watchdog()
    services = DagsterServices(home, environment, nice=False)
    try:
        services.start(guard, threading.Event())
        yield
    finally:
        services.stop()
        guard.close()


def cycle_process(settings: Settings) -> psutil.Process | None:
    """The process that holds the lake's live turn."""
    found = holder(settings.work_dir / "live.lock")
    try:
        return psutil.Process(found.pid) if found is not None and found.pid else None
    except psutil.NoSuchProcess:
        return None


def wait_for_cycle(settings: Settings, other_than: int = 0) -> psutil.Process:
    """The process of the cycle, once there is one other than a given pid."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (found := cycle_process(settings)) is not None and found.pid != other_than:
            return found
        time.sleep(0.1)
    sys.exit("no live cycle came up")


def seconds_of(settings: Settings, since: datetime) -> dict[str, Any]:
    """Percentiles of the alerts whose source committed after `since`."""
    alerts = pl.read_delta(f"{settings.lake}/gold/alerts").filter(pl.col("source_committed_at") >= since)
    if alerts.is_empty():
        sys.exit("no alert fired in the time measured: use more --seconds")
    sent = pl.read_delta(f"{settings.lake}/gold/alert_deliveries").filter(pl.col("status") != "failed")
    first = sent.group_by("alert_id").agg(pl.col("attempted_at").min())
    reported = alerts.join(first, on="alert_id")
    recorded = (alerts["fired_at"] - alerts["source_committed_at"]).dt.total_microseconds() / 1e6
    delivered = (reported["attempted_at"] - reported["fired_at"]).dt.total_microseconds() / 1e6
    times = alerts["fired_at"].sort()
    return {
        "alerts": alerts.height,
        "undelivered": alerts.height - reported.height,
        "p50_seconds": round(float(recorded.quantile(0.5) or 0), 2),
        "p99_seconds": round(float(recorded.quantile(0.99) or 0), 2),
        "longest_seconds": round(float(recorded.max() or 0), 2),
        "delivered_p99_seconds_more": round(float(delivered.quantile(0.99) or 0), 2),
        "p50_until": {
            name: round(
                float(
                    ((alerts[column] - alerts["source_committed_at"]).dt.total_microseconds() / 1e6).quantile(0.5) or 0
                ),
                2,
            )
            for name, column in (("landed", "landed_at"), ("scored", "scored_at"), ("recorded", "fired_at"))
        },
        "slope_seconds_per_minute": slope(alerts["source_committed_at"], recorded),
        "longest_silence_seconds": round(float((times.diff().dt.total_microseconds().max() or 0) / 1e6), 1),
    }


def slope(at: pl.Series, seconds: pl.Series) -> float:
    """How many seconds a minute the time to the alert grows: least squares over the medians of each 5 s."""
    frame = pl.DataFrame({"at": (at - at.min()).dt.total_microseconds() / 6e7, "seconds": seconds})
    medians = frame.group_by((pl.col("at") * 12).floor().alias("slice")).agg(pl.col("at", "seconds").median())
    variance = medians["at"].var()
    found = medians.select(pl.cov("at", "seconds")).item() / variance if medians.height > 1 and variance else 0.0
    return round(float(found), 2)


def landed_per_second(settings: Settings, since: datetime, seconds: float) -> int:
    """Rows that came to bronze in the time measured."""
    batches = pl.read_delta(f"{settings.lake}/control/batches")
    mine = batches.filter(pl.col("landed_at").is_between(since, since + timedelta(seconds=seconds)))
    return round(mine["rows"].sum() / seconds)


def measure(settings: Settings, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Percentiles over the alerts of `--seconds` at `--rate` rows a second, after a warm-up."""
    with cycle(settings, home, dagster=options.dagster), feeding(settings, options.rate) as stop:
        running = wait_for_cycle(settings)
        time.sleep(options.warm_up)
        began, used = datetime.now(UTC), cpu_seconds(home)
        first, memory = running.pid, running.memory_info().rss
        killed_at = turned_at = None
        if options.kill:
            time.sleep(options.seconds / 2)
            killed_at = datetime.now(UTC)
            running.kill()
            running = wait_for_cycle(settings, running.pid)
            turned_at = datetime.now(UTC)
            time.sleep(options.seconds / 2)
        else:
            time.sleep(options.seconds)
        lasted = (datetime.now(UTC) - began).total_seconds()
        running = wait_for_cycle(settings)  # by now it may be the next one: a live run lasts five minutes
        cpu = {part: round(100 * (now - used.get(part, 0.0)) / lasted) for part, now in cpu_seconds(home).items()}
        figures: dict[str, Any] = {"rate": options.rate, "cycle_mb": round(running.memory_info().rss / 1e6)}
        figures["cpu_percent"] = dict(sorted(cpu.items(), key=lambda item: -item[1]))
        if running.pid == first:
            figures["cycle_growth_percent"] = round(100 * (running.memory_info().rss / memory - 1), 1)
        stop()
        time.sleep(5)  # the last alerts are delivered
        figures["live"] = json.loads((settings.work_dir / "live.json").read_text())["seconds"]
        figures["landed_per_second"] = landed_per_second(settings, began, lasted)
        if options.idle:
            figures["idle_cpu_percent"] = idle(settings, options.idle)
    if killed_at and turned_at:
        figures["seconds_after_kill"] = recovery(settings, killed_at, turned_at)
    return figures | seconds_of(settings, began)


def recovery(settings: Settings, killed_at: datetime, turned_at: datetime) -> dict[str, float]:
    """Seconds from the kill until the next process held the turn, had landed rows, and had recorded an alert."""
    ingested = pl.read_delta(f"{settings.lake}/control/batches")["landed_at"]
    fired = pl.read_delta(f"{settings.lake}/gold/alerts")["fired_at"]
    after = {
        "turn": turned_at,
        "landed": ingested.filter(ingested > turned_at).min(),
        "alert": fired.filter(fired > turned_at).min(),
    }
    return {name: round((at - killed_at).total_seconds(), 1) for name, at in after.items() if isinstance(at, datetime)}


def idle(settings: Settings, seconds: float) -> float:
    """Percent of one core that the cycle and the process beside it use without data; anew if another takes over."""
    time.sleep(30)
    while True:
        process = wait_for_cycle(settings)
        try:
            family = [process, *process.children(recursive=True)]
            before = sum(sum(one.cpu_times()[:2]) for one in family)
            time.sleep(seconds)
            after = sum(sum(one.cpu_times()[:2]) for one in family)
        except psutil.NoSuchProcess:
            continue
        return round(100 * (after - before) / seconds, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rate", type=float, default=50.0, help="rows a second, both sources together")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds before what is measured")
    parser.add_argument("--dagster", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--history", type=int, default=0, help="rows in the lake beforehand, half of each source")
    parser.add_argument("--kill", action="store_true", help="kill -9 the cycle half way")
    parser.add_argument("--idle", type=float, default=0.0, help="seconds without data to measure afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, receiver() as url:
        home = Path(folder)
        with EmbeddedPostgres(home) as postgres, EmbeddedKafka(home / "kafka") as kafka:
            dsn = postgres.create_database("bench")
            kafka.create_topic("transaction", 1)
            settings = load_settings(
                lake=str(home / "lake"), postgres_dsn=dsn, kafka_bootstrap_servers=kafka.bootstrap, alert_urls=url
            )
            if options.history:
                preload(settings, options.history)
            figures = measure(settings, home, options) | floor(settings, home)
    figures["load_average"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"source commit to recorded alert at {options.rate:g} rows a second: p50 {figures['p50_seconds']} s,"
        f" p99 {figures['p99_seconds']} s, longest {figures['longest_seconds']} s over {figures['alerts']} alerts;"
        f" delivered {figures['delivered_p99_seconds_more']} s later (p99), {figures['undelivered']} not;"
        f" longest silence {figures['longest_silence_seconds']} s; {figures['landed_per_second']} rows a second landed,"
        f" slope {figures['slope_seconds_per_minute']:+} s a minute; until {figures['p50_until']} (p50);"
        f" the cycle's process {figures['cycle_mb']} MB"
        + (f", {figures['cycle_growth_percent']:+} % since the warm-up" if "cycle_growth_percent" in figures else "")
        + (f"; idle {figures['idle_cpu_percent']} % of a core" if options.idle else "")
        + (f"; seconds after the kill until {figures['seconds_after_kill']}" if options.kill else "")
        + f" (empty warm build {figures['empty_build_seconds']} s, Delta commit {figures['delta_commit_seconds']} s,"
        f" event of Dagster {figures['dagster_event_seconds']} s; load {figures['load_average']})"
        f"\nprocessor, percent of a core: {figures['cpu_percent']}"
    )


if __name__ == "__main__":
    main()
