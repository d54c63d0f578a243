"""Child processes: ready before use, gone after the stop, gone too when the parent was killed; one demo per folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from fraud_lakehouse.demo import watchdog
from fraud_lakehouse.demo.demo import Stopper
from fraud_lakehouse.demo.home import HomeInUseError, HomeLock
from fraud_lakehouse.demo.interface import DocsServer
from fraud_lakehouse.demo.memory import tree_bytes
from fraud_lakehouse.demo.services import Service, ServiceError, Watchdog, free_port

ROOT = Path(__file__).resolve().parents[2]
# A service with a child of its own that ignores SIGTERM: what an unclean stop leaves behind.
STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(300)
"""
PARENT = """
import sys, time
from pathlib import Path
from fraud_lakehouse.demo.services import Service, Watchdog
guard = Watchdog()
home = Path(sys.argv[1])
service = Service("sleeper", [sys.executable, "-c", "import time; time.sleep(300)"], home / "log")
service.start(guard)
print(service.pid, flush=True)
time.sleep(300)
"""


def gone(pid: int, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while watchdog.started(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_stop_leaves_no_process_of_the_session(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    guard = Watchdog()
    service = Service("stubborn", [sys.executable, "-c", STUBBORN, str(mark)], tmp_path / "log", ready=mark.exists)
    service.start(guard)
    assert service.wait_ready(20, threading.Event())
    while not mark.read_text():
        time.sleep(0.01)
    service.stop(timeout=0.5)
    assert gone(int(mark.read_text()), within=0)
    assert service.pid is None
    guard.close()


def test_a_service_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    guard = Watchdog()
    service = Service(
        "brief", [sys.executable, "-c", "import sys; sys.exit('no such thing')"], tmp_path / "log", ready=lambda: False
    )
    service.start(guard)
    with pytest.raises(ServiceError, match="brief has ended: no such thing"):
        service.wait_ready(20, threading.Event())
    service.stop()
    guard.close()


def test_waiting_ends_when_asked_to_stop(tmp_path: Path) -> None:
    guard, stop = Watchdog(), threading.Event()
    stop.set()
    service = Service(
        "sleeper", [sys.executable, "-c", "import time; time.sleep(300)"], tmp_path / "log", ready=lambda: False
    )
    service.start(guard)
    assert not service.wait_ready(20, stop)
    service.stop()
    guard.close()


def test_children_of_a_killed_parent_are_ended(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert watchdog.started(child) is not None
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child)


def test_watchdog_follows_its_orders() -> None:
    us, since = os.getpid(), watchdog.started(os.getpid())
    assert since is not None
    assert watchdog.watch([f"+ {us} 15"]) == {us: (15, since)}
    assert watchdog.watch([f"+ {us} 15", f"- {us}", "- 1"]) == {}
    assert watchdog.watch(["+ 999999999 15"]) == {}
    assert us in watchdog.session(os.getsid(0))
    watchdog.end(999999999, signal.SIGTERM)  # a process that is gone is no error


def test_one_demo_per_folder(tmp_path: Path) -> None:
    second = HomeLock(tmp_path / "home")
    with HomeLock(tmp_path / "home"), pytest.raises(HomeInUseError, match=rf"another demo \(pid {os.getpid()}\)"):
        second.__enter__()
    assert not (tmp_path / "home" / "demo.pid").exists()
    with HomeLock(tmp_path / "home"):
        pass


def test_a_lock_left_by_a_killed_demo_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "demo.pid").write_text("4711\n")
    with HomeLock(tmp_path):
        assert (tmp_path / "demo.pid").read_text() == f"{os.getpid()}\n"


def test_docs_are_served_and_the_port_is_given_up(tmp_path: Path) -> None:
    server = DocsServer(tmp_path, 0)
    with urllib.request.urlopen(server.url, timeout=5) as reply:
        assert b"dbt is generating" in reply.read()
    (tmp_path / "index.html").write_text("done")
    with urllib.request.urlopen(server.url, timeout=5) as reply:
        assert reply.read() == b"done"
    port = int(server.url.rpartition(":")[2])
    server.close()
    assert free_port(port) == port


def test_memory_counts_children() -> None:
    alone = tree_bytes()
    program = "x = bytearray(60_000_000); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_bytes() - alone > 50_000_000
        child.communicate(b"\n")


def test_first_signal_stops_second_hurries_third_ends_at_once() -> None:
    stopper = Stopper()
    stopper.on_signal(signal.SIGINT, None)
    assert (stopper.stop.is_set(), stopper.hurry.is_set()) == (True, False)
    stopper.on_signal(signal.SIGINT, None)
    assert stopper.hurry.is_set()
    with pytest.raises(KeyboardInterrupt):
        stopper.on_signal(signal.SIGINT, None)


def test_time_over_stops() -> None:
    stopper = Stopper()
    with stopper.after(0.05):
        assert stopper.stop.wait(5)
    forever = Stopper()
    with forever.after(None):
        assert not forever.stop.is_set()
