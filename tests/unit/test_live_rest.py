"""The lanes beside the cycle rest five times as long as they worked, whichever process worked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fraud_lakehouse.live.duty_cycle import Rest


class Clock:
    """Both clocks of `time`, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now + 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_it_lasts_five_times_the_work_or_as_long_as_asked(tmp_path: Path, clock: Clock) -> None:
    rest = Rest(tmp_path)
    assert rest.is_over, "nothing was built yet"
    for worked, at_least, seconds in ((20.0, 10.0, 100.0), (1.0, 10.0, 10.0)):
        rest.begin(worked, at_least)
        clock.now += seconds - 1
        assert not rest.is_over
        clock.now += 1
        assert rest.is_over


def test_the_next_process_rests_for_what_the_last_one_worked(tmp_path: Path, clock: Clock) -> None:
    Rest(tmp_path).begin(20.0, 300.0)
    clock.now += 99
    following = Rest(tmp_path)
    assert not following.is_over
    clock.now += 1
    assert following.is_over, "what else the process before waited for was its own affair"


def test_a_change_ends_it(tmp_path: Path, clock: Clock) -> None:
    rest = Rest(tmp_path)
    rest.begin(20.0, 0.0)
    rest.end()
    assert rest.is_over and Rest(tmp_path).is_over


@pytest.mark.parametrize("text", ["", "soon", "1e12"])
def test_what_cannot_be_a_moment_to_wait_for_is_not_waited_for(tmp_path: Path, clock: Clock, text: str) -> None:
    (tmp_path / "beside.rest").write_text(text)
    assert Rest(tmp_path).is_over


def test_a_folder_that_takes_no_file_costs_nothing_but_the_memory_of_it(tmp_path: Path, clock: Clock) -> None:
    rest = Rest(tmp_path / "absent")
    rest.begin(20.0, 0.0)
    assert not rest.is_over and Rest(tmp_path / "absent").is_over
