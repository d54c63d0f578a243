"""The checks on amounts and event times that count nowhere. What counts them is `checks/excluded_values.py`."""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.checks.excluded_values import CARDS, LEDGER, evaluate_excluded_values
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.excluded_values import ExcludedValues
    from fraud_lakehouse.settings import Settings

CHECK = "excluded_values"
TABLES = (CARDS, LEDGER)


def excluded_evaluations(
    lake: Lake, settings: "Settings", tables: tuple[tuple[str, str], ...] = TABLES
) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each table, evaluated now; the live run logs them as they are."""
    for table in tables:
        found = evaluate_excluded_values(lake, table)
        yield dg.AssetCheckEvaluation(
            asset_key=table_key(*table),
            check_name=CHECK,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=excluded_metadata(found, settings),
            blocking=False,
        )


def excluded_metadata(found: "ExcludedValues", settings: "Settings") -> dict[str, Any]:
    """Counts, the limits, and a few of the payments."""
    return {
        "amounts excluded": found.amounts,
        "event times excluded": found.times,
        "largest amount": settings.max_amount,
        "most seconds ahead": settings.max_future,
        "since": dg.MetadataValue.timestamp(found.since),
        **({"examples": dg.MetadataValue.json(list(found.examples))} if found.examples else {}),
    }


def excluded_checks() -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `excluded_values` on each table of payments in silver."""
    return [_check(table) for table in TABLES]


def _check(table: tuple[str, str]) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table_key(*table),
        name=CHECK,
        blocking=False,
        description="No payment of the last hour had an amount beyond FRAUD_MAX_AMOUNT, "
        "or an event time more than FRAUD_MAX_FUTURE after its record's own timestamp.",
    )
    def excluded_values(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = excluded_evaluations(lakehouse.lake, lakehouse.settings, (table,))
        return check_result(evaluation)

    return excluded_values
