"""Total memory of a process and all its children."""

from __future__ import annotations

from pathlib import Path

import psutil


def tree_bytes() -> int:
    """Proportional set size of this process and its descendants, in bytes; shared pages count once.

    Uses the resident set size of processes whose proportional set size is not readable.
    """
    us = psutil.Process()
    return sum(_bytes(process) for process in [us, *us.children(recursive=True)])


def _bytes(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return _resident(process)
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it ended meanwhile
