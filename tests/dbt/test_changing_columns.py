"""Silver follows the columns of its source: exactly those, in their order and types, with what the events say."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.ingest.evolution import evolve
from fraud_lakehouse.sources.postgres.catalog import ColumnInfo, TableInfo
from fraud_lakehouse.sources.postgres.types import ColumnType
from tests.dbt.small_lake import SmallLake

INT4, INT8, TEXT, TIMESTAMP, DATE, JSON = (ColumnType(oid) for oid in (23, 20, 25, 1114, 1082, 114))
NUMERIC_10_2, NUMERIC_12_4 = ColumnType(1700, ((10 << 16) | 2) + 4), ColumnType(1700, ((12 << 16) | 4) + 4)
OTHERS = [ColumnType(oid) for oid in (16, 17, 21, 26, 700, 701, 1082, 1184, 1700)]
Columns = list[tuple[str, ColumnType]]


class Source:
    """Lands events of one table whose columns change."""

    def __init__(self, lake: SmallLake, name: str, key: str) -> None:
        self.lake, self.name, self.key = lake, name, key
        self.lsn = 0

    def land(self, columns: Columns, *rows: dict[str, Any]) -> None:
        """Describe the table as the catalog would, and land a commit of events."""
        self.lsn += 10
        own = tuple(ColumnInfo(name, kind) for name, kind in columns)
        info = TableInfo(self.name, "public", self.name, own, (self.key,), lsn=self.lsn, shape="{}")
        table = BronzeTable.open_or_create(self.lake.lake, self.name, info.frame_schema, info.key)
        evolve(table, info)
        at = datetime(2026, 1, 1, 0, 0, self.lsn, tzinfo=UTC)
        events = [
            {"_op": "c", "_lsn": self.lsn, "_seq": number, "_committed_at": at, **row}
            for number, row in enumerate(rows, 1)
        ]
        frame = pl.DataFrame([{n: row.get(n) for n in info.frame_schema} for row in events], schema=info.frame_schema)
        table.append(frame, {})

    def silver(self, name: str = "") -> pl.DataFrame:
        self.lake.transformer.reload()  # as each cycle does
        self.lake.build("replica")
        return pl.read_delta(self.lake.lake.uri("silver", name or self.name))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> SmallLake:
    return SmallLake(tmp_path_factory.mktemp("columns") / "lake")


def test_a_captured_table_and_the_shipped_ones_follow_their_columns(lake: SmallLake) -> None:
    orders = Source(lake, "orders", "id")
    users = Source(lake, "users", "user_id")
    odd = [(f"o{number}", kind) for number, kind in enumerate(OTHERS)]
    shipped: Columns = [("user_id", INT4), ("name", TEXT), ("email", TEXT), ("registration_date", TIMESTAMP)]
    orders.land(
        [("id", INT4), ("note", TEXT), ("valid_from", DATE), ("life", TEXT), ("row_number", INT4), *odd],
        {"id": 1, "note": "a", "life": "x", "row_number": 5},
        {"id": 2, "note": "b"},
        {"id": 2, "note": "c", "_op": "u"},
    )
    users.land([shipped[0], ("tier", INT4), *shipped[1:]], {"user_id": 1, "name": "n", "tier": 7})
    first = orders.silver()
    assert first.columns == ["id", "note", "valid_from", "life", "row_number", *(name for name, _ in odd)]
    assert dict(first.schema) == {"id": pl.Int32(), "note": pl.String(), "valid_from": pl.Date(), "life": pl.String(),
                                  "row_number": pl.Int32(), **{name: kind.dtype for name, kind in odd}}  # fmt: skip
    some = first.select("id", "note", "life", "row_number").sort("id")
    assert some.rows() == [(1, "a", "x", 5), (2, "c", None, None)]
    assert users.silver().select("user_id", "tier", "name").rows() == [(1, 7, "n")]
    assert users.silver().columns == ["user_id", "tier", "name", "email", "registration_date"]
    version = lake.lake.open("silver", "orders").version()

    # The next rows are merged, not built anew: the stored table fits.
    orders.land([("id", INT4), ("note", TEXT), ("valid_from", DATE), ("life", TEXT), ("row_number", INT4), *odd],
                {"id": 3, "note": "d"})  # fmt: skip
    assert orders.silver().height == 3
    assert lake.lake.open("silver", "orders").history(1)[0]["operationParameters"]["mode"] == "Append"
    assert lake.lake.open("silver", "orders").version() == version + 1

    # Dropped, added in front, retyped; a resync brings the added column of old rows and what did not fit.
    orders.land([("kind", TEXT), ("id", INT8), ("note", JSON), ("row_number", NUMERIC_12_4)],
                {"kind": "new", "id": 2**40, "note": "{}", "row_number": Decimal("1.2345")},
                {"kind": "default", "id": 1, "note": "a", "row_number": 5, "_op": "r"})  # fmt: skip
    users.land([*shipped, ("motto", TEXT)], {"user_id": 2, "name": "m", "motto": "x"})
    later = orders.silver()
    kinds = {"kind": pl.String(), "id": pl.Int64(), "note": pl.String(), "row_number": pl.Decimal(12, 4)}
    assert dict(later.schema) == kinds
    assert later.sort("id").rows() == [
        ("default", 1, "a", Decimal("5.0000")),
        (None, 2, "c", None),
        (None, 3, "d", None),
        ("new", 2**40, "{}", Decimal("1.2345")),
    ]
    assert users.silver().sort("user_id").rows() == [(1, "n", None, None, None), (2, "m", None, None, "x")]
    assert users.silver().columns == ["user_id", "name", "email", "registration_date", "motto"]

    history = orders.silver("orders_history")
    assert {"source_valid_from", "valid_from", "life", "kind"} < set(history.columns), "older versions keep theirs"
    versions = history.sort("id", "_lsn", "_seq").select("id", "note", "life", "kind", "is_deleted").rows()
    assert versions[:2] == [(1, "a", "x", None, False), (1, "a", None, "default", False)]
    kept = history.filter(pl.col("id") == 1)["valid_to"].sort().to_list()
    assert kept == [None, datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)]


def test_a_column_of_which_no_row_has_come_yet_stops_no_model(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path / "lake")
    users, payments = Source(lake, "users", "user_id"), Source(lake, "transactions", "transaction_id")
    columns = [("user_id", INT4), ("name", TEXT), ("email", TEXT), ("registration_date", TIMESTAMP)]
    paid = [("transaction_id", INT8), ("user_id", INT4), ("transaction_date", TIMESTAMP), ("amount", NUMERIC_10_2)]
    users.land(columns, {"user_id": 1, "name": "n"})
    payments.land(paid, {"transaction_id": 1, "user_id": 1, "transaction_date": datetime(2026, 1, 1), "amount": 5})  # noqa: DTZ001
    lake.build("all")
    users.land([*columns, ("note", TEXT)])
    payments.land(paid, {"transaction_id": 2, "user_id": 1, "transaction_date": datetime(2026, 1, 2), "amount": 5})  # noqa: DTZ001
    lake.transformer.reload()
    lake.build("all")
    assert pl.read_delta(lake.lake.uri("gold", "transaction_features")).height == 2
    assert users.silver().rows() == [(1, "n", None, None, None)]
    lake.transformer.close()


def test_a_shipped_table_that_loses_its_meaning_is_replicated_all_the_same(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path / "lake")
    source = Source(lake, "transactions", "transaction_id")
    columns = [("transaction_id", INT8), ("user_id", INT8), ("transaction_date", TIMESTAMP), ("amount", NUMERIC_10_2)]
    source.land(columns, {"transaction_id": 1, "user_id": 1, "amount": Decimal("2.50")})
    assert source.silver()["amount"].to_list() == [Decimal("2.50")]
    lake.build("all")
    source.land([*columns[:3], ("amount", TEXT)], {"transaction_id": 2, "user_id": 1, "amount": "much"})
    assert source.silver().sort("transaction_id")["amount"].to_list() == ["2.50", "much"]
    lake.build("all")
    assert pl.read_delta(lake.lake.uri("gold", "transaction_features")).height == 1
    lake.transformer.close()
