"""The check `open_transactions` on bronze/card_transactions: no Kafka transaction hangs in front of committed records.

What hangs is decided in `checks/open_transactions.py`.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs.bronze import bronze_key, configured
from fraud_lakehouse.defs.metadata import check_result
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.errors import LakehouseError

if TYPE_CHECKING:
    from fraud_lakehouse.checks.open_transactions import TransactionHealth
    from fraud_lakehouse.settings import Settings

CHECK = "open_transactions"
ASSET = bronze_key("card_transactions")


def transactions_evaluation(
    settings: "Settings", find: Callable[["Settings"], Sequence["TransactionHealth"]]
) -> Iterator[dg.AssetCheckEvaluation]:
    """The check, evaluated now; nothing where no Kafka is configured. The live run logs it as it is."""
    if not configured(settings, "kafka"):
        return
    try:
        found = find(settings)
    except LakehouseError as error:
        yield _evaluation(False, dg.AssetCheckSeverity.WARN, {"problem": error.problem, "what to do": error.fix})
        return
    hanging = [one for one in found if one.hanging]
    metadata: dict[str, Any] = {"open": len(found), "hanging": len(hanging)}
    if hanging:
        metadata |= {
            "waiting": sum(one.found.waiting for one in hanging),
            "problem": dg.MetadataValue.md("\n".join(f"- {one.problem}" for one in hanging)),
            "what to do": dg.MetadataValue.md("\n".join(f"- {one.fix}" for one in hanging)),
        }
    yield _evaluation(not hanging, dg.AssetCheckSeverity.ERROR, metadata)


def transactions_check(settings: "Settings") -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `open_transactions`; none where no Kafka is configured."""
    if not configured(settings, "kafka"):
        return []

    @dg.asset_check(
        asset=ASSET,
        name=CHECK,
        blocking=False,
        description="No transaction has been open for longer than FRAUD_KAFKA_TRANSACTION_SECONDS: what others have"
        " committed behind it cannot be read.",
    )
    def open_transactions(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        (evaluation,) = transactions_evaluation(lakehouse.settings, lakehouse.parts.transactions)
        return check_result(evaluation)

    return [open_transactions]


def _evaluation(passed: bool, severity: dg.AssetCheckSeverity, metadata: dict[str, Any]) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=ASSET, check_name=CHECK, passed=passed, severity=severity, metadata=metadata, blocking=False
    )
