"""The models as Apache Spark computes them from the same tables' files are what DuckDB has built, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.storage.lake import LAYERS
from fraud_lakehouse.storage.schemas import COMMIT
from tests.dbt import spark_sql, vectors_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.test_transaction_models import land
from tests.dbt.transactions_oracle import random_log
from tests.spark import Spark

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.timeout(900)]  # Spark is fetched once
OVER = "user_trans_amt_last_360min"
WINDOW = ("window_start", "window_end", "user_id")
KEYS: dict[str, tuple[str, ...]] = {
    "card_transactions": ("trans_num",),
    "card_transactions_late": ("trans_num",),
    "card_transaction_features": ("transaction_id",),
    f"{OVER}_versions": ("trans_num", "version"),
    OVER: ("trans_num",),
    f"{OVER}_windowed_versions": (*WINDOW, "version"),
    f"{OVER}_windowed": WINDOW,
    f"{OVER}_hop_versions": (*WINDOW, "version"),
    f"{OVER}_hop": WINDOW,
    f"{OVER}_cumulate_versions": (*WINDOW, "version"),
    f"{OVER}_cumulate": WINDOW,
    "user_card_sessions_versions": (*WINDOW, "version"),
    "user_card_sessions": WINDOW,
    "card_feature_vectors": ("trans_num", "version"),
    "transactions_ledger": ("transaction_id", "user_id", "_lsn", "_seq", "weight"),
    "transaction_feature_vectors": ("transaction_id", "version"),
    "user_avg": ("user_id",),
    "transaction_anomalies": ("transaction_id",),
    "daily_report": ("day", "rule"),
}
CLOCK = {"scored_at", "known_at"}  # when it was built, where the rows do not tell
BY_ROWS = {"card_feature_vectors", "transaction_feature_vectors"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    """Both sources, all built once by DuckDB."""
    lake = SmallLake(tmp_path_factory.mktemp("models") / "lake")
    lake.land("card_transactions", vectors_oracle.random_payments(3, count=200, partitions=2))
    land(lake, random_log(99, transactions=80))
    lake.observe(datetime(2026, 1, 1, tzinfo=UTC))
    lake.build("all")
    yield lake
    lake.transformer.close()


def plain(row: Row) -> Row:
    """Values as JSON has them."""

    def told(value: Any) -> Any:
        if isinstance(value, datetime):
            return str(value.replace(tzinfo=None))
        return str(value) if isinstance(value, date) else float(value) if isinstance(value, Decimal) else value

    return {name: told(value) for name, value in row.items()}


def test_every_model_that_spark_computes_is_what_duckdb_has_built(lake: SmallLake, spark: Spark) -> None:
    layers = {}
    for folder in sorted(path.parent for layer in LAYERS for path in (lake.root / layer).glob("*/_delta_log")):
        layers[folder.name] = folder.parent.name
        if files := DeltaTable(str(folder)).file_uris():
            spark.files(f"{folder.parent.name}_{folder.name}", files)
    built = {name: pl.read_delta(str(Path(lake.root, layers[name], name))) for name in KEYS}
    computed = spark_sql.models(lake.transformer, list(KEYS))
    assert computed.keys() == KEYS.keys()
    for name, sql in computed.items():
        told = built[name]
        ignored = set() if name in BY_ROWS else CLOCK
        numbers = [column for column in told.columns if told.schema[column].is_numeric()]
        found = [
            {
                column: float(value) if column in numbers and isinstance(value, str) else value
                for column, value in row.items()
            }
            for row in spark.query(sql)
        ]
        # columns that rules need come from the feature engine
        ignored = ignored | set(lake.transformer.compiled.named([name])[0].columns).symmetric_difference(told.columns)
        ignored -= {COMMIT}
        wanted = [plain(row) for row in told.drop(ignored & set(told.columns)).to_dicts()]
        assert wanted, f"nothing to compare in {name}"
        assert_same(found, wanted, *KEYS[name])
