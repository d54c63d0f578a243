"""Whether the live cycle keeps up with its sources: judged from the summary that it leaves in `<work>/live.json`.

What is in the summary is decided in `live/metrics.py`.
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
    """What is known of the live cycle.

    Args:
        running: whether a process runs this lake's live cycle now, and answers.
        holder: the process that has the live cycle's lease, whether or not it answers.
        age: seconds since it wrote its summary.
        summary: the summary (`Metrics.summary`), of the newest cycle there was.
    """

    running: bool
    age: float
    summary: dict[str, Any]
    holder: Holder | None = None


@dataclass(frozen=True)
class KeepingUp:
    """Seconds, and rows landed but not scored, by source; `limit` is what the seconds may be.

    `reasons` are sentences, none when all is well; `running` is whether there is a live cycle at all.
    """

    running: bool
    limit: float
    seconds: dict[str, float]
    rows: dict[str, int]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the cycle keeps up, or there is none that could fall behind."""
        return not self.reasons


def live_state(work: Path, now: datetime | None = None) -> LiveState | None:
    """The live cycle whose work folder this is; None when there never was one."""
    try:
        summary = json.loads((work / "live.json").read_text())
    except FileNotFoundError:
        return None
    age = ((now or datetime.now(UTC)) - datetime.fromisoformat(summary["at"])).total_seconds()
    found = holder(work / "live.lock")
    return LiveState(found is not None and not found.is_hung, max(0.0, round(age, 1)), summary, found)


def keeping_up(work: Path, limit: float, now: datetime | None = None) -> KeepingUp:
    """Judge whether the live cycle keeps up; it does not with a source that does not say what it holds.

    Args:
        limit: seconds that the oldest row not yet scored may be old, besides its source's update delay.
        now: UTC; default: the clock.
    """
    state = live_state(work, now)
    if state is None or state.holder is None:
        return KeepingUp(False, limit, {}, {}, ())
    behind = state.summary["behind"]
    reasons = [
        f"{source} is {one['seconds']:.0f} s behind, with {one['rows']:,} rows landed and not scored"
        for source, one in behind.items()
        if one["seconds"] > limit + one.get("delay", 0.0)
    ]
    reasons += [
        f"{source} has not said since {one['away_since']} what it holds: it is away, waits for a person, or is busy "
        "with one batch (see `fraud-lakehouse status`)"
        for source, one in behind.items()
        if one.get("away_since")
    ]
    if state.holder.is_hung:
        reasons.append(
            f"process {state.holder.pid} runs the live cycle and has not answered for {state.holder.age:.0f} s: it is"
            " stopped, swapped out or stuck, and nobody stands by to replace it"
        )
    elif state.age > SILENT_SECONDS and _is_alive(state.summary["pid"]):
        reasons.append(f"the cycle of process {state.summary['pid']} has ended no round for {state.age:.0f} s")
    seconds = {source: float(one["seconds"]) for source, one in behind.items()}
    rows = {source: int(one["rows"]) + int(one["source_rows"] or 0) for source, one in behind.items()}
    return KeepingUp(state.running, limit, seconds, rows, tuple(reasons))


def _is_alive(pid: int) -> bool:
    """Whether the summary's own process is still there: a successor has not written one yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
