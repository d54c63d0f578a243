"""What the live cycle measures: histograms and gauges for Prometheus, and a summary for `status`.

Times are seconds. A failure to write or serve metrics never stops the cycle.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.live.cycle import CycleResult
from fraud_lakehouse.live.endpoint import Endpoint
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.writer_lock import is_ours

log = logging.getLogger(__name__)

BUCKETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
KEPT = 1000  # newest values of each time, for the summary's percentiles
WRITE_SECONDS = 5.0


class Metrics:
    """Records cycles, writes a summary to `<work>/live.json`, and serves the metrics after the first cycle.

    The port belongs to the process that holds the live lock: a standby has no cycle to report yet, and a process that
    has handed over releases the port.

    Args:
        work: folder of the summary (`settings.work_dir`).
        host, port: address of the Prometheus endpoint; port 0: none.
        holds_lock: whether this process holds the live lock.
    """

    def __init__(
        self, work: Path, host: str = "127.0.0.1", port: int = 0, holds_lock: Callable[[], bool] = lambda: True
    ) -> None:
        self._path = work / "live.json"
        self._write_due = 0.0
        self._since = datetime.now(UTC)
        self._newest: dict[str, deque[float]] = {}
        self._behind: Mapping[str, Behind] = {}
        self._problems: Mapping[str, str] = {}
        self._counts = {"cycles": 0, "rows": 0, "alerts": 0, "errors": 0}
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "fraud_cycle_seconds", "Seconds of a step of the cycle", ["step"], buckets=BUCKETS, registry=self._registry
        )
        self._alert = Histogram(
            "fraud_alert_seconds",
            "Seconds from the source's commit until an alert is landed (ingested), scored, recorded and delivered",
            ["until"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._rows = Counter("fraud_rows_landed", "Rows ingested into bronze", ["table"], registry=self._registry)
        self._alerts = Counter("fraud_alerts_recorded", "Alerts recorded", registry=self._registry)
        self._cycles = Counter("fraud_cycles", "Cycles", registry=self._registry)
        self._errors = Counter(
            "fraud_errors", "Cycles in which a component had a problem", ["part"], registry=self._registry
        )
        self._lag = self._gauge(
            "fraud_source_behind_seconds", "Age of a source's oldest row known to be unscored; 0 if there is none"
        )
        self._lag_rows = self._gauge(
            "fraud_source_behind_rows", "Unscored rows of a source: ingested (landed), and still in the source", "where"
        )
        self._lag_bytes = self._gauge(
            "fraud_source_behind_bytes", "Bytes of PostgreSQL's log not yet ingested, other tables' changes included"
        )
        self._slot = self._gauge(
            "fraud_slot_retained_bytes", "Bytes of log that the PostgreSQL server retains for the replication slot"
        )
        self._unreachable = self._gauge(
            "fraud_source_away_seconds", "Seconds since an unreachable source reported its backlog; 0 while it responds"
        )
        self._endpoint = Endpoint(host, port, self._registry, holds_lock) if port else None

    @staticmethod
    def of(settings: Settings) -> Metrics:
        """Metrics served at the address of the settings."""
        work = settings.work_dir
        return Metrics(work, settings.metrics_host, settings.metrics_port, lambda: is_ours(work / "live.lock"))

    def close(self) -> None:
        """Release the port."""
        if self._endpoint is not None:
            self._endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def note(self, result: CycleResult) -> None:
        """Record one finished cycle."""
        self._count("cycles", 1)
        self._cycles.inc()
        for batch in result.ingested:
            self._rows.labels(batch.table).inc(batch.rows)
            self.observe("capture", batch.seconds)
        self._count("rows", result.rows)
        self._count("alerts", result.alerts)
        self._alerts.inc(result.alerts)
        for step, seconds in result.seconds.items():
            self.observe(step, seconds)
        for until, values in result.alert_seconds.items():
            for value in values:
                self._alert.labels(until).observe(value)
                self._keep(f"alert {until}", value)
                if until == "recorded":
                    self.observe("total", value)
        self._problems = result.problems
        for part in result.problems:
            self._count("errors", 1)
            self._errors.labels(part).inc()
        self._note_behind(result.behind)
        if self._endpoint is not None:
            self._endpoint.open()
        if time.monotonic() >= self._write_due:
            self.write()

    def observe(self, step: str, seconds: float) -> None:
        """Record one duration of a step: capture, build, check, deliver, follow; total: source's commit to alert."""
        self._seconds.labels(step).observe(seconds)
        self._keep(step, seconds)

    def summary(self) -> dict[str, Any]:
        """Counts since the start, backlogs, percentiles of the newest 1,000 of each time, and histograms of all.

        Keys: pid, since, at, cycles, rows, alerts, errors; seconds: {time: {count, p50, p95, p99, max}}; histograms:
        {step: {upper bound: cumulative count}}; behind: {source: the fields of `Behind`, times as ISO 8601}; problems:
        {component: its problem} (live/problems.py).
        """
        return {
            "pid": os.getpid(),
            "since": self._since.isoformat(),
            "at": datetime.now(UTC).isoformat(),
            **self._counts,
            "seconds": {name: percentiles(list(values)) for name, values in sorted(self._newest.items())},
            "histograms": self._histograms(),
            "behind": {source: behind.plain() for source, behind in self._behind.items()},
            "problems": dict(self._problems),
        }

    def write(self) -> None:
        """Write the summary for `status`, atomically."""
        self._write_due = time.monotonic() + WRITE_SECONDS
        unseen = self._path.with_suffix(f".{os.getpid()}")
        try:
            unseen.write_text(json.dumps(self.summary()))
            unseen.replace(self._path)
        except OSError as error:
            log.warning("no summary for `status` in %s: %s", self._path, error)

    def _note_behind(self, behind: Mapping[str, Behind]) -> None:
        self._behind, now = behind, datetime.now(UTC)
        for source, one in behind.items():
            self._lag.labels(source).set(one.seconds)
            self._lag_rows.labels(source, "landed").set(one.rows)
            self._unreachable.labels(source).set((now - one.away_since).total_seconds() if one.away_since else 0.0)
            if one.source_rows is not None:
                self._lag_rows.labels(source, "source").set(one.source_rows)
            if one.source_bytes is not None:
                self._lag_bytes.labels(source).set(one.source_bytes)
            if one.retained_bytes is not None:
                self._slot.labels(source).set(one.retained_bytes)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(name, about, ["source", *labels], registry=self._registry)

    def _histograms(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for sample in (sample for metric in self._seconds.collect() for sample in metric.samples):
            if sample.name.endswith("_bucket"):
                found.setdefault(sample.labels["step"], {})[sample.labels["le"]] = int(sample.value)
        return found

    def _count(self, name: str, by: int) -> None:
        self._counts[name] += by

    def _keep(self, name: str, seconds: float) -> None:
        self._newest.setdefault(name, deque(maxlen=KEPT)).append(seconds)


def percentiles(values: list[float]) -> Mapping[str, float]:
    """Count, median, 95th and 99th percentile (nearest rank) and maximum of at least one value."""
    ranked = sorted(values)
    last = len(ranked) - 1
    found = {f"p{part}": ranked[min(last, int(part / 100 * len(ranked)))] for part in (50, 95, 99)}
    return {
        "count": len(ranked),
        **{name: round(value, 3) for name, value in found.items()},
        "max": round(ranked[-1], 3),
    }
