"""The live cycle's figures: what Prometheus reads and what `status` shows."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fraud_lakehouse.demo.services import free_port
from fraud_lakehouse.lake.ingest import Landed
from fraud_lakehouse.live.behind import Behind
from fraud_lakehouse.live.cycle import CycleResult
from fraud_lakehouse.live.metrics import Metrics, percentiles
from fraud_lakehouse.transform.runner import BuildResult, NodeResult


def cycle(rows: int, age: float) -> CycleResult:
    committed = datetime.now(UTC) - timedelta(seconds=age)
    alerts = NodeResult("model.x.alerts", "alerts", "model", "success", 0.1, rows=2, version=1)
    return CycleResult(
        [Landed("transactions", rows, 0, 1, 1, committed, 0.05, "postgres")],
        [BuildResult([alerts], 0.2)],
        None,
        {"kafka": "no broker"},
        {"build": 0.2, "deliver": 0.01},
        {"recorded": [0.9, 1.1]},
        {"postgres": Behind(age, rows, None, 512)},
    )


def test_the_summary_counts_times_and_says_who_is_behind(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.note(cycle(10, 1.0))
    metrics.note(cycle(5, 42.0))
    metrics.write()
    summary = json.loads((tmp_path / "live.json").read_text())
    assert (summary["cycles"], summary["rows"], summary["alerts"], summary["errors"]) == (2, 15, 4, 2)
    assert summary["seconds"]["alert recorded"]["count"] == 4
    assert summary["seconds"]["build"]["p50"] == 0.2
    behind = {"seconds": 42.0, "rows": 5, "source_rows": None, "source_bytes": 512}
    assert summary["behind"]["postgres"] == behind
    total = summary["histograms"]["total"]
    assert (total["0.75"], total["1.0"], total["+Inf"]) == (0, 2, 4)
    assert set(summary["histograms"]) == {"capture", "build", "deliver", "total"}


def test_prometheus_reads_the_same(tmp_path: Path) -> None:
    metrics, port = Metrics(tmp_path), free_port(0)
    metrics.show("127.0.0.1", port)
    metrics.note(cycle(10, 1.0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'fraud_rows_landed_total{table="transactions"} 10.0' in text
    assert 'fraud_cycle_seconds_count{step="build"} 1.0' in text
    assert 'fraud_source_behind_seconds{source="postgres"} 1.0' in text
    assert 'fraud_source_behind_rows{source="postgres",where="landed"} 10.0' in text
    assert 'fraud_alert_seconds_bucket{le="1.0",until="recorded"} 1.0' in text
    assert "fraud_alerts_recorded_total 2.0" in text


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentiles([float(number) for number in range(1, 101)]) == {
        "count": 100,
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
        "max": 100.0,
    }
    assert percentiles([3.0])["p99"] == 3.0
