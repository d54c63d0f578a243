"""The replication slot's health in Dagster: a check on a bronze asset, and a sensor that notifies people in time.

`checks/slot_health.py` decides what is healthy.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.defs.alerts import notify
from fraud_lakehouse.defs.bronze import checked_databases
from fraud_lakehouse.defs.metadata import Assessed, check_result, evaluated, known_by_source
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.postgres.config import PostgresConfig

if TYPE_CHECKING:
    from fraud_lakehouse.checks.slot_health import SlotHealth
    from fraud_lakehouse.settings import Settings

CHECK = "slot_retention"
Poll = Callable[[PostgresConfig, "Settings"], "SlotHealth"]


def slot_evaluation(settings: "Settings", poll: Poll) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each configured database, evaluated now. The live run logs the result as it is."""
    return (_evaluated(config, asset, settings, poll) for config, asset in checked_databases(settings))


def _evaluated(config: PostgresConfig, asset: dg.AssetKey, settings: "Settings", poll: Poll) -> dg.AssetCheckEvaluation:
    return evaluated(asset, CHECK, lambda: _assessed(poll(config, settings)))


def _assessed(health: "SlotHealth") -> Assessed:
    severity = dg.AssetCheckSeverity.ERROR if health.level.value == "error" else dg.AssetCheckSeverity.WARN
    return health.level.value == "ok", severity, health_metadata(health)


def health_metadata(health: "SlotHealth") -> dict[str, Any]:
    """The evidence: reasons, retained bytes, limits, status; unknown values are omitted."""
    shown = {name: value for name, value in health.evidence().items() if value is not None and name != "reasons"}
    return {**shown, "reasons": dg.MetadataValue.md("\n".join(f"- {one}" for one in health.reasons))}


def slot_check(settings: "Settings") -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `slot_retention` of each configured database."""
    return [_check(config, asset) for config, asset in checked_databases(settings)]


def _check(config: PostgresConfig, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=CHECK,
        blocking=False,
        description="The server will not invalidate the replication slot soon: log retained, what is left, idle time.",
    )
    def slot_retention(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        return check_result(_evaluated(config, asset, lakehouse.settings, lakehouse.parts.slot))

    return slot_retention


def slot_sensor(settings: "Settings", poll: Poll) -> dg.SensorDefinition:
    """The sensor that notifies the alert destinations when the slot's level changes.

    Per source, the cursor stores the level sent last. A message that no destination accepted is sent again at the next
    tick.
    """

    @dg.sensor(
        name="watch_slot",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Warns FRAUD_ALERT_URLS long before the server invalidates the replication slot.",
    )
    def watch_slot(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        known = known_by_source(context.cursor)
        lines = []
        for config, _ in checked_databases(settings):
            try:
                health = poll(config, settings)
            except LakehouseError as error:
                lines.append(f"Cannot read the slot of {config.name}: {error.problem}. {error.fix}".strip())
                continue
            before = known.get(config.name, {"level": "ok", "number": 0})
            level = health.level.value
            lines.append(
                f"The slot of {config.name} is {level}{': ' if health.reasons else '.'}{'; '.join(health.reasons)}"
            )
            if level != before["level"]:
                known[config.name] = {"level": level, "number": before["number"] + 1}
                if settings.alert_urls:
                    notify(settings, slot_message(config, health, before["number"] + 1))
                context.update_cursor(json.dumps(known))
        return dg.SkipReason(" ".join(lines) or "No PostgreSQL source is configured, so there is no slot.")

    return watch_slot


def slot_message(config: PostgresConfig, health: "SlotHealth", number: int) -> Message:
    """The notification about a slot whose level changed.

    Args:
        number: counts the notifications, so that each has an idempotency key of its own.
    """
    slot, level = config.slot, health.level.value
    titles = {
        "ok": f"[pipeline] replication slot {slot} is healthy again",
        "warning": f"[pipeline] replication slot {slot} retains much log",
        "error": f"[pipeline] replication slot {slot} is {'lost' if health.lost else 'in danger'}",
    }
    body = "\n".join(health.reasons) or "The server retains little log for it."
    urgency = {"ok": "info", "warning": "warning", "error": "failure"}
    return Message(
        key=f"slot:{config.name}:{slot}:{number}:{level}",
        title=titles[level],
        body=body,
        urgency=urgency[level],  # type: ignore[arg-type]  # the values are those of Urgency
        payload={"source": config.name, "slot": slot, **health.evidence()},
    )
