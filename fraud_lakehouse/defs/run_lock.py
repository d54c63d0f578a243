"""Proof that a run's process is alive: a lock that ends with the process, with a heartbeat (storage/lease.py).

Dagster's default launcher cannot tell a killed run from a slow one once its code server is gone too (machine
restarted, demo killed), nor a stopped one ever; such a run would stay "started" and hold its pool for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lease import Lease, create, holder

State = Literal["held", "hung", "free", "absent"]


def _path(settings: Settings, run_id: str) -> Path:
    return settings.work_dir / "runs" / f"{run_id}.lock"


def hold_lock(settings: Settings, run_id: str) -> Lease:
    """Hold the run's lock until this process is gone: nobody is to release it.

    Longer than the run's last step: Dagster writes what became of a run after its resources are closed. So a lock
    that is free means that nothing more will be written.
    """
    return create(_path(settings, run_id))


def lock_state(settings: Settings, run_id: str) -> State:
    """Whether a process holds the run's lock.

    "hung": its process does not answer; "free": its process is gone; "absent": its first step has not begun.
    """
    path = _path(settings, run_id)
    if not path.exists():  # first: a file that appears is locked
        return "absent"
    found = holder(path)
    if found is None:
        return "free"
    return "hung" if found.is_hung else "held"


def free_locks(settings: Settings) -> list[str]:
    """The ids of runs whose process is gone and whose lock has not been forgotten."""
    ids = sorted(path.stem for path in (settings.work_dir / "runs").glob("*.lock"))
    return [run_id for run_id in ids if lock_state(settings, run_id) == "free"]


def forget_lock(settings: Settings, run_id: str) -> None:
    """Remove the lock of a run that has ended, or is given up: its process, should it go on, finds that out by it."""
    _path(settings, run_id).unlink(missing_ok=True)
