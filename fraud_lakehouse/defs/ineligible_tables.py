"""Ineligible tables in Dagster: a check on a bronze asset, and a sensor that sends a message about each.

`ingest/ineligible_tables.py` decides which tables are ineligible, and why.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.defs.alerts import notify
from fraud_lakehouse.defs.bronze import checked_databases
from fraud_lakehouse.defs.metadata import Assessed, check_result, evaluated, known_by_source
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.postgres.config import PostgresConfig

if TYPE_CHECKING:
    from fraud_lakehouse.ingest.ineligible_tables import IneligibleTable
    from fraud_lakehouse.settings import Settings

CHECK = "tables_captured"
Read = Callable[[PostgresConfig, "Settings"], "Sequence[IneligibleTable]"]


def tables_evaluation(settings: "Settings", read: Read) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each configured database, evaluated now. The live run logs the result as it is."""
    return (_evaluated(config, asset, settings, read) for config, asset in checked_databases(settings))


def _evaluated(config: PostgresConfig, asset: dg.AssetKey, settings: "Settings", read: Read) -> dg.AssetCheckEvaluation:
    return evaluated(asset, CHECK, lambda: _assessed(read(config, settings)))


def _assessed(found: "Sequence[IneligibleTable]") -> Assessed:
    listed = "\n".join(f"- {one.table}: {one.problem}. What to do: {one.fix}" for one in found)
    metadata = {"tables": len(found), "not captured": dg.MetadataValue.md(listed or "-")}
    return not found, dg.AssetCheckSeverity.WARN, metadata


def tables_check(settings: "Settings") -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `tables_captured` of each configured database."""
    return [_check(config, asset) for config, asset in checked_databases(settings)]


def _check(config: PostgresConfig, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=CHECK,
        blocking=False,
        description="Every requested table is captured; names those that are not, with reason and remedy.",
    )
    def tables_captured(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        return check_result(_evaluated(config, asset, lakehouse.settings, lakehouse.parts.tables))

    return tables_captured


def tables_sensor(settings: "Settings", read: Read) -> dg.SensorDefinition:
    """The sensor that sends a message when a table becomes ineligible, the reason changes, or it is captured again.

    Per source, the cursor stores the problem last reported for each table, and the number of messages. A message that
    no destination accepted is sent again.
    """

    @dg.sensor(
        name="watch_tables",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends a warning to FRAUD_ALERT_URLS when a table is not captured, and a message when it is again.",
    )
    def watch_tables(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        known = known_by_source(context.cursor)
        lines = []
        for config, _ in checked_databases(settings):
            try:
                found = read(config, settings)
            except LakehouseError as error:
                lines.append(
                    f"Cannot read which tables of {config.name} are captured: {error.problem}. {error.fix}".strip()
                )
                continue
            before = known.get(config.name, {"problems": {}, "number": 0})
            problems = {one.table: one.problem for one in found}
            lines.append("; ".join(problems.values()) or f"Every table of {config.name} is captured.")
            if problems != before["problems"]:
                number = before["number"] + 1
                if settings.alert_urls:
                    again = sorted(before["problems"].keys() - problems.keys())
                    notify(settings, tables_message(config.name, found, again, number))
                known[config.name] = {"problems": problems, "number": number}
                context.update_cursor(json.dumps(known))
        return dg.SkipReason(" ".join(lines) or "No PostgreSQL source is configured, so there are no tables.")

    return watch_tables


def tables_message(source: str, found: "Sequence[IneligibleTable]", again: Sequence[str], number: int) -> Message:
    """The message about ineligible tables.

    Args:
        source: the database's name.
        found: all ineligible tables.
        again: tables that are captured again.
        number: counts the messages, so that each has an idempotency key of its own.
    """
    names = ", ".join(one.table for one in found)
    lines = [f"{one.table}: {one.problem}\nWhat to do: {one.fix}" for one in found]
    lines += [f"{table} is captured again, with the rows that it lacked." for table in again]
    return Message(
        key=f"tables:{source}:{number}",
        title=f"[pipeline] not captured: {names}" if found else f"[pipeline] every table of {source} is captured",
        body="\n".join(lines),
        urgency="warning" if found else "info",
        payload={"source": source, "not_captured": [one.table for one in found], "captured_again": list(again)},
    )
