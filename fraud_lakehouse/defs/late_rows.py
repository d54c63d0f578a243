"""The check on late card transactions. What counts is decided in `checks/late_rows.py`."""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.checks.late_rows import CARDS, evaluate_late_rows
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.late_rows import LateRows
    from fraud_lakehouse.settings import Settings

CHECK = "late_rows"
ASSET = table_key(*CARDS)


def late_evaluation(lake: Lake, settings: "Settings") -> Iterator[dg.AssetCheckEvaluation]:
    """The check, evaluated now; the live run logs it as it is."""
    found = evaluate_late_rows(lake, settings.late_share)
    yield dg.AssetCheckEvaluation(
        asset_key=ASSET,
        check_name=CHECK,
        passed=found.passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=late_metadata(found),
        blocking=False,
    )


def late_metadata(found: "LateRows") -> dict[str, Any]:
    """Counts, share, and seconds of the worst; what there is nothing of is left out."""
    measured = {"share": found.share, "worst seconds late": found.worst_seconds}
    return {
        "late": found.late,
        "rows": found.rows,
        "limit": found.limit,
        "late ever": found.total,
        "since": dg.MetadataValue.timestamp(found.since),
        **{name: round(value, 6) for name, value in measured.items() if value is not None},
    }


def late_check() -> dg.AssetChecksDefinition:
    """The non-blocking check `late_rows` on silver/card_transactions."""

    @dg.asset_check(
        asset=ASSET,
        name=CHECK,
        blocking=False,
        description="At most FRAUD_LATE_SHARE of the last hour's card transactions came after their window had closed.",
    )
    def late_rows(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = late_evaluation(lakehouse.lake, lakehouse.settings)
        return check_result(evaluation)

    return late_rows
