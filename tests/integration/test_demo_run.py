"""The demo as a user starts it: it ends by itself, continues at the second start and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fraud_lakehouse.demo.progress import distinct_records, rows
from fraud_lakehouse.storage.lake import Lake
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.usefixtures("shipped_pipeline"),
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.kafka,
    pytest.mark.timeout(1200),
]


def begin(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fraud_lakehouse.cli", "demo", "--no-ui", f"--home={home}", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(home) in line and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(line)
    return found


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    assert demo.stdout is not None
    seen = []
    for line in demo.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    pytest.fail(f"{text!r} never came:\n{''.join(seen)}")


def figures(summary: str, source: str) -> tuple[int, int, int]:
    """Generated, landed and missing rows of a source in the summary."""
    found = re.search(rf"{source}: ([\d,]+) \w+ generated, ([\d,]+) rows in bronze, ([\d,]+) missing", summary)
    assert found, summary
    generated, ingested, missing = (int(figure.replace(",", "")) for figure in found.groups())
    return generated, ingested, missing


def check(summary: str) -> None:
    assert "DIFFERENT" not in summary, summary
    assert summary.count(": equal") == 5, summary
    for source in ("bank", "cards", "transfers"):
        generated, ingested, missing = figures(summary, source)
        assert generated == ingested > 0
        assert missing == 0


def test_runs_continues_and_leaves_nothing(tmp_path: Path) -> None:
    """One folder, three starts: the first ends by itself, the second is killed, the third by Ctrl-C."""
    home = tmp_path / "home"
    demo = begin(home, "--seconds=6", "--rate=50")
    early = read_until(demo, "Kafka ")
    other = begin(home, "--seconds=1")
    ineligibility, _ = other.communicate(timeout=PATIENCE)
    assert other.returncode == 1
    assert f"another demo (pid {demo.pid}) is running" in ineligibility
    first, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, early + first
    check(first)
    assert "first alert after" in first
    assert processes_of(home) == []
    assert not (home / "demo.pid").exists()

    demo = begin(home, "--rate=80")
    read_until(demo, "in: bank")
    demo.kill()
    demo.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(home) == []

    demo = begin(home, "--rate=50")
    read_until(demo, "in: bank")
    os.kill(demo.pid, signal.SIGINT)
    last, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, last
    check(last)
    for source in ("bank", "cards", "transfers"):
        assert figures(last, source)[0] > figures(first, source)[0]
    lake = Lake.at(home / "lake")
    for source, table in (("cards", "card_transactions"), ("transfers", "bank_transfers")):
        assert distinct_records(lake, source) == rows(lake, "bronze", table)
    assert rows(lake, "silver", "transfer_judgements") > 0
    assert processes_of(home) == []
