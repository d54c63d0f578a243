from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.alerts.deliveries import Attempt, DeliveryLog
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse.alerts.destination import Destination
from fraud_lakehouse.alerts.journal import Journal
from fraud_lakehouse.alerts.outbox import Backoff
from fraud_lakehouse.errors import LakeError, SettingsError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import process_lock
from tests.alert_receiver import FIRED, Receiver, attempts, record_alerts

AT_ONCE = Backoff(first=0.0, longest=0.0)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings' default lake, and its locks, lie in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def settings(*urls: str, burst: int = 20) -> Settings:
    return Settings(alert_urls=urls, alert_burst=burst)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_alert_goes_once_and_is_recorded(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 3)
    delivery = Delivery(settings(receiver.url), lake)
    report = delivery.deliver_pending(wait=5)
    assert (report.delivered, report.failed, report.pending, report.digested) == (3, 0, 0, 0)
    record_alerts(lake, 3, 2)
    assert delivery.deliver_pending(wait=5).delivered == 2
    assert delivery.deliver_pending(wait=5).delivered == 0
    assert sorted(receiver.alert_ids) == ["a0", "a1", "a2", "a3", "a4"]
    assert {(row["status"], row["attempt"], row["error"]) for row in attempts(lake)} == {("delivered", 1, None)}
    assert Delivery(settings(receiver.url), lake).deliver_pending(wait=5).delivered == 0, "a restart repeats nothing"


def test_payload_carries_the_facts_and_the_idempotency_key(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 1, 1)
    Delivery(settings(receiver.url), lake).deliver_pending(wait=5)
    (payload,) = receiver.received
    assert payload["alert_id"] == "a1"
    assert payload["rule"] == "amount_above_mean"
    assert payload["severity"] == "high"
    assert payload["evidence"] == {"amount": 900.0, "prior_mean": 100.0, "prior_count": 7, "k": 3}
    assert payload["fired_at"] == "2026-03-01T12:00:01+00:00"
    assert "user 1" in payload["title"]
    assert receiver.headers[0]["Idempotency-Key"] == "a1"


def test_without_a_lake_or_alerts_there_is_nothing_to_do(lake: Lake, receiver: Receiver) -> None:
    report = Delivery(settings(receiver.url), lake).deliver_pending()
    assert (report.delivered, report.pending) == (0, 0)


def test_without_destination_alerts_stay_and_the_report_says_so(lake: Lake) -> None:
    record_alerts(lake, 0, 2)
    report = Delivery(settings(), lake).deliver_pending()
    assert report.pending == 0
    assert "no destination configured" in report.notes[0]
    assert not lake.exists("gold", "alert_deliveries")


def test_flood_sends_the_highest_scores_and_one_digest(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 30)
    report = Delivery(settings(receiver.url, burst=5), lake).deliver_pending(wait=10)
    assert (report.delivered, report.digested, report.pending) == (5, 25, 0)
    assert len(report.seconds) == 30 and min(report.seconds) > 0, "how long it took is known of those in a digest too"
    assert receiver.alert_ids == ["a29", "a28", "a27", "a26", "a25"]
    digest = receiver.received[-1]
    assert digest["alerts"] == 25
    assert digest["by_rule"] == {"velocity": 13, "amount_above_mean": 12}
    assert digest["top_entities"][0]["alerts"] == 9
    assert set(digest["alert_ids"]) == {f"a{number}" for number in range(25)}
    assert len(receiver.received) == 6
    assert Delivery(settings(receiver.url, burst=5), lake).deliver_pending(wait=5).digested == 0


def test_exactly_the_burst_needs_no_digest(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 5)
    report = Delivery(settings(receiver.url, burst=5), lake).deliver_pending(wait=5)
    assert (report.delivered, report.digested) == (5, 0)


def test_failure_is_recorded_and_waits_its_time_across_restarts(lake: Lake) -> None:
    record_alerts(lake, 0, 2)
    with Receiver(status=503) as server:
        blocking = Backoff(first=60.0)
        report = Delivery(settings(server.url), lake, blocking).deliver_pending(wait=5)
        assert (report.delivered, report.failed, report.pending) == (0, 1, 2), "a dead destination costs one attempt"
        assert "503" in report.notes[0]
        again = Delivery(settings(server.url), lake, blocking).deliver_pending(wait=5)
        assert (again.failed, again.pending) == (1, 2), "and one of another alert, which may be another matter"
        third = Delivery(settings(server.url), lake, blocking).deliver_pending(wait=5)
        assert (third.failed, third.pending) == (0, 2)
        eager = Delivery(settings(server.url), lake, AT_ONCE)
        assert [eager.deliver_pending(wait=5).failed for _ in range(2)] == [1, 1]
        server.status = 200
        assert eager.deliver_pending(wait=5).delivered == 2
        assert sorted(server.alert_ids) == ["a0", "a1"]
    rows = attempts(lake)
    assert [row["status"] for row in rows] == ["failed"] * 4 + ["delivered"] * 2
    by_alert = {alert: [row["attempt"] for row in rows if row["alert_id"] == alert] for alert in ("a0", "a1")}
    assert all(found == list(range(1, len(found) + 1)) for found in by_alert.values())
    assert all("503" in row["error"] for row in rows if row["status"] == "failed")


def test_backoff_doubles_up_to_its_longest() -> None:
    backoff = Backoff(first=5.0, longest=60.0)
    assert [(backoff.until(n, FIRED) - FIRED).total_seconds() for n in (1, 2, 3, 4, 5, 4000)] == [5, 10, 20, 40, 60, 60]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = FIRED

    def __call__(self) -> datetime:
        """The time, UTC."""
        self.now += timedelta(milliseconds=1)
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def refusing(monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    """The destination does not accept these alerts."""
    send = Destination.send
    monkeypatch.setattr(Destination, "send", lambda self, one: "refused" if one.key in ids else send(self, one))


def test_an_alert_that_always_fails_backs_off_alone(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "a9")
    clock, tried = Clock(), 0
    delivery = Delivery(settings(receiver.url), lake, clock=clock)
    record_alerts(lake, 9, 1)
    for _ in range(100):  # a quiet night: nothing else comes
        tried += delivery.deliver_pending(wait=5).failed
        clock.wait(60)
    assert 10 <= tried <= 16, "it is tried ever more seldom, up to every 15 minutes"
    record_alerts(lake, 0, 1)
    assert delivery.deliver_pending(wait=5).delivered == 1, "a new alert does not wait for it"
    record_alerts(lake, 1, 3)
    delivery.deliver_pending(wait=5)
    assert sorted(receiver.alert_ids) == ["a0", "a1", "a2", "a3"]


def test_alerts_that_always_fail_back_off_while_others_arrive(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "a900", "a901")
    clock = Clock()
    delivery = Delivery(settings(receiver.url), lake, clock=clock)
    record_alerts(lake, 900, 2)
    for number in range(60):
        record_alerts(lake, number, 1)
        delivery.deliver_pending(wait=5)
        clock.wait(30)
    assert len(receiver.alert_ids) >= 59
    failed = [row["alert_id"] for row in attempts(lake) if row["status"] == "failed"]
    assert all(failed.count(one) <= 10 for one in ("a900", "a901")), "each on its own, although others are accepted"


def test_a_new_alert_is_tried_soon_at_a_destination_that_has_been_dead_for_long(lake: Lake, receiver: Receiver) -> None:
    receiver.status = 503
    clock = Clock()
    delivery = Delivery(settings(receiver.url), lake, clock=clock)
    record_alerts(lake, 0, 5)
    for _ in range(50):
        delivery.deliver_pending(wait=5)
        clock.wait(200)
    clock.wait(900)
    assert delivery.deliver_pending(wait=5).failed == 1, "it has failed just now"
    receiver.status = 200
    record_alerts(lake, 5, 1)
    assert delivery.deliver_pending(wait=5).delivered == 0
    clock.wait(30)
    delivery.deliver_pending(wait=5)
    assert "a5" in receiver.alert_ids
    clock.wait(10)
    delivery.deliver_pending(wait=5)
    assert len(receiver.alert_ids) == 6, "what the dead destination refused is no fault of the alerts"


def test_slow_and_dead_destinations_delay_nothing_else(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 3)
    dead = f"json://127.0.0.1:{closed_port()}/"
    with Receiver(delay=30) as slow:
        delivery = Delivery(settings(slow.url, dead, receiver.url), lake)
        started = time.monotonic()
        report = delivery.deliver_pending(wait=1.0)
        assert time.monotonic() - started < 2.5
        assert (report.delivered, report.failed) == (3, 1)
        assert sorted(receiver.alert_ids) == ["a0", "a1", "a2"]
        assert delivery.deliver_pending(wait=0.1).pending == 6, "no second round while the first still waits"
        slow.released.set()
        assert delivery.deliver_pending(wait=10).delivered == 3
        assert sorted(slow.alert_ids) == ["a0", "a1", "a2"]


def test_an_alert_that_always_fails_holds_up_no_other(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, "a4")
    record_alerts(lake, 0, 5)
    with Receiver() as server:
        delivery = Delivery(settings(server.url), lake, AT_ONCE)
        assert delivery.deliver_pending(wait=5).failed == 1
        report = delivery.deliver_pending(wait=5)
        assert (report.delivered, report.failed, report.pending) == (4, 1, 1)


def test_what_waits_for_a_dead_destination_is_kept_small_and_sent_whole(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud_lakehouse.alerts.rows.KEPT", 4)
    monkeypatch.setattr("fraud_lakehouse.alerts.delivery.DIGEST_ALERTS", 10)
    receiver.status = 503
    delivery = Delivery(settings(receiver.url, burst=3), lake, AT_ONCE)
    for number in range(0, 100, 2):
        record_alerts(lake, number, 2)
        delivery.deliver_pending(wait=5)
    (queue,) = delivery._outbox.queues.values()
    assert (queue.pending.height, queue.pending.columns) == (100, ["alert_id", "score", "fired_at"])
    assert queue.pending.n_chunks() < 100 and delivery._outbox.rows._kept.height == 4
    receiver.status = 200
    report = delivery.deliver_pending(wait=5)
    assert (report.delivered, report.digested, report.pending) == (3, 10, 87), "bit by bit"
    while delivery.deliver_pending(wait=5).pending:
        pass
    assert {one["evidence"]["prior_count"] for one in receiver.received if "alert_id" in one} == {7}
    reported = receiver.alert_ids + [one for digest in receiver.received for one in digest.get("alert_ids", [])]
    assert sorted(reported) == sorted(f"a{number}" for number in range(100)), "each once"


def test_compaction_and_a_rebuilt_table_repeat_nothing(lake: Lake, receiver: Receiver) -> None:
    delivery = Delivery(settings(receiver.url), lake)
    for number in range(3):
        record_alerts(lake, number, 1)
        delivery.deliver_pending(wait=5)
    for table in ("alerts", "alert_deliveries"):
        DeltaTable(lake.uri("gold", table)).optimize.compact()
    assert delivery.deliver_pending(wait=5).delivered == 0
    rows = pl.read_delta(lake.uri("gold", "alerts"))
    rows.write_delta(lake.uri("gold", "alerts"), mode="overwrite")
    assert delivery.deliver_pending(wait=5).delivered == 0
    assert len(receiver.received) == 3


def no_space(*_: object) -> None:
    raise LakeError("no space left")


def test_what_cannot_be_recorded_is_not_sent_again(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_alerts(lake, 0, 3)
    delivery = Delivery(settings(receiver.url), lake)
    monkeypatch.setattr(DeliveryLog, "append", no_space)
    delivery.deliver_pending(wait=5)
    sent = len(receiver.received)
    for _ in range(2):
        with pytest.raises(LakeError, match="no space left"):
            delivery.deliver_pending(wait=5)
    assert len(receiver.received) == sent, "nothing more is sent"
    monkeypatch.undo()
    assert delivery.deliver_pending(wait=5).delivered + delivery.deliver_pending(wait=5).delivered == 3
    assert sorted(receiver.alert_ids) == ["a0", "a1", "a2"]


def test_what_can_be_neither_noted_nor_recorded_stops_further_sending(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_alerts(lake, 0, 3)
    delivery = Delivery(settings(receiver.url), lake)
    monkeypatch.setattr(DeliveryLog, "append", no_space)
    monkeypatch.setattr(Journal, "add", no_space)
    delivery.deliver_pending(wait=5)
    with pytest.raises(LakeError, match="no space left"):
        delivery.deliver_pending(wait=5)
    assert len(receiver.received) == 1


def test_without_a_journal_each_answer_is_recorded_at_once(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_alerts(lake, 0, 3)
    monkeypatch.setattr(Journal, "add", no_space)
    assert Delivery(settings(receiver.url), lake).deliver_pending(wait=5).delivered == 3
    assert lake.open("gold", "alert_deliveries").version() >= 3


def test_answers_are_recorded_together(lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud_lakehouse.alerts.delivery.RECORD_SECONDS", 60.0)
    delivery = Delivery(settings(receiver.url), lake)
    record_alerts(lake, 0, 1)
    assert delivery.deliver_pending(wait=5).delivered == 1
    before = lake.open("gold", "alert_deliveries").version()
    record_alerts(lake, 1, 12)
    assert delivery.deliver_pending(wait=5).delivered == 12
    assert lake.open("gold", "alert_deliveries").version() == before + 1
    assert not list(settings().work_dir.glob("*.jsonl")), "the lake has them"


def test_what_a_dead_process_noted_is_recorded_and_not_sent_again(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 3)
    delivery = Delivery(settings(receiver.url), lake)
    sent = [Attempt(f"a{number}", delivery._destinations[0].name, 1, FIRED, "delivered") for number in (0, 1)]
    DeliveryLog(lake).append(sent[:1])  # the commit came, the journal still has both
    delivery._journal.add(sent)
    with delivery._journal._path.open("ab") as file:
        file.write(b'["a2", "torn')
    assert delivery.deliver_pending(wait=5).pending == 0
    assert receiver.alert_ids == ["a2"]
    assert sorted(row["alert_id"] for row in attempts(lake)) == ["a0", "a1", "a2"]


@pytest.mark.parametrize("url", ["nonsense", "unknown://secret-token/x", "json://", "https://secret-token.invalid/a"])
def test_a_wrong_url_is_named_by_number_and_never_printed(
    lake: Lake, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SettingsError, match="FRAUD_ALERT_URLS: entry 2 of 2") as error:
        Delivery(settings("json://localhost", url), lake)
    assert "secret" not in str(error.value) + caplog.text


def test_no_secret_in_records_reports_or_logs(
    lake: Lake, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    record_alerts(lake, 0, 1)
    port = closed_port()
    urls = (
        f"json://ann:s3cr3tword@127.0.0.1:{port}/s3cr3tpath?+Authorization=s3cr3tkey",
        f"form://127.0.0.1:{port}/s3cr3tform",
    )
    with caplog.at_level(logging.DEBUG):
        delivery = Delivery(settings(*urls), lake)
        report = delivery.deliver_pending(wait=5)
    assert report.failed == 2
    seen = f"{report} {attempts(lake)} {caplog.text} {capfd.readouterr()}"
    assert "s3cr3t" not in seen
    assert {row["destination"].split("#")[0] for row in attempts(lake)} == {
        f"json://127.0.0.1:{port}",
        f"form://127.0.0.1:{port}",
    }


def test_processes_take_turns(lake: Lake, receiver: Receiver) -> None:
    record_alerts(lake, 0, 1)
    chosen = settings(receiver.url)
    with process_lock(chosen.work_dir / "delivery.lock", 0, "is delivering"):
        report = Delivery(chosen, lake).deliver_pending()
        assert report.delivered == 0
        assert "is delivering this lake's alerts" in report.notes[0]
    assert Delivery(chosen, lake).deliver_pending(wait=5).delivered == 1
