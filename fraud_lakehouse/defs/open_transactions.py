"""The check `open_transactions` on each topic's bronze table: no hanging Kafka transaction hides committed records.

`checks/open_transactions.py` decides which transactions hang.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from fraud_lakehouse.defs.bronze import checked_sources
from fraud_lakehouse.defs.metadata import Assessed, check_result, evaluated
from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.sources.kafka.config import TopicConfig

if TYPE_CHECKING:
    from fraud_lakehouse.checks.open_transactions import TransactionHealth
    from fraud_lakehouse.settings import Settings

CHECK = "open_transactions"
Find = Callable[[TopicConfig, "Settings"], Sequence["TransactionHealth"]]


def transactions_evaluation(settings: "Settings", find: Find) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of each configured topic, evaluated now. The live run logs the result as it is."""
    return (_evaluated(config, asset, settings, find) for config, asset in _topics(settings))


def _evaluated(config: TopicConfig, asset: dg.AssetKey, settings: "Settings", find: Find) -> dg.AssetCheckEvaluation:
    return evaluated(asset, CHECK, lambda: _assessed(find(config, settings)))


def _assessed(found: "Sequence[TransactionHealth]") -> Assessed:
    hanging = [one for one in found if one.hanging]
    counts: dict[str, Any] = {"open": len(found), "hanging": len(hanging)}
    if hanging:
        counts |= {
            "waiting": sum(one.found.waiting for one in hanging),
            "problem": dg.MetadataValue.md("\n".join(f"- {one.problem}" for one in hanging)),
            "what to do": dg.MetadataValue.md("\n".join(f"- {one.fix}" for one in hanging)),
        }
    return not hanging, dg.AssetCheckSeverity.ERROR, counts


def transactions_check(settings: "Settings") -> list[dg.AssetChecksDefinition]:
    """The non-blocking check `open_transactions` of each configured topic."""
    return [_check(config, asset) for config, asset in _topics(settings)]


def _topics(settings: "Settings") -> list[tuple[TopicConfig, dg.AssetKey]]:
    return [(config, key) for config, key in checked_sources(settings) if isinstance(config, TopicConfig)]


def _check(config: TopicConfig, asset: dg.AssetKey) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=CHECK,
        blocking=False,
        description="No transaction has been open for longer than FRAUD_KAFKA_TRANSACTION_SECONDS: records that others"
        " committed after it cannot be read.",
    )
    def open_transactions(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        return check_result(_evaluated(config, asset, lakehouse.settings, lakehouse.parts.transactions))

    return open_transactions
