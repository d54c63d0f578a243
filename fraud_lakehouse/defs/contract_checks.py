"""The checks of what later layers rely on: columns, positions, quarantined share. Evaluated by `checks/contracts.py`.

In a batch run they block later models. A live run, which has built by then, evaluates one table per round.
"""

# No `from __future__ import annotations`: Dagster reads the annotations of the functions it decorates.

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from fraud_lakehouse.defs.resources import Lakehouse
from fraud_lakehouse.defs.table_key import table_key
from fraud_lakehouse.sources.kafka.config import TopicConfig
from fraud_lakehouse.storage.lake import Lake

if TYPE_CHECKING:
    from fraud_lakehouse.checks.contracts import ContractResult

LIVE_ROWS = 200_000  # newest rows that a live run reads: 0.03 s of processor time, 0.2 s from one large file
_CONTRACTS = {
    "columns": "The columns that later layers read exist, with a permitted type.",
    "positions": "No position occurs twice, and no batch begins before the end of an earlier one.",
    "quarantine": "At most 5 % of the newest records are unreadable.",
}


class Contracted(NamedTuple):
    """A table with contracts: its topic, if it comes from one; whether the pipeline's streams name it."""

    layer: str
    name: str
    topic: TopicConfig | None = None
    is_declared: bool = True


def contracted_tables(
    bronze: Sequence[str], silver: Sequence[str], topics: Mapping[str, TopicConfig], declared: Collection[str]
) -> list[Contracted]:
    """The tables with a contract: all of bronze, and those of silver whose columns are fixed.

    Args:
        topics: bronze table -> its topic.
        declared: bronze tables that streams read.
    """
    from fraud_lakehouse.checks.contracts import required_columns

    required = required_columns()
    fixed = [
        Contracted("silver", table)
        for table in silver
        if ("silver", table) in required and table.removesuffix("_history") in declared
    ]
    return [*(Contracted("bronze", table, topics.get(table), table in declared) for table in bronze), *fixed]


def contract_checks(tables: Sequence[Contracted]) -> list[dg.AssetChecksDefinition]:
    """Blocking checks of these tables, one step per layer."""
    return [_contracts(layer, [one for one in tables if one.layer == layer]) for layer in ("bronze", "silver")]


class ContractRounds:
    """Evaluates the contracts of one table per call, of all tables in rotation, so that no alert waits long.

    It starts with a random table: a live run may end before it has evaluated all of many.
    """

    def __init__(self, lake: Lake, tables: Sequence[Contracted]) -> None:
        self._lake = lake
        self._tables = list(tables)
        self._at = secrets.randbelow(len(tables)) if tables else 0

    def evaluations(self) -> Iterator[dg.AssetCheckEvaluation]:
        """The checks of the next table."""
        if not self._tables:
            return
        table = self._tables[self._at]
        self._at = (self._at + 1) % len(self._tables)
        found = _evaluate(self._lake, table, LIVE_ROWS)
        for name in _names(table):
            result = contract_result(dg.AssetCheckKey(table_key(table.layer, table.name), name), found.get(name))
            yield dg.AssetCheckEvaluation(
                asset_key=table_key(table.layer, table.name),
                check_name=name,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
                blocking=True,
            )


def contract_result(key: dg.AssetCheckKey, found: "ContractResult | None") -> dg.AssetCheckResult:
    """A contract's result with its problems; a contract that could not be evaluated has not passed."""
    problems = list(found.problems) if found else ["not evaluated, because the table's columns are wrong"]
    numbers = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in _numbers(found)}
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(problems) or None,
        metadata={**numbers, "problems": dg.MetadataValue.md("\n".join(f"- {one}" for one in problems))},
    )


def _contracts(layer: str, tables: Sequence[Contracted]) -> dg.AssetChecksDefinition:
    keys = {table: table_key(table.layer, table.name) for table in tables}
    specs = [
        dg.AssetCheckSpec(name, asset=keys[table], blocking=True, description=_CONTRACTS[name])
        for table in tables
        for name in _names(table)
    ]

    @dg.multi_asset_check(name=f"{layer}_contracts", specs=specs, can_subset=True)
    def contracts(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = context.selected_asset_check_keys
        for table in (table for table in tables if any(key.asset_key == keys[table] for key in wanted)):
            found = _evaluate(lakehouse.lake, table)
            for key in (key for key in wanted if key.asset_key == keys[table]):
                yield contract_result(key, found.get(key.name))

    return contracts


def _names(table: Contracted) -> list[str]:
    """The contracts of a table."""
    if table.layer != "bronze":
        return ["columns"]
    return ["columns", "positions", *(["quarantine"] if table.topic else [])]


def _evaluate(lake: Lake, table: Contracted, recent_rows: int | None = None) -> "dict[str, ContractResult]":
    from fraud_lakehouse.checks.contracts import RECENT_ROWS, check_bronze, check_columns

    if table.layer == "bronze":
        found = check_bronze(lake, table.name, table.topic, recent_rows or RECENT_ROWS, is_declared=table.is_declared)
    else:
        found = [check_columns(lake, table.layer, table.name)]
    return {one.contract: one for one in found}


def _numbers(found: "ContractResult | None") -> list[tuple[str, Any]]:
    return list(found.numbers.items()) if found else []
