"""The check on late card transactions as people meet it: seen passing and failing, and never blocking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from tests.fixtures_kafka import CARD_SCHEMA

KEY = dg.AssetCheckKey(dg.AssetKey(["silver", "card_transactions"]), "late_rows")


def _rows(count: int) -> pl.DataFrame:
    now = datetime.now(UTC)
    more = {"trans_date_trans_time": pl.Datetime("us"), "dob": pl.Date(), "_ingested_at": pl.Datetime("us", "UTC")}
    schema = CARD_SCHEMA | more | {"seconds_late": pl.Float64()}
    rows = [{"trans_num": str(n), "_ingested_at": now, "seconds_late": 20.0 + n} for n in range(count)]
    return pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema)


@pytest.mark.parametrize("limit, passed", [(0.2, True), (0.1, False)])
def test_the_check_shows_counts_share_and_the_worst(
    stand: Callable[..., Any], instance: dg.DagsterInstance, limit: float, passed: bool
) -> None:
    made = stand(late_share=limit)
    assert not made.definitions.resolve_asset_graph().get_check_spec(KEY).blocking
    write_deltalake(f"{made.settings.lake}/silver/card_transactions", _rows(10))
    write_deltalake(f"{made.settings.lake}/silver/card_transactions_late", _rows(2))
    result = made.materialize(instance, asset_selection=[KEY.asset_key])
    assert result.success
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "late_rows"]
    assert (found.passed, found.severity, found.blocking) == (passed, dg.AssetCheckSeverity.WARN, False)
    shown = {name: value.value for name, value in found.metadata.items()}
    assert (shown["late"], shown["rows"], shown["share"], shown["worst seconds late"]) == (2, 10, 0.2, 21.0)
    assert (shown["limit"], shown["late ever"]) == (limit, 2)
