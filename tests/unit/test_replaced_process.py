"""What a process does that goes on after it was stopped and replaced: it takes nothing back that its successor did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from fraud_lakehouse.alerts.deliveries import Attempt, DeliveryLog
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse.ingest import resync_run as resync
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage import durable
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import create
from tests.alert_receiver import Receiver, attempts, record_alerts
from tests.patience import PATIENCE

AT = datetime(2026, 3, 1, tzinfo=UTC)


def table(root: Path, commits: int) -> Path:
    for number in range(commits):
        write_deltalake(str(root), pl.DataFrame({"id": [number]}).to_arrow(), mode="append")
    return root


def test_versions_that_its_successor_trimmed_need_no_flush(tmp_path: Path) -> None:
    root = table(tmp_path / "t", 3)
    durable.log_entry(root, 1).unlink()
    durable.sync_versions(root, 0, 2)


def test_a_running_resync_keeps_its_scratch_folder_and_a_dead_ones_goes(tmp_path: Path) -> None:
    dead = tmp_path / "resync-999999999-x"
    dead.mkdir()
    with resync._scratch(tmp_path) as first, resync._scratch(tmp_path) as second:
        assert first.exists() and second.exists() and not dead.exists()


@contextmanager
def process_of_another(path: Path) -> Iterator[None]:
    """A process that has taken a lease over holds it within the block."""
    lease = create(path)
    try:
        yield
    finally:
        lease.release()


def attempt(number: int) -> Attempt:
    return Attempt(f"a{number}", "json", 1, AT + timedelta(seconds=number), "delivered")


def test_an_attempt_that_its_successor_has_recorded_is_not_recorded_again(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    replaced, successor = DeliveryLog(lake), DeliveryLog(lake)
    replaced.append([attempt(0)])
    successor.append([attempt(1)])
    replaced.append([attempt(1), attempt(2)])
    successor.append([attempt(2), attempt(1)])
    assert [row["alert_id"] for row in attempts(lake)] == ["a0", "a1", "a2"]


def test_it_sends_no_further_alert_and_leaves_its_successors_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lake = Lake.at(tmp_path / "lake")
    record_alerts(lake, 0, 5)
    sending = threading.Event()
    monkeypatch.setattr("fraud_lakehouse.alerts.delivery.failpoint", lambda _point: sending.set())
    with Receiver(delay=60.0) as receiver:
        settings = Settings(alert_urls=(receiver.url,), alert_burst=20)
        delivery = Delivery(settings, lake)
        assert delivery.deliver_pending(wait=0.0).delivered == 0
        assert sending.wait(PATIENCE)
        with process_of_another(settings.work_dir / "delivery.lock"):
            delivery._journal.add([attempt(9)])  # its successor's
            receiver.released.set()
            (thread,) = delivery._rounds.values()
            thread.join()
            assert receiver.alert_ids == ["a4"], "the one that was under way"
            assert [row["alert_id"] for row in attempts(lake)] == ["a4"]
            assert delivery._journal.read() == [attempt(9)]
            assert "is delivering this lake's alerts" in delivery.deliver_pending(wait=5).notes[0]
        report = delivery.deliver_pending(wait=5)
        assert report.pending == 0 and sorted(receiver.alert_ids) == ["a0", "a1", "a2", "a3", "a4"]
    delivery.close()
