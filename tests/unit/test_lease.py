"""Leases: the lock of a process that answers is respected; one that is dead, stopped or stuck is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fraud_lakehouse.errors import ConcurrentWriterError, LakeError
from fraud_lakehouse.storage import lease
from fraud_lakehouse.storage.lease import Holder, Lease, acquire, create, holder, is_held, is_ours, progress, watched
from fraud_lakehouse.storage.writer_lock import process_lock, writer_lock
from tests.patience import PATIENCE

HOLDER = """
import sys, time
from pathlib import Path
from fraud_lakehouse.storage.writer_lock import writer_lock
with writer_lock(Path(sys.argv[1]), 60) as lease:
    print("held", flush=True)
    while lease.is_ours:
        time.sleep(0.05)
    print("lost", flush=True)
"""


class Clock:
    """A monotonic clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease, "clock", made)
    monkeypatch.setattr(lease, "_CONFIRM_SECONDS", 0.0)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(lease, "_heart", lease._Heart())
    return made


@contextmanager
def holding(path: Path) -> Iterator[Lease]:
    held = acquire(path)
    assert held is not None
    try:
        yield held
    finally:
        held.release()


def test_a_lease_is_one_holders_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "part.lock"
    with holding(path) as held:
        assert acquire(path) is None
        assert held.is_ours and is_held(path) and is_ours(path)
        assert holder(path) == Holder(os.getpid(), 0.0)
    assert not is_held(path) and holder(path) is None and not is_ours(path)
    assert path.read_text() == "", "no pid stays in the file"


@pytest.mark.parametrize(("age", "is_replaced"), [(lease.LEASE_SECONDS, False), (lease.LEASE_SECONDS + 1, True)])
def test_a_holder_is_replaced_once_its_heartbeat_is_old(
    tmp_path: Path, clock: Clock, age: float, is_replaced: bool
) -> None:
    path = tmp_path / "part.lock"
    with holding(path) as first:
        clock.now += age
        second = acquire(path)
        assert (second is not None) == is_replaced == (not first.is_ours)
        if second is not None:
            assert holder(path) == Holder(os.getpid(), 0.0)
            first.renew()
            assert acquire(path) is None, "a heartbeat of the replaced one changes nothing"
            second.release()
    assert not is_held(path)


def test_the_release_of_a_replaced_holder_leaves_its_successors_lock(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "part.lock"
    with ExitStack() as successor:
        with holding(path):
            clock.now += lease.LEASE_SECONDS + 1
            successor.enter_context(holding(path))
        assert is_held(path) and holder(path) == Holder(os.getpid(), 0.0)


def test_a_hung_holder_counts_as_none_that_answers(tmp_path: Path, clock: Clock) -> None:
    with holding(tmp_path / "part.lock"):
        clock.now += lease.LEASE_SECONDS + 1
        assert not is_held(tmp_path / "part.lock")
        found = holder(tmp_path / "part.lock")
        assert found is not None and found.is_hung


def test_a_heartbeat_renewed_while_it_is_confirmed_keeps_the_lease(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(tmp_path / "part.lock") as held:
        clock.now += lease.LEASE_SECONDS + 1
        monkeypatch.setattr("time.sleep", lambda _seconds: held.renew())
        assert acquire(tmp_path / "part.lock") is None
        assert held.is_ours


def test_a_holder_stopped_before_its_first_heartbeat_is_replaced(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "part.lock"
    with holding(path) as first:
        os.truncate(path, 0)
        assert acquire(path) is None
        clock.now += lease.LEASE_SECONDS + 1
        with holding(path):
            assert not first.is_ours


def test_a_heartbeat_of_another_boot_says_nothing_of_who_holds_the_lock_now(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "part.lock"
    path.write_text(f"{os.getpid()} {clock.now + 1e6}\n")  # the machine had been up for longer
    assert holder(path) is None
    with holding(path):
        assert holder(path) == Holder(os.getpid(), 0.0)


def test_of_several_that_wait_for_a_hung_holder_one_replaces_it(tmp_path: Path, clock: Clock) -> None:
    path, found = tmp_path / "part.lock", list[Lease | None]()
    with holding(path):
        clock.now += lease.LEASE_SECONDS + 1
        start = threading.Barrier(8)

        def wait() -> None:
            start.wait()
            found.append(acquire(path))

        threads = [threading.Thread(target=wait) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (successor,) = [one for one in found if one is not None]
        assert successor.is_ours
        successor.release()


def test_a_created_lock_replaces_whatever_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("left by a process that was killed")
    first = create(tmp_path / "run.lock")
    second = create(tmp_path / "run.lock")
    assert second.is_ours and not first.is_ours
    first.release()
    assert is_held(tmp_path / "run.lock")
    second.release()


def test_a_loop_without_progress_is_stuck_and_one_with_progress_is_not(clock: Clock) -> None:
    with watched():
        for _ in range(3):
            clock.now += lease.STUCK_SECONDS
            assert not lease.is_stuck()
            progress()
        clock.now += lease.STUCK_SECONDS + 1
        assert lease.is_stuck()
    assert not lease.is_stuck(), "a process without a loop is not watched"


def test_the_heartbeats_of_a_stuck_process_stop(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    path = tmp_path / "part.lock"

    def beats() -> bool:
        found = holder(path)
        return found is not None and found.age == 0.0

    def wait_for_a_beat() -> None:
        deadline = time.monotonic() + PATIENCE
        while not beats():
            assert time.monotonic() < deadline, "there is no heartbeat"

    with holding(path), watched():
        clock.now += 1
        wait_for_a_beat()
        clock.now += lease.STUCK_SECONDS + 1
        time.sleep(0.3)  # thirty beats of a process that is not stuck
        assert not beats()
        progress()
        wait_for_a_beat()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="FRAUD_WORK"):
        acquire(tmp_path / "file" / "part.lock")


@pytest.mark.crash
def test_a_stopped_process_is_replaced_while_a_running_one_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ConcurrentWriterError, match=f"process {first.pid} "), writer_lock(tmp_path, 2.0):
            pass
        first.send_signal(signal.SIGSTOP)
        with writer_lock(tmp_path, PATIENCE) as ours:
            first.send_signal(signal.SIGCONT)
            assert first.stdout.readline() == "lost\n"
            assert first.wait(PATIENCE) == 0
            assert ours.is_ours
            with pytest.raises(ConcurrentWriterError, match=f"process {os.getpid()} "), writer_lock(tmp_path, 0):
                pass


@pytest.mark.crash
def test_a_process_stopped_in_the_queue_keeps_nobody_out(tmp_path: Path) -> None:
    with process_lock(tmp_path / "beside.lock", 0, "writes"):
        waiting = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        while not is_held(tmp_path / "beside.queue"):
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGSTOP)
    with writer_lock(tmp_path, PATIENCE):
        pass
    waiting.kill()
    waiting.communicate()
