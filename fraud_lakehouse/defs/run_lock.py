"""Proof that a run's process is alive: a lock the kernel takes back the moment the process is gone.

Dagster's default launcher cannot tell a killed run from a slow one once its code server is gone too (machine
restarted, demo killed); such a run would stay "started" and hold its pool for ever.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

from fraud_lakehouse.settings import Settings

State = Literal["held", "free", "absent"]


def _path(settings: Settings, run_id: str) -> Path:
    return settings.work_dir / "runs" / f"{run_id}.lock"


def hold_lock(settings: Settings, run_id: str) -> int:
    """Hold the run's lock until this process is gone; returns the descriptor, which nobody is to close.

    Longer than the run's last step: Dagster writes what became of a run after its resources are closed. So a lock
    that is free means that nothing more will be written.
    """
    path = _path(settings, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    unseen = path.with_suffix(".new")  # appears under its name only once it is locked
    handle = os.open(unseen, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unseen.rename(path)
    return handle


def lock_state(settings: Settings, run_id: str) -> State:
    """Whether a process holds the run's lock; "free": its process is gone; "absent": its first step has not begun."""
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


def free_locks(settings: Settings) -> list[str]:
    """The ids of runs whose process is gone and whose lock has not been forgotten."""
    ids = sorted(path.stem for path in (settings.work_dir / "runs").glob("*.lock"))
    return [run_id for run_id in ids if lock_state(settings, run_id) == "free"]


def forget_lock(settings: Settings, run_id: str) -> None:
    """Remove what is left of a run whose process is gone."""
    _path(settings, run_id).unlink(missing_ok=True)
