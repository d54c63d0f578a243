"""Proves that a run's process is alive: a lock that ends with the process, with a heartbeat (storage/lease.py).

Dagster's default launcher cannot distinguish a killed run from a slow one once its code server is gone too (machine
restarted, demo killed), and never notices a stopped one. Such a run would stay "started" and occupy its pool for ever.
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
    """Hold the run's lock until this process ends; nothing releases it earlier.

    Dagster writes the run's final status after its resources are closed. So a free lock means that nothing more will
    be written.
    """
    return create(_path(settings, run_id))


def lock_state(settings: Settings, run_id: str) -> State:
    """The state of the run's lock.

    "held": by a process that responds; "hung": by one that does not; "free": the process has ended; "absent": the run's
    first step has not begun.
    """
    path = _path(settings, run_id)
    if not path.exists():  # check this first: a lock file is locked before it appears
        return "absent"
    found = holder(path)
    if found is None:
        return "free"
    return "hung" if found.is_hung else "held"


def free_locks(settings: Settings) -> list[str]:
    """Ids of the runs whose process has ended and whose lock file still exists."""
    ids = sorted(path.stem for path in (settings.work_dir / "runs").glob("*.lock"))
    return [run_id for run_id in ids if lock_state(settings, run_id) == "free"]


def forget_lock(settings: Settings, run_id: str) -> None:
    """Remove the lock of a run that has ended or was replaced; a process that resumes later notices it."""
    _path(settings, run_id).unlink(missing_ok=True)
