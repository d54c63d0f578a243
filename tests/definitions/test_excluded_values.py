"""The checks on excluded values as people meet them: seen passing and failing, and never blocking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from tests.fixtures_kafka import CARD_SCHEMA

TABLES = ("card_transactions", "transactions_ledger")
CARDS, LEDGER = (dg.AssetCheckKey(dg.AssetKey(["silver", name]), "excluded_values") for name in TABLES)


@pytest.mark.parametrize("excluded", [0, 3])
def test_the_check_shows_counts_limits_and_examples(
    stand: Callable[..., Any], instance: dg.DagsterInstance, excluded: int
) -> None:
    made = stand(max_amount=1e9)
    graph = made.definitions.resolve_asset_graph()
    assert not any(graph.get_check_spec(key).blocking for key in (CARDS, LEDGER))
    more = {"trans_date_trans_time": pl.Datetime("us"), "dob": pl.Date(), "_ingested_at": pl.Datetime("us", "UTC")}
    schema = CARD_SCHEMA | more | {"is_amount_excluded": pl.Boolean(), "is_time_excluded": pl.Boolean()}
    rows = [
        dict.fromkeys(schema)
        | {"trans_num": str(number), "amt": 1e10, "_ingested_at": datetime.now(UTC)}
        | {"is_amount_excluded": number < excluded, "is_time_excluded": False}
        for number in range(10)
    ]
    write_deltalake(f"{made.settings.lake}/silver/card_transactions", pl.DataFrame(rows, schema=schema))
    result = made.materialize(instance, asset_selection=[CARDS.asset_key])
    assert result.success
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "excluded_values"]
    assert (found.passed, found.severity, found.blocking) == (not excluded, dg.AssetCheckSeverity.WARN, False)
    shown = {name: value.value for name, value in found.metadata.items()}
    assert (shown["amounts excluded"], shown["event times excluded"]) == (excluded, 0)
    assert (shown["largest amount"], shown["most seconds ahead"]) == (1e9, 86_400.0)
    assert [one["id"] for one in shown.get("examples", [])] == ["0", "1", "2"][:excluded]
