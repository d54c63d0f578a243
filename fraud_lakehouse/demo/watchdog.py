"""A tiny process that ends the demo's children when the demo itself is gone, kill -9 included.

Run by path with the bare interpreter (`-I -S`): it imports nothing but the standard library's smallest parts.
Its orders come over standard input, one a line: `+ <pid> <signal>` guards a process and its session,
`- <pid>` forgets it. The end of the input means that the demo is gone: every process still guarded gets its
signal, and ten seconds later SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

_GRACE_SECONDS = 10.0


def started(pid: int) -> str | None:
    """When a process was started (clock ticks since boot, as text), or None if it is gone: tells a reused pid."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def session(leader: int) -> list[int]:
    """Living processes of a session, the leader among them."""
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields and fields[3] == str(leader) and fields[0] != "Z":
            found.append(int(entry))
    return found


def end(pid: int, how: int) -> None:
    """Send a signal; a process that is gone already is fine."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def watch(orders: Iterable[str]) -> dict[int, tuple[int, str]]:
    """Follow the orders to their end; answers what is guarded then: pid -> (signal, start time)."""
    guarded: dict[int, tuple[int, str]] = {}
    for order in orders:
        what, pid, *how = order.split()
        if what == "-":
            guarded.pop(int(pid), None)
        elif (since := started(int(pid))) is not None:
            guarded[int(pid)] = (int(how[0]), since)
    return guarded


def main() -> None:
    """Guard until the input ends, then clear up."""
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
