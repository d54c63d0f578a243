"""Proof that a run's process is alive: a lock the kernel takes back the moment the process is gone.

Dagster's default launcher cannot tell a killed run from a slow one once its code server is gone too (machine
restarted, demo killed); such a run would stay "started" and hold its pool for ever.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fraud_lakehouse.settings import Settings

State = Literal["held", "free", "absent"]


def _path(settings: Settings, run_id: str) -> Path:
    return settings.work_dir / "runs" / f"{run_id}.lock"


@contextmanager
def run_lock(settings: Settings, run_id: str) -> Iterator[None]:
    """Hold the run's lock while the block runs. The file goes with it unless the process is killed."""
    path = _path(settings, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    unseen = path.with_suffix(".new")  # appears under its name only once it is locked
    handle = os.open(unseen, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        unseen.rename(path)
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def lock_state(settings: Settings, run_id: str) -> State:
    """Whether a process holds the run's lock; "absent": the run has not begun its first step, or has ended."""
    try:
        handle = os.open(_path(settings, run_id), os.O_RDWR)
    except FileNotFoundError:
        return "absent"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    finally:
        os.close(handle)
    return "free"


def forget_lock(settings: Settings, run_id: str) -> None:
    """Remove what a killed run left."""
    _path(settings, run_id).unlink(missing_ok=True)
