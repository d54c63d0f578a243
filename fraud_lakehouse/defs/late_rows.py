"""The checks on late payments of event streams. `checks/late_rows.py` counts them."""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.checks.late_rows import evaluate_late_rows
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.late_rows import LateRows
    from fraud_lakehouse.settings import Settings

CHECK = "late_rows"
Streams = Collection[PaymentStream]


def late_evaluations(lake: Lake, settings: "Settings", streams: Streams) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each event stream, evaluated now; the live run logs the results as they are."""
    for stream in (one for one in streams if one.late is not None):
        found = evaluate_late_rows(lake, stream, settings.late_share)
        yield dg.AssetCheckEvaluation(
            asset_key=table_key("silver", stream.rows),
            check_name=CHECK,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=late_metadata(found),
            blocking=False,
        )


def late_metadata(found: "LateRows") -> dict[str, Any]:
    """Counts, share, and greatest lateness in seconds; unknown values are omitted."""
    measured = {"share": found.share, "worst seconds late": found.worst_seconds}
    return {
        "late": found.late,
        "rows": found.rows,
        "limit": found.limit,
        "late ever": found.total,
        "since": dg.MetadataValue.timestamp(found.since),
        **{name: round(value, 6) for name, value in measured.items() if value is not None},
    }


def late_checks(streams: Streams) -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `late_rows` on the rows of each event stream."""
    return [_check(stream) for stream in streams if stream.late is not None]


def _check(stream: PaymentStream) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table_key("silver", stream.rows),
        name=CHECK,
        blocking=False,
        description="At most FRAUD_LATE_SHARE of the last hour's payments came after their window had closed.",
    )
    def late_rows(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = late_evaluations(lakehouse.lake, lakehouse.settings, [stream])
        return check_result(evaluation)

    return late_rows
