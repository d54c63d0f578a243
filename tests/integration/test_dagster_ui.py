"""The Dagster UI in headless Chromium: webserver and daemon as shipped, on a lake filled from PostgreSQL by their runs.

Skipped, loudly, where there is no Chromium, unless FRAUD_TEST_REQUIRE_BROWSER=1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraud_lakehouse.demo.postgres import EmbeddedPostgres
from tests.declared import bank_and_cards
from tests.optional import not_tested

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STARTUP_SECONDS = 300.0
RUN_SECONDS = 900.0
EXPANDED = "?expanded=" + "%2C".join(f"global%40global%3A{layer}" for layer in ("bronze", "silver", "gold"))
UPSTREAM_OF_REPORT = "%2Bkey%3A%22gold%2Fdaily_report%22"
SCHEMA = """
create table users (user_id serial primary key, name varchar(100), email varchar(100),
  registration_date timestamp default now());
create table transactions (transaction_id serial primary key, user_id int,
  transaction_date timestamp default now(), amount decimal(10,2));
insert into users (name, email) select 'user ' || n, 'user' || n || '@example.org' from generate_series(1, 20) n;
insert into transactions (user_id, amount) select 1 + n % 20, 100 + n % 7 from generate_series(1, 400) n;
insert into transactions (user_id, amount) values (3, 9999), (99, 10);
"""
RUNS = "{ runsOrError(limit: 20) { ... on Runs { results { runId status jobName tags { key value } } } } }"


def _chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or not_tested(
        "the Dagster UI, because there is no Chromium on the PATH (install Debian's chromium)", "BROWSER"
    )


@dataclass
class Interface:
    """A running webserver and daemon."""

    url: str
    logs: list[Path]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first; each with runId, status, jobName and tags (a mapping)."""
        body = json.dumps({"query": RUNS}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def wait_for_run(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The wanted run, once it has ended."""

        def ended() -> dict[str, Any] | None:
            done = ("SUCCESS", "FAILURE", "CANCELED")
            return next((run for run in self.runs() if wanted(run) and run["status"] in done), None)

        return _wait(ended, RUN_SECONDS, "the run has not ended", self.logs)


def _wait(ready: Callable[[], Any], seconds: float, problem: str, logs: list[Path]) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > deadline:
            ends = "\n".join(f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs)
            pytest.fail(f"{problem} after {seconds:.0f} s\n{ends}")
        time.sleep(0.3)
    return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture
def interface(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> Iterator[Interface]:
    """dagster-webserver and dagster-daemon with the shipped workspace.yaml and dagster.yaml."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith("FRAUD_")} | {
        "FRAUD_PIPELINE": str(bank_and_cards()),  # with all sources the graph is larger than any window
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "FRAUD_LAKE": str(tmp_path / "lake"),
        "FRAUD_POSTGRES_DSN": database,
        "FRAUD_UPDATE_DELAY": "3600",
    }
    scripts = Path(sys.executable).parent
    commands = {
        "webserver": [str(scripts / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port)],
        "daemon": [str(scripts / "dagster-daemon"), "run"],
    }
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> None:
        with (tmp_path / f"{name}.log").open("wb") as log:
            command = [*commands[name], "-w", str(ROOT / "workspace.yaml")]
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
            )

    started = Interface(f"http://127.0.0.1:{port}", [tmp_path / f"{name}.log" for name in commands])
    try:
        start("webserver")  # it makes Dagster's databases: both at once may fail at it
        _wait(lambda: _answers(started.url), STARTUP_SECONDS, "the webserver does not answer", started.logs[:1])
        start("daemon")
        yield started
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _end_session(process.pid)


def _end_session(leader: int) -> None:
    """End what a service left of its own session (a code server takes a while to notice)."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.browser
@pytest.mark.postgres
@pytest.mark.timeout(1200)
def test_the_graph_is_shown_and_materialize_all_succeeds(interface: Interface, tmp_path: Path) -> None:
    chromium = _chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 5200, "height": 8200})  # nodes outside the view are not drawn
        page.goto(f"{interface.url}/asset-groups{EXPANDED}")
        materialize_all = page.get_by_role("button", name="Materialize all")
        materialize_all.wait_for(timeout=300_000)

        for node in ("card_transactions", "transactions_history", "transaction_anomalies", "alerts", "daily_report"):
            page.get_by_text(node, exact=True).first.wait_for(timeout=300_000)
        for layer in ("bronze", "silver", "gold"):
            assert page.get_by_text(layer, exact=True).count(), layer

        by_sensor = interface.wait_for_run(lambda run: run["tags"].get("dagster/sensor_name") == "new_data_bank")
        assert by_sensor["status"] == "SUCCESS"
        assert by_sensor["tags"]["dagster/run_key"] == "bank:snapshot"

        materialize_all.click()
        by_hand = interface.wait_for_run(lambda run: "dagster/sensor_name" not in run["tags"])
        assert by_hand["status"] == "SUCCESS"

        page.reload()
        page.get_by_text("Asset checks").first.wait_for(timeout=300_000)
        page.get_by_text(re.compile(r"^[1-9]\d* / \d+ Passed$")).first.wait_for(timeout=300_000)
        page.screenshot(path=tmp_path / "whole_graph.png")
        page.set_viewport_size({"width": 2300, "height": 1400})
        page.goto(f"{interface.url}/asset-groups~{UPSTREAM_OF_REPORT}/{EXPANDED}")
        page.get_by_text("alerts", exact=True).first.wait_for(timeout=300_000)
        page.screenshot(path=tmp_path / "asset_graph.png")
        page.goto(f"{interface.url}/assets/gold/alerts?view=checks")
        page.get_by_text("rule_amount_above_mean").first.wait_for(timeout=300_000)
        page.screenshot(path=tmp_path / "checks.png")
        browser.close()
