"""Processor seconds by part of the running product, from the process table."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

PARTS = {  # part -> what its command line has; the first that fits
    "beside": "live.background_process",
    "webserver": "dagster-webserver",
    "daemon": "dagster-daemon",
    "live run": "spawn_main",
    "code server": "api grpc",
    "live": "fraud_lakehouse.cli live",
    "generators": "_feeding.py",
    "demo's generators": "demo.generate",
    "kafka": "tansu",
}


def cpu_seconds(home: Path) -> dict[str, float]:
    """By part, user and system seconds of the processes that we started so far (of those that still run)."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        try:
            found[_part(process)] += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    for started in home.rglob("postmaster.pid"):
        for process in _family(int(started.read_text().split()[0])):
            with suppress(psutil.NoSuchProcess):  # a connection's, which ended just now
                found["postgres"] += sum(process.cpu_times()[:2])
    found["bench"] = sum(psutil.Process().cpu_times()[:2])
    return dict(found)


def _part(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((part for part, mark in PARTS.items() if mark in line), process.name())


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
