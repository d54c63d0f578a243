"""Whether the live cycle keeps up with its sources, from the summary that it writes to `<work>/live.json`.

`live/metrics.py` defines the summary.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fraud_lakehouse.storage.lease import Holder, holder

SILENT_SECONDS = 60.0  # a cycle writes its summary every 5 s


@dataclass(frozen=True)
class LiveState:
    """The known state of the live cycle.

    Args:
        running: whether a process runs this lake's live cycle and responds.
        holder: the process that has the live cycle's lease, whether or not it responds.
        age: seconds since it wrote its summary.
        summary: the newest summary (`Metrics.summary`).
    """

    running: bool
    age: float
    summary: dict[str, Any]
    holder: Holder | None = None


@dataclass(frozen=True)
class KeepingUp:
    """By source: seconds behind, and rows ingested but not scored; `limit` applies to the seconds.

    `reasons` are sentences, none if all is well; `running` is whether there is a live cycle at all.
    """

    running: bool
    limit: float
    seconds: dict[str, float]
    rows: dict[str, int]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the cycle keeps up, or there is no cycle that could fall behind."""
        return not self.reasons


def live_state(work: Path, now: datetime | None = None) -> LiveState | None:
    """The live cycle of this work folder; None if there never was one."""
    try:
        summary = json.loads((work / "live.json").read_text())
    except FileNotFoundError:
        return None
    age = ((now or datetime.now(UTC)) - datetime.fromisoformat(summary["at"])).total_seconds()
    found = holder(work / "live.lock")
    return LiveState(found is not None and not found.is_hung, max(0.0, round(age, 1)), summary, found)


def keeping_up(work: Path, limit: float, now: datetime | None = None) -> KeepingUp:
    """Evaluate whether the live cycle keeps up; it does not if a source stops reporting.

    Args:
        limit: allowed age in seconds of the oldest row not yet scored, on top of its source's update delay.
        now: UTC; default: the clock.
    """
    state = live_state(work, now)
    if state is None or state.holder is None:
        return KeepingUp(False, limit, {}, {}, ())
    behind = state.summary["behind"]
    reasons = [
        f"{source} is {one['seconds']:.0f} s behind, with {one['rows']:,} rows ingested and not scored"
        for source, one in behind.items()
        if one["seconds"] > limit + one.get("delay", 0.0)
    ]
    reasons += [
        f"{source} has not reported since {one['away_since']}: it is unreachable, waits for an operator, or is busy "
        "with one batch (see `fraud-lakehouse status`)"
        for source, one in behind.items()
        if one.get("away_since")
    ]
    if state.holder.is_hung:
        reasons.append(
            f"process {state.holder.pid} runs the live cycle and has not responded for {state.holder.age:.0f} s: it is"
            " stopped, swapped out or stuck, and no standby process replaces it"
        )
    elif state.age > SILENT_SECONDS and _is_alive(state.summary["pid"]):
        reasons.append(f"the cycle of process {state.summary['pid']} has completed no round for {state.age:.0f} s")
    seconds = {source: float(one["seconds"]) for source, one in behind.items()}
    rows = {source: int(one["rows"]) + int(one["source_rows"] or 0) for source, one in behind.items()}
    return KeepingUp(state.running, limit, seconds, rows, tuple(reasons))


def _is_alive(pid: int) -> bool:
    """Whether the summary's process is alive; its successor may not have written a summary yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
