"""Tables that are not captured, in Dagster: a check on a bronze asset, and a sensor that sends a message of each.

Which they are, and why, is decided in `ingest/ineligible_tables.py`.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.defs.alerts import notify
from fraud_lakehouse.defs.bronze import bronze_key, configured
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.errors import LakehouseError

if TYPE_CHECKING:
    from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
    from fraud_lakehouse.settings import Settings

CHECK = "tables_captured"
ASSET = bronze_key("transactions")
Read = Callable[["Settings"], "Sequence[IneligibleTable]"]


def tables_evaluation(settings: "Settings", read: Read) -> Iterator[dg.AssetCheckEvaluation]:
    """The check, evaluated now; nothing where no PostgreSQL is configured. The live run logs it as it is."""
    if not configured(settings, "postgres"):
        return
    try:
        found = read(settings)
    except LakehouseError as error:
        yield _evaluation(False, {"problem": error.problem, "what to do": error.fix})
        return
    listed = "\n".join(f"- {one.table}: {one.problem}. What to do: {one.fix}" for one in found)
    yield _evaluation(not found, {"tables": len(found), "not captured": dg.MetadataValue.md(listed or "-")})


def tables_check(settings: "Settings") -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `tables_captured`; none where no PostgreSQL is configured."""
    if not configured(settings, "postgres"):
        return []

    @dg.asset_check(
        asset=ASSET,
        name=CHECK,
        blocking=False,
        description="Every table that was asked for is captured; names those that are not, with reason and remedy.",
    )
    def tables_captured(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = tables_evaluation(lakehouse.settings, lakehouse.parts.tables)
        return check_result(evaluation)

    return [tables_captured]


def tables_sensor(settings: "Settings", read: Read) -> dg.SensorDefinition:
    """The sensor that sends a message when a table is not captured, when the reason changes, and when it is again.

    The cursor has the problem reported last by table, and the number of messages; one that was not taken is sent again.
    """

    @dg.sensor(
        name="watch_tables",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends a warning to FRAUD_ALERT_URLS when a table is not captured, and a message when it is again.",
    )
    def watch_tables(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not configured(settings, "postgres"):
            return dg.SkipReason("FRAUD_POSTGRES_DSN is not set, so there are no tables to capture.")
        try:
            found = read(settings)
        except LakehouseError as error:
            return dg.SkipReason(f"Cannot read which tables are captured: {error.problem}. {error.fix}".strip())
        known = json.loads(context.cursor) if context.cursor else {"problems": {}, "number": 0}
        problems = {one.table: one.problem for one in found}
        said = "; ".join(problems.values()) or "Every table is captured."
        if problems == known["problems"]:
            return dg.SkipReason(said)
        number = known["number"] + 1
        if settings.alert_urls:
            again = sorted(known["problems"].keys() - problems.keys())
            notify(settings, tables_message(found, again, number))
        context.update_cursor(json.dumps({"problems": problems, "number": number}))
        return dg.SkipReason(said)

    return watch_tables


def tables_message(found: "Sequence[IneligibleTable]", again: Sequence[str], number: int) -> Message:
    """The message about tables that are not captured.

    Args:
        found: all of them.
        again: those that were not, and are captured again.
        number: counts the messages, so that each has an idempotency key of its own.
    """
    names = ", ".join(one.table for one in found)
    lines = [f"{one.table}: {one.problem}\nWhat to do: {one.fix}" for one in found]
    lines += [f"{table} is captured again; what it lacked was made good." for table in again]
    return Message(
        key=f"tables:{number}",
        title=f"[pipeline] not captured: {names}" if found else "[pipeline] every table is captured",
        body="\n".join(lines),
        urgency="warning" if found else "info",
        payload={"not_captured": [one.table for one in found], "captured_again": list(again)},
    )


def _evaluation(passed: bool, metadata: dict[str, Any]) -> dg.AssetCheckEvaluation:
    severity = dg.AssetCheckSeverity.WARN
    return dg.AssetCheckEvaluation(
        asset_key=ASSET, check_name=CHECK, passed=passed, severity=severity, metadata=metadata, blocking=False
    )
