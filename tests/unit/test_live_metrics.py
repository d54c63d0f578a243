"""The live cycle's figures: what Prometheus reads and what `status` shows."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fraud_lakehouse.demo.services import free_port
from fraud_lakehouse.ingest import Ingested
from fraud_lakehouse.live.backlog import Behind
from fraud_lakehouse.live.cycle import CycleResult
from fraud_lakehouse.live.metrics import Metrics, percentiles
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.writer_lock import process_lock
from fraud_lakehouse.transform.build_result import BuildResult, NodeResult
from tests.patience import PATIENCE

AWAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cycle(rows: int, age: float) -> CycleResult:
    committed = datetime.now(UTC) - timedelta(seconds=age)
    alerts = NodeResult("model.x.alerts", "alerts", "model", "success", 0.1, rows=2, version=1)
    return CycleResult(
        [Ingested("transactions", rows, 0, 1, 1, committed, 0.05, "bank")],
        [BuildResult([alerts], 0.2)],
        None,
        {"cards": "no broker"},
        {"build": 0.2, "deliver": 0.01},
        {"recorded": [0.9, 1.1]},
        {"bank": Behind(age, rows, None, 512, 4096, AWAY)},
    )


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def served(port: int, wanted: str) -> str:
    """What the port serves, once it does and `wanted` is in it."""
    found, deadline = "", time.monotonic() + PATIENCE
    while wanted not in found and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            found = read(port)
    return found


def test_the_summary_counts_times_and_says_who_is_behind(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.note(cycle(10, 1.0))
    metrics.note(cycle(5, 42.0))
    metrics.write()
    summary = json.loads((tmp_path / "live.json").read_text())
    assert (summary["cycles"], summary["rows"], summary["alerts"], summary["errors"]) == (2, 15, 4, 2)
    assert summary["seconds"]["alert recorded"]["count"] == 4
    assert summary["seconds"]["build"]["p50"] == 0.2
    assert summary["behind"]["bank"] == {
        "seconds": 42.0,
        "rows": 5,
        "source_rows": None,
        "source_bytes": 512,
        "retained_bytes": 4096,
        "away_since": AWAY.isoformat(),
        "delay": 0.0,
    }
    total = summary["histograms"]["total"]
    assert (total["0.75"], total["1.0"], total["+Inf"]) == (0, 2, 4)
    assert set(summary["histograms"]) == {"capture", "build", "deliver", "total"}


def test_prometheus_reads_the_same(tmp_path: Path) -> None:
    port = free_port(0)
    with Metrics(tmp_path, "127.0.0.1", port) as metrics:
        metrics.note(cycle(10, 1.0))
        text = served(port, "fraud_cycles_total 1.0")
    assert 'fraud_rows_landed_total{table="transactions"} 10.0' in text
    assert 'fraud_cycle_seconds_count{step="build"} 1.0' in text
    assert 'fraud_source_behind_seconds{source="bank"} 1.0' in text
    assert 'fraud_source_behind_rows{source="bank",where="landed"} 10.0' in text
    assert 'fraud_alert_seconds_bucket{le="1.0",until="recorded"} 1.0' in text
    assert "fraud_alerts_recorded_total 2.0" in text
    assert 'fraud_source_behind_bytes{source="bank"} 512.0' in text
    assert 'fraud_slot_retained_bytes{source="bank"} 4096.0' in text
    away = next(line for line in text.splitlines() if line.startswith("fraud_source_away_seconds{"))
    assert float(away.split()[1]) > 3600


def test_the_port_is_that_of_the_cycle_that_has_the_turn(tmp_path: Path) -> None:
    port = free_port(0)
    first, second = (Metrics(tmp_path, "127.0.0.1", port) for _ in range(2))
    with second:
        with first:
            first.note(cycle(10, 1.0))
            first.note(cycle(10, 1.0))
            assert "fraud_cycles_total 2.0" in served(port, "fraud_cycles_total 2.0")
            second.note(cycle(10, 1.0))  # it has the turn; the first lets go of the port a moment later
            assert "fraud_cycles_total 2.0" in read(port)
        assert "fraud_cycles_total 1.0" in served(port, "fraud_cycles_total 1.0")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nobody is left on it"


def test_who_has_handed_over_lets_go_of_the_port_at_once(tmp_path: Path) -> None:
    port = free_port(0)
    settings = Settings(work=str(tmp_path), metrics_port=port)
    with Metrics.of(settings) as first, Metrics(tmp_path, "127.0.0.1", port) as second:
        with process_lock(tmp_path / "live.lock", 0, "runs"):
            first.note(cycle(10, 1.0))
            first.note(cycle(10, 1.0))
            assert "fraud_cycles_total 2.0" in served(port, "fraud_cycles_total 2.0")
        second.note(cycle(10, 1.0))  # the first still waits for the process beside it
        assert "fraud_cycles_total 1.0" in served(port, "fraud_cycles_total 1.0")


def test_who_stands_by_serves_nothing(tmp_path: Path) -> None:
    port = free_port(0)
    with Metrics(tmp_path, "127.0.0.1", port), socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_stays_taken_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fraud_lakehouse.live.endpoint.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("fraud_lakehouse.live.endpoint.PATIENCE_SECONDS", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Metrics(tmp_path, "127.0.0.1", port) as metrics:
            metrics.note(cycle(10, 1.0))
            deadline = time.monotonic() + PATIENCE
            while not caplog.messages and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
    assert caplog.messages == [
        f"no metrics on 127.0.0.1:{port}: Address already in use; free it, or set FRAUD_METRICS_PORT to another"
    ]


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentiles([float(number) for number in range(1, 101)]) == {
        "count": 100,
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
        "max": 100.0,
    }
    assert percentiles([3.0])["p99"] == 3.0
