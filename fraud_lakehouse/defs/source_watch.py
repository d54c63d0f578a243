"""The sensor that tells people of a source that is not captured: at once of a gap, after minutes of one that is away.

What it goes by is the check of `capture_check.py`; the replication slot has a watch of its own (`slot_health.py`).
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

LASTING_SECONDS = 300.0  # a restart of a server is over by then
LEVELS = ("well", "away", "stopped")
_UNTOLD: dict[str, Any] = {"level": "well", "since": None, "number": 0}


def watch_sensor(settings: "Settings") -> dg.SensorDefinition:
    """The sensor `watch_sources`.

    Its cursor holds by source the level told last (of LEVELS), since when the source gives nothing, and how many
    messages there were; a message that was not taken is sent again at the next tick.
    """

    @dg.sensor(
        name="watch_sources",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells FRAUD_ALERT_URLS of a source with a gap at once, of one that is away after 5 minutes, and"
        " when it is captured again.",
    )
    def watch_sources(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        told: dict[str, dict[str, Any]] = known_by_source(context.cursor)
        said = []
        for config, asset in checked_sources(settings):
            source = config.name
            found = newest_evaluation(context.instance, asset)
            if found is None:
                continue
            before = told.get(source, _UNTOLD)
            after = told[source] = next_state(before, found)
            if settings.alert_urls and after["number"] > before["number"]:
                notify(settings, source_message(source, after["level"], found, after["number"]))
            said.append(f"{source}: {found.trouble.problem if found.trouble else 'captured'}")
        context.update_cursor(json.dumps(told))
        return dg.SkipReason("; ".join(said) or "Nothing was captured yet.")

    return watch_sources


def next_state(before: dict[str, Any], found: Evaluated) -> dict[str, Any]:
    """What the cursor holds of a source after an evaluation; `number` grows when people are to be told."""
    if found.trouble is None:
        is_news = before["level"] != "well"
        return {"level": "well", "since": None, "number": before["number"] + is_news}
    since = found.at if before["since"] is None else before["since"]
    level = "stopped" if found.trouble.is_gap else "away" if found.at - since >= LASTING_SECONDS else "well"
    is_worse = LEVELS.index(level) > LEVELS.index(before["level"])
    return {
        "level": level if is_worse else before["level"],
        "since": since,
        "number": before["number"] + is_worse,
    }


def source_message(source: str, level: str, found: Evaluated, number: int) -> Message:
    """What people are told of a source whose level changed.

    Args:
        number: counts the messages, so that each has an idempotency key of its own.
    """
    problem, fix = (found.trouble.problem, found.trouble.fix) if found.trouble else ("", "")
    titles = {
        "well": f"[pipeline] {source} is captured again",
        "away": f"[pipeline] {source} gives nothing",
        "stopped": f"[pipeline] capture of {source} has stopped and needs a person",
    }
    bodies = {
        "well": "It goes on after the last row that landed.",
        "away": f"{problem}\nWhat to do: {fix}\nIt is tried again all the time; nothing is skipped.",
        "stopped": f"{problem}\nWhat to do: {fix}\nNothing more of it is landed until then; nothing is skipped.",
    }
    urgency = {"well": "info", "away": "warning", "stopped": "failure"}
    return Message(
        key=f"capture:{source}:{number}:{level}",
        title=titles[level],
        body=bodies[level],
        urgency=urgency[level],  # type: ignore[arg-type]  # the values are those of Urgency
        payload={"source": source, "level": level, "problem": problem, "what_to_do": fix},
    )
