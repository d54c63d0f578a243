"""Whether the replication slot is in danger of being invalidated, from what the server retains for it.

If a slot is not read, the server retains log until its disk is full, or until max_slot_wal_keep_size; then the slot is
invalidated and later changes cannot be captured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from fraud_lakehouse.sources.postgres.retention import Retention
from fraud_lakehouse.sources.postgres.slot_state import format_lsn

WARN_SHARE = 0.5
ALERT_SHARE = 0.8


class Level(StrEnum):
    """Severity, from good to bad."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 is good."""
        return list(Level).index(self)


@dataclass(frozen=True)
class SlotHealth:
    """A slot's state.

    Args:
        level: the worst of the reasons.
        reasons: sentences, each with its figures and what to do; none if all is well.
        used_share: retained log over the limit; None without a slot or after its loss.
        lost: whether changes after our position are lost; capture cannot start.
        limit_bytes: how much may be retained: the server's limit, else the setting's.
        retention: the facts.
    """

    level: Level
    reasons: tuple[str, ...]
    used_share: float | None
    limit_bytes: int
    retention: Retention
    lost: bool = False

    def evidence(self) -> dict[str, Any]:
        """Level, reasons and facts as plain values; sizes in bytes, times in seconds."""
        share = None if self.used_share is None else round(self.used_share, 4)
        facts = asdict(self.retention) | {"limit_bytes": self.limit_bytes}
        return {"level": self.level.value, "reasons": list(self.reasons), "used_share": share, **facts}


def assess(found: Retention, allowed_bytes: int, awaited: int | None) -> SlotHealth:
    """Evaluate what the server retains.

    Half of the limit is a warning, four fifths an error; the same shares apply to the time after which the server
    invalidates an idle slot. With a server limit, `extended` is an error too: the next step is the loss.

    Args:
        found: the server's side.
        allowed_bytes: the limit if the server has none (FRAUD_SLOT_RETAINED_BYTES).
        awaited: the LSN from which capture reads on, for which the slot must exist; None: nothing was ingested, or the
            operator gave the position up (`ingest/operator_actions.py`).
    """
    limit = allowed_bytes if found.limit_bytes is None else found.limit_bytes
    if not found.exists and awaited is None:
        return SlotHealth(Level.OK, (), None, limit, found)
    if lost := _loss(found, awaited):
        return SlotHealth(Level.ERROR, (f"{lost}; run `fraud-lakehouse resync`",), None, limit, found, lost=True)
    share = _used(found, limit)
    judged = [
        _by_share(share, f"{_size(found.retained_bytes or 0)} of log are retained for the slot, of {_size(limit)}"),
        _by_status(found),
        _by_idleness(found),
    ]
    output = [(level, words) for level, words in judged if level is not Level.OK]
    worst = max((level for level, _ in output), key=lambda level: level.rank, default=Level.OK)
    return SlotHealth(worst, tuple(words for _, words in output), share, limit, found)


def _loss(found: Retention, awaited: int | None) -> str | None:
    """Why the changes after our position are lost; None if they are not."""
    if not found.exists:
        return f"the slot is gone, but the lake has changes up to {format_lsn(awaited or 0)}: those after it are lost"
    if found.wal_status == "lost" or found.invalidation_reason is not None:
        return f"the server has invalidated the slot ({found.invalidation_reason or 'lost'})"
    return None


def _used(found: Retention, limit: int) -> float:
    """The used share of the limit: by size, and by what the server reports as left."""
    kept = (found.retained_bytes or 0) / max(limit, 1)
    left = 0.0 if found.safe_bytes is None else 1.0 - found.safe_bytes / max(limit, 1)
    return max(0.0, kept, left if found.limit_bytes is not None else 0.0)


def _by_share(share: float, words: str) -> tuple[Level, str]:
    advice = "start capture (`fraud-lakehouse live`), or drop the slot: `fraud-lakehouse forget-slot`"
    level = Level.ERROR if share >= ALERT_SHARE else Level.WARNING if share >= WARN_SHARE else Level.OK
    return level, f"{words} ({share:.0%}); {advice}"


def _by_status(found: Retention) -> tuple[Level, str]:
    if found.wal_status == "unreserved":
        return Level.ERROR, "the server will invalidate the slot at its next checkpoint; start capture now"
    if found.wal_status == "extended":
        level = Level.WARNING if found.limit_bytes is None else Level.ERROR
        return level, "the server retains more log than max_wal_size for the slot (wal_status extended)"
    return Level.OK, ""


def _by_idleness(found: Retention) -> tuple[Level, str]:
    idle, limit = found.inactive_seconds, found.idle_limit_seconds
    if idle is None or not limit:
        return Level.OK, ""
    level, _ = _by_share(idle / limit, "")
    return level, f"nobody has read the slot for {idle:.0f} s; the server invalidates it after {limit:.0f} s"


def _size(count: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} bytes"
