"""Alerts reach a real HTTP server once each, whatever kills the process that records and delivers them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse.alerts import sending
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse.alerts.outbox import Backoff
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from tests.alert_receiver import Dripper, Mode, Receiver, attempts, record_alerts
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
CYCLE = """
import sys
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse import failpoints
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.settings import Settings
from tests.alert_receiver import record_alerts

place, url, where = sys.argv[1:]
lake = Lake.at(place)
record_alerts(lake, 0, 5)
failpoints.arm_from(where)
print(Delivery(Settings(lake=lake.root, alert_urls=(url,)), lake).deliver_pending(wait=20))
"""

CYCLE_WITH_MODELS = """
import sys
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse import failpoints
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.transform.runner import Transformer

place, url, where = sys.argv[1:]
settings = Settings(lake=place, alert_urls=(url,))
Transformer(settings).build_tier("hot").raise_for_errors()
failpoints.arm_from(where)
print(Delivery(settings, Lake.at(place)).deliver_pending(wait=20))
"""
EVENT = {
    "_op": pl.String(),
    "_lsn": pl.Int64(),
    "_seq": pl.Int64(),
    "_committed_at": pl.Datetime("us", "UTC"),
    "_unchanged": pl.String(),
    "_text": pl.String(),
}


def killed_cycle(lake: Lake, url: str, failpoint: str, code: str = CYCLE) -> None:
    """Record alerts and deliver them, in a process that dies by SIGKILL at the failpoint."""
    done = subprocess.run(
        [sys.executable, "-c", code, lake.root, url, failpoint],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


@pytest.mark.crash
@pytest.mark.parametrize(
    "failpoint, arrived",
    [
        ("alerts.before_send", 0),  # all recorded, none delivered
        ("alerts.before_send:3", 2),  # some delivered
        ("alerts.after_journal:2", 2),  # delivered and noted, not recorded
        ("gold.before_parquet", None),  # delivered and noted, nothing of the record is written
        ("gold.after_parquet", None),  # its file is written, not committed
        ("gold.before_commit", None),
        ("gold.after_commit", None),  # delivered and recorded, not yet known to be durable
        ("gold.after_fsync", None),  # durable, not yet known to be
    ],
)
def test_a_killed_cycle_loses_and_doubles_no_alert(tmp_path: Path, failpoint: str, arrived: int | None) -> None:
    lake = Lake.at(tmp_path)
    with Receiver() as server:
        killed_cycle(lake, server.url, failpoint)
        before = len(server.received)
        assert before == arrived if arrived is not None else before > 0
        report = Delivery(Settings(lake=lake.root, alert_urls=(server.url,)), lake).deliver_pending(wait=20)
        assert (report.delivered, report.pending) == (5 - before, 0)
        assert Counter(server.alert_ids) == {f"a{number}": 1 for number in range(5)}
    assert Counter(row["alert_id"] for row in attempts(lake)) == {f"a{number}": 1 for number in range(5)}


@pytest.mark.crash
def test_only_death_between_answer_and_record_repeats_an_alert_under_its_key(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    with Receiver() as server:
        killed_cycle(lake, server.url, "alerts.after_answer:3")
        assert server.alert_ids == ["a4", "a3", "a2"]
        Delivery(Settings(lake=lake.root, alert_urls=(server.url,)), lake).deliver_pending(wait=20)
        assert Counter(server.alert_ids) == {"a4": 1, "a3": 1, "a2": 2, "a1": 1, "a0": 1}
        keys = [headers["Idempotency-Key"] for headers in server.headers]
        assert keys == server.alert_ids


def land_payments(lake: Lake) -> None:
    """Seven ordinary payments of a user, then one of 90 times their mean, then one of a user who does not exist."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    people = EVENT | {"user_id": pl.Int32(), "name": pl.String(), "email": pl.String()}
    people["registration_date"] = pl.Datetime("us")
    person = {"user_id": 1, "name": "Ann", "_op": "r", "_lsn": 100, "_seq": 0, "_committed_at": at}
    BronzeTable.open_or_create(lake, "users", people, ["user_id"]).append(pl.DataFrame([person], schema=people), {})
    payments = EVENT | {"transaction_id": pl.Int32(), "user_id": pl.Int32(), "transaction_date": pl.Datetime("us")}
    payments["amount"] = pl.Decimal(10, 2)
    rows = [
        {
            "transaction_id": number,
            "user_id": 77 if number == 9 else 1,
            "transaction_date": (at + timedelta(hours=number)).replace(tzinfo=None),
            "amount": Decimal(900 if number == 8 else 10),
            "_op": "c",
            "_lsn": 100 + number,
            "_seq": 0,
            "_committed_at": at + timedelta(hours=number),
        }
        for number in range(1, 10)
    ]
    table = BronzeTable.open_or_create(lake, "transactions", payments, ["transaction_id"])
    table.append(pl.DataFrame(rows, schema=payments), {})


@pytest.mark.crash
def test_alerts_of_the_real_rules_survive_a_kill_before_delivery(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    land_payments(lake)
    with Receiver() as server:
        killed_cycle(lake, server.url, "alerts.before_send", CYCLE_WITH_MODELS)
        assert server.received == []
        settings = Settings(lake=lake.root, alert_urls=(server.url,))
        assert Delivery(settings, lake).deliver_pending(wait=20).delivered == 2
        assert Delivery(settings, lake).deliver_pending(wait=20).delivered == 0
    assert {(one["rule"], one["transaction_id"]) for one in server.received} == {
        ("amount_above_mean", "8"),
        ("unknown_user", "9"),
    }
    above = next(one for one in server.received if one["rule"] == "amount_above_mean")
    assert above["evidence"]["prior_count"] == 7
    assert "Who: user 1" in above["message"]
    assert "7 earlier payments, 10.00 on average" in above["message"]


def test_a_dead_and_a_hanging_destination_delay_no_alert_of_a_live_one(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    with Receiver() as live, Receiver(status=503) as dead, Receiver(delay=60) as hanging:
        settings = Settings(lake=lake.root, alert_urls=(dead.url, hanging.url, live.url))
        delivery = Delivery(settings, lake, Backoff(first=0.3))
        slowest = 0.0
        for cycle in range(4):
            record_alerts(lake, cycle * 3, 3)
            began = time.monotonic()
            delivery.deliver_pending(wait=1.0)
            slowest = max(slowest, time.monotonic() - began)
            assert len(live.alert_ids) == 3 * (cycle + 1), "each cycle's alerts arrive in that cycle"
        assert slowest < 2.5
        dead.status = 200
        hanging.released.set()
        until = time.monotonic() + PATIENCE
        while delivery.deliver_pending(wait=1.0).pending and time.monotonic() < until:
            time.sleep(0.05)
        expected = {f"a{number}": 1 for number in range(12)}
        assert [Counter(server.alert_ids) for server in (live, dead)] == [expected] * 2
        # the hanging one may have taken an alert whose answer came too late: it is sent again under its key
        assert set(hanging.alert_ids) == set(expected)
        delivery.close()
    failed = [row for row in attempts(lake) if row["status"] == "failed"]
    assert failed
    assert all(dead.host in row["destination"] for row in failed if "503" in row["error"])


def test_hostile_destinations_delay_no_other_and_get_every_alert_once_they_are_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SECONDS", 2.0)
    lake = Lake.at(tmp_path)
    modes: list[Mode] = ["drip_head", "drip_body", "endless_head", "no_answer", "close", "malformed", "flood_1xx"]
    with ExitStack() as stack:
        live, elsewhere = stack.enter_context(Receiver()), stack.enter_context(Receiver())
        redirecting = stack.enter_context(Receiver(status=307, location=f"http://{elsewhere.host}/"))
        hostile = [redirecting, *(stack.enter_context(Receiver(mode=mode)) for mode in modes)]
        urls = (*(one.url for one in hostile), live.url)
        delivery = Delivery(Settings(lake=lake.root, alert_urls=urls), lake, Backoff(first=0.1, rest=0.1))

        def delivered_until(is_done: Callable[[], bool]) -> bool:
            until = time.monotonic() + PATIENCE
            while not is_done() and time.monotonic() < until:
                delivery.deliver_pending(wait=0.2)
            return is_done()

        for cycle in range(3):
            record_alerts(lake, cycle, 1)
            assert delivered_until(lambda: len(live.alert_ids) == cycle + 1)  # noqa: B023 - called at once
        failed = [f"json://{one.host}#" for one in hostile]
        assert delivered_until(lambda: {row["destination"][:-8] for row in attempts(lake)} >= set(failed))
        assert {row["destination"][:-8] for row in attempts(lake) if row["status"] == "delivered"} == {
            f"json://{live.host}#"
        }
        assert elsewhere.methods == []
        for one in hostile:
            one.mode, one.status = "answer", 200
        assert delivered_until(lambda: all(len(one.alert_ids) == 3 for one in hostile))
        delivery.close()
        assert all(Counter(one.alert_ids) == {f"a{number}": 1 for number in range(3)} for one in (live, *hostile))


UNFINISHED = """
import sys
from fraud_lakehouse.alerts import sending
from fraud_lakehouse.alerts.delivery import Delivery
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.settings import Settings

place, *urls = sys.argv[1:]
sending.SECONDS = 86400.0
delivery = Delivery(Settings(lake=place, alert_urls=urls), Lake.at(place))
delivery.deliver_pending(wait=0.5)
delivery.close(wait=0.1)
print("closed")
"""


def test_a_process_ends_while_a_destination_drips(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    record_alerts(lake, 0, 1)
    with Receiver(mode="drip_body") as server, Dripper(b"220-") as mail:
        urls = [server.url, f"mailto://ann:word@{mail.host}/?smtp=127.0.0.1&from=ann@example.org&to=ann@example.org"]
        done = subprocess.run(
            [sys.executable, "-c", UNFINISHED, lake.root, *urls],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    assert done.stdout == "closed\n"
