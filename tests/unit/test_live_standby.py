"""One live cycle a lake: the next one stands by, is known to, and takes over when the first ends or dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fraud_lakehouse.live import standby
from fraud_lakehouse.live.standby import live_lock, run_live
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lease import LeaseLostError, create, is_held
from tests.patience import PATIENCE

HOLDER = """
import sys, time
from pathlib import Path
from fraud_lakehouse.live.standby import live_lock
with live_lock(Path(sys.argv[1]), lambda: False) as lease:
    print("running", flush=True)
    while lease.is_ours:
        time.sleep(0.05)
    print("replaced", flush=True)
"""


def never() -> bool:
    return False


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_over_from_one_that_is_killed_or_stopped(tmp_path: Path, fault: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "running\n"
        assert not is_held(tmp_path / "live.queue"), "nobody stands by yet"
        ours, over = threading.Event(), threading.Event()

        def stand_by() -> None:
            with live_lock(tmp_path, never) as lease:
                if lease is not None:
                    ours.set()
                    over.wait(PATIENCE)

        thread = threading.Thread(target=stand_by)
        thread.start()
        while not is_held(tmp_path / "live.queue"):
            pass
        assert not ours.is_set()
        first.send_signal(fault)
        assert ours.wait(PATIENCE)
        assert is_held(tmp_path / "live.lock") and not is_held(tmp_path / "live.queue")
        first.send_signal(signal.SIGCONT)
        assert first.stdout.readline() == ("replaced\n" if fault == signal.SIGSTOP else "")
        first.wait(PATIENCE)
        assert is_held(tmp_path / "live.lock"), "the one that goes on has taken nothing back"
        over.set()
        thread.join(PATIENCE)
    assert not is_held(tmp_path / "live.queue") and not is_held(tmp_path / "live.lock")


def test_a_process_that_was_replaced_ends_its_loop_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        def __init__(self, _settings: Settings) -> None: ...

        def __enter__(self) -> Part:
            return self

        def __exit__(self, *exception: object) -> None: ...

    def loop(_cycle: Part, _beside: Part, stop: Callable[[], bool], _report: object) -> None:
        assert not stop()
        create(tmp_path / "live.lock").release()  # as one that takes over does
        assert stop()

    monkeypatch.setattr(standby, "Cycle", Part)
    monkeypatch.setattr(standby, "BackgroundWorker", Part)
    monkeypatch.setattr(standby, "run_until", loop)
    with pytest.raises(LeaseLostError, match="this live process did not respond"):
        run_live(Settings(work=str(tmp_path)), never, lambda result: None)


def test_a_standby_that_is_told_to_stop_does_not_wait(tmp_path: Path) -> None:
    with live_lock(tmp_path, never) as first, live_lock(tmp_path, lambda: True) as second:
        assert first is not None and second is None


def test_the_process_beside_is_waited_for_once_turn_and_deliveries_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held_at_end = tmp_path / "live.lock", []

    class Part:
        def __init__(self, _settings: Settings) -> None:
            self.is_open = True
            opened.append(self)

        def __enter__(self) -> Part:
            return self

    class FakeCycle(Part):
        def __exit__(self, *exception: object) -> None:
            self.is_open = False
            held_at_end.append(("cycle", is_held(lock)))

    class FakeBeside(Part):
        def __exit__(self, *exception: object) -> None:
            cycle_is_open = any(one.is_open for one in opened if isinstance(one, FakeCycle))
            held_at_end.append(("beside", is_held(lock) or cycle_is_open))

    opened: list[Part] = []
    monkeypatch.setattr(standby, "Cycle", FakeCycle)
    monkeypatch.setattr(standby, "BackgroundWorker", FakeBeside)
    monkeypatch.setattr(standby, "run_until", lambda *arguments: held_at_end.append(("loop", is_held(lock))))
    run_live(Settings(work=str(tmp_path)), never, lambda result: None)
    assert held_at_end == [("loop", True), ("cycle", False), ("beside", False)]
