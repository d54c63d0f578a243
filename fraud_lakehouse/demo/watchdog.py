"""A small process that ends the demo's children when the demo itself has ended, even after kill -9.

Run by path with the bare interpreter (`-I -S`), so it only imports small modules of the standard library. Reads
commands from standard input, one per line: `+ <pid> <signal>` guards a process and its session, `- <pid>` stops
guarding it. When the input ends, the demo has ended: every guarded process gets its signal, and ten seconds later
SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

_GRACE_SECONDS = 10.0


def started(pid: int) -> str | None:
    """When a process was started (clock ticks since boot, as text), or None if it has ended; detects a reused pid."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def session(leader: int) -> list[int]:
    """Running processes of a session, including the leader."""
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields and fields[3] == str(leader) and fields[0] != "Z":
            found.append(int(entry))
    return found


def end(pid: int, how: int) -> None:
    """Send a signal; ignores a process that has already ended."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def watch(orders: Iterable[str]) -> dict[int, tuple[int, str]]:
    """Process commands until the input ends; returns what is still guarded: pid -> (signal, start time)."""
    guarded: dict[int, tuple[int, str]] = {}
    for order in orders:
        what, pid, *how = order.split()
        if what == "-":
            guarded.pop(int(pid), None)
        elif (since := started(int(pid))) is not None:
            guarded[int(pid)] = (int(how[0]), since)
    return guarded


def main() -> None:
    """Guard until the input ends, then end the guarded processes."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    guarded = watch(sys.stdin)
    for pid, (how, since) in guarded.items():
        if started(pid) == since:
            end(pid, how)
    deadline = time.monotonic() + _GRACE_SECONDS
    left = {pid for pid, (_, since) in guarded.items() if started(pid) == since or session(pid)}
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {pid for pid in left if session(pid)}
    for leader in left:
        for pid in session(leader):
            end(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name: state, parent, group, session, ..."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


if __name__ == "__main__":
    main()
