"""What of a status report needs a person, in a few words each: the first thing that `status` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fraud_lakehouse.checks.status import SourceStatus, Status


def counted(number: int, name: str) -> str:
    """A number of things: "1 rule", "2 rules"."""
    return f"{number:,} {name}" + ("" if number == 1 else "s")


def attention(status: Status) -> list[str]:
    """One line for each kind of problem; none if all is well. The report below says more about each."""
    found = [line for source in status.sources for line in _of_source(source)]
    unreadable = [f"{layer}/{row['table']}" for layer, rows in status.layers.items() for row in rows if row["error"]]
    found += [f"tables that cannot be read: {', '.join(unreadable)}"] if unreadable else []
    failing = sum(1 for one in status.alerts.get("destinations", ()) if one["failures"])
    found += [f"alerts are not delivered to {counted(failing, 'destination')}"] if failing else []
    if status.live and not status.live["running"] and status.live.get("lease"):
        found.append("the live cycle hangs")
    if status.live and status.live["running"]:
        found += [f"the live cycle has a problem with {part}" for part in status.live.get("problems", {})]
    found += [f"{counted(len(status.rules), 'rule')} with mistakes, not evaluated"] if status.rules else []
    outdated = [one["table"] for one in status.outdated]
    found += [f"features of another definition in {', '.join(outdated)}"] if outdated else []
    found += [f"{counted(status.quarantined, 'record')} in quarantine"] if status.quarantined else []
    found += [f"{counted(len(status.problems), 'gap')} that capture has not resumed from"] if status.problems else []
    return found


def _of_source(source: SourceStatus) -> Iterator[str]:
    if source.error:
        yield f"{source.name} cannot be read"
    level = source.slot_health["level"] if source.slot_health else "ok"
    if level != "ok":
        yield f"{source.name}: slot {level}"
    if source.left_out:
        yield f"{source.name}: {counted(len(source.left_out), 'table')} not captured"
    if any(one["hanging"] for one in source.open_transactions):
        yield f"{source.name}: a transaction hangs"
