"""The checks on amounts and event times that are excluded from features. `checks/excluded_values.py` counts them."""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.checks.excluded_values import checked_table, evaluate_excluded_values
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.excluded_values import ExcludedValues
    from fraud_lakehouse.settings import Settings

CHECK = "excluded_values"
Streams = Collection[PaymentStream]


def excluded_evaluations(lake: Lake, settings: "Settings", streams: Streams) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each stream, evaluated now; the live run logs the results as they are."""
    for stream in streams:
        found = evaluate_excluded_values(lake, stream)
        yield dg.AssetCheckEvaluation(
            asset_key=table_key("silver", checked_table(stream)),
            check_name=CHECK,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=excluded_metadata(found, settings, stream),
            blocking=False,
        )


def excluded_metadata(found: "ExcludedValues", settings: "Settings", stream: PaymentStream) -> dict[str, Any]:
    """Counts, limits, and a few of the payments."""
    return {
        "amounts excluded": found.amounts,
        "event times excluded": found.times,
        "largest amount": settings.max_amount if stream.max_amount is None else stream.max_amount,
        "most seconds ahead": (settings.max_future if stream.max_future_seconds is None else stream.max_future_seconds),
        "since": dg.MetadataValue.timestamp(found.since),
        **({"examples": dg.MetadataValue.json(list(found.examples))} if found.examples else {}),
    }


def excluded_checks(streams: Streams) -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `excluded_values` on the silver table that records each stream's exclusions."""
    return [_check(stream) for stream in streams]


def _check(stream: PaymentStream) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table_key("silver", checked_table(stream)),
        name=CHECK,
        blocking=False,
        description="No payment of the last hour had an amount beyond the largest that features count "
        "(FRAUD_MAX_AMOUNT), or an event time too far ahead of its record's own timestamp (FRAUD_MAX_FUTURE).",
    )
    def excluded_values(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = excluded_evaluations(lakehouse.lake, lakehouse.settings, [stream])
        return check_result(evaluation)

    return excluded_values
