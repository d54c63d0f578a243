"""The sensor that notifies people of a source that is not captured: at once of a gap, after 5 minutes if unreachable.

It uses the check of `capture_check.py`; `slot_health.py` watches the replication slot.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.defs.alerts import notify
from fraud_lakehouse.defs.bronze import checked_sources
from fraud_lakehouse.defs.capture_check import Evaluated, newest_evaluation
from fraud_lakehouse.defs.metadata import known_by_source

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

LASTING_SECONDS = 300.0  # by then, the restart of a server is over
LEVELS = ("well", "away", "stopped")
_UNTOLD: dict[str, Any] = {"level": "well", "since": None, "number": 0}


def watch_sensor(settings: "Settings") -> dg.SensorDefinition:
    """The sensor `watch_sources`.

    Per source, its cursor stores the level reported last (of LEVELS), since when the source is not captured, and the
    number of messages. A message that no destination accepted is sent again at the next tick.
    """

    @dg.sensor(
        name="watch_sources",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Notifies FRAUD_ALERT_URLS at once of a source with a gap, after 5 minutes of one that is"
        " unreachable, and when it is captured again.",
    )
    def watch_sources(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        states: dict[str, dict[str, Any]] = known_by_source(context.cursor)
        lines = []
        for config, asset in checked_sources(settings):
            source = config.name
            found = newest_evaluation(context.instance, asset)
            if found is None:
                continue
            before = states.get(source, _UNTOLD)
            after = states[source] = next_state(before, found)
            if settings.alert_urls and after["number"] > before["number"]:
                notify(settings, source_message(source, after["level"], found, after["number"]))
            lines.append(f"{source}: {found.problem_found.problem if found.problem_found else 'captured'}")
        context.update_cursor(json.dumps(states))
        return dg.SkipReason("; ".join(lines) or "Nothing has been captured yet.")

    return watch_sources


def next_state(before: dict[str, Any], found: Evaluated) -> dict[str, Any]:
    """The cursor's state of a source after an evaluation; `number` grows if people should be notified."""
    if found.problem_found is None:
        is_news = before["level"] != "well"
        return {"level": "well", "since": None, "number": before["number"] + is_news}
    since = found.at if before["since"] is None else before["since"]
    level = "stopped" if found.problem_found.is_gap else "away" if found.at - since >= LASTING_SECONDS else "well"
    is_worse = LEVELS.index(level) > LEVELS.index(before["level"])
    return {
        "level": level if is_worse else before["level"],
        "since": since,
        "number": before["number"] + is_worse,
    }


def source_message(source: str, level: str, found: Evaluated, number: int) -> Message:
    """The notification about a source whose level changed.

    Args:
        number: counts the messages, so that each has an idempotency key of its own.
    """
    problem, fix = (found.problem_found.problem, found.problem_found.fix) if found.problem_found else ("", "")
    titles = {
        "well": f"[pipeline] {source} is captured again",
        "away": f"[pipeline] {source} is unreachable",
        "stopped": f"[pipeline] capture of {source} has stopped and needs a person",
    }
    bodies = {
        "well": "Capture continues after the last ingested row.",
        "away": f"{problem}\nWhat to do: {fix}\nCapture is retried; nothing is skipped.",
        "stopped": f"{problem}\nWhat to do: {fix}\nUntil then none of its rows are ingested; nothing is skipped.",
    }
    urgency = {"well": "info", "away": "warning", "stopped": "failure"}
    return Message(
        key=f"capture:{source}:{number}:{level}",
        title=titles[level],
        body=bodies[level],
        urgency=urgency[level],  # type: ignore[arg-type]  # the values are those of Urgency
        payload={"source": source, "level": level, "problem": problem, "what_to_do": fix},
    )
