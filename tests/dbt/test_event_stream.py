"""A stream of events that only a pipeline folder declares: its generated models equal brute force.

It has other column names than the shipped one, keys of text, decimal amounts, and times in a zone whose clocks change
on that day.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from fraud_lakehouse.detection import as_of
from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.transform.project import current_catalogue
from tests.dbt import cards_oracle, vectors_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same

SOURCES = """
shop:
  type: kafka
  servers_env: SHOP_SERVERS
  topics:
    - topic: orders-v2
      table: orders
      fields:
        order_ref: string
        placed: string
        total: "decimal(12,2)"
        buyer: string
        shop: string
        from: string
        version: int64
"""
STREAMS = """
shop_orders:
  from: orders
  kind: events
  id: order_ref
  time: placed
  timezone: America/New_York
  amount: total
  event: order
  lateness: 40 seconds
  max_amount: 5000
  max_future: 1 hour
  entities:
    buyer: {key: buyer, about: the buyer}
    buyer_shop: [buyer, shop]
    shop: {key: shop, partitions: large}
"""
NEW_YORK = ZoneInfo("America/New_York")
LATENESS = timedelta(seconds=40)
TABLES = ["orders", "orders_late", "shop_orders_features", "shop_orders_vectors"]
ORDERS: dict[str, pl.DataType] = {
    "order_ref": pl.String(),
    "placed": pl.String(),
    "total": pl.Decimal(12, 2),
    "buyer": pl.String(),
    "shop": pl.String(),
    "from": pl.String(),
    "version": pl.Int64(),
    "_topic": pl.String(),
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": pl.Datetime("us", "UTC"),
    "_raw": pl.Binary(),
    "_error": pl.String(),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without features.yml, and without the shipped sources and streams."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "sources.yml").write_text(SOURCES)
    (folder / "streams.yml").write_text(STREAMS)
    return folder


@pytest.fixture(scope="module", params=["drop", "correct"])
def shared_lake(
    request: pytest.FixtureRequest, pipeline: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("orders") / "lake"
    lake = SmallLake(root, late_rows=request.param, pipeline=pipeline, idle_seconds=1e6)
    yield lake
    lake.transformer.close()


@pytest.fixture(scope="module")
def catalogue(shared_lake: SmallLake) -> Catalogue:
    found = current_catalogue(shared_lake.settings)
    assert found is not None
    return found


def utc(text: str) -> datetime:
    """The UTC time of a text; of an hour that occurs twice the later, and a skipped one is as much later."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        later = moment.replace(tzinfo=NEW_YORK, fold=1)
        is_skipped = later.astimezone(UTC).astimezone(NEW_YORK).replace(tzinfo=None) != moment
        moment = later.replace(fold=0) if is_skipped else later
    return moment.astimezone(UTC).replace(tzinfo=None)


def random_orders(seed: int, day: datetime, count: int, partitions: int) -> list[Row]:
    """cards_oracle's records as orders of one day in New York, a fifth of them with their offset from UTC."""
    rng = random.Random(seed)
    orders: list[Row] = []
    for record in cards_oracle.random_records(seed, count, partitions):
        order = {name: value for name, value in record.items() if name.startswith("_")} | {"_topic": "orders-v2"}
        if "trans_num" in record:
            moment = datetime.fromisoformat(record["trans_date_trans_time"]) - cards_oracle.START + day
            text = moment.isoformat(" ")
            if rng.random() < 0.2:
                text = moment.replace(tzinfo=NEW_YORK).isoformat(rng.choice(" T"))
            order |= {"order_ref": record["trans_num"], "placed": text, "total": Decimal(str(record["amt"]))}
            order |= {"buyer": f"buyer {record['user_id']}", "shop": rng.choice(["a", "b", "c", None])}
            order |= {"from": "web", "version": rng.randrange(3)}
        orders.append(order)
    return orders


def as_cards(orders: list[Row]) -> list[Row]:
    """Orders in bronze under the names that the oracle knows."""
    return [
        {**row, "trans_num": row["order_ref"], "user_id": row["buyer"]}
        | ({"amt": float(row["total"]), "trans_date_trans_time": str(utc(row["placed"]))} if row["order_ref"] else {})
        for row in orders
    ]


def build(lake: SmallLake, *, full_refresh: bool = False, tests: bool = False) -> None:
    lake.transformer.reload()
    result = lake.transformer.build(TABLES, full_refresh=full_refresh, tests=tests)
    result.raise_for_errors()
    assert not result.failed, result.failed


def that_count(lake: SmallLake) -> list[Row]:
    """Silver's rows for the oracle of vectors, without the late ones when they are dropped."""
    late = {row["order_ref"] for row in lake.rows("silver", "orders_late")}
    return [
        {**row, "trans_num": row["order_ref"], "t": row["placed"], "total": float(row["total"])}
        for row in lake.rows("silver", "orders")
        if lake.late_rows == "correct" or row["order_ref"] not in late
    ]


def check(lake: SmallLake, catalogue: Catalogue, told: dict[str, Row]) -> dict[str, Row]:
    """Compare the four tables with brute force; the vectors by order, of which those `told` stay."""
    bronze = lake.rows("bronze", "orders")
    rows = cards_oracle.distinct(as_cards(bronze))
    fields = ("order_ref", "total", "buyer", "shop", "from", "version", "_partition", "_offset")
    silver = [{name: row[name] for name in fields} | {"placed": row["t"]} for row in rows]
    assert_same(lake.rows("silver", "orders"), silver, "order_ref")
    late = [{"order_ref": row.pop("trans_num"), **row} for row in cards_oracle.late(rows)]
    assert_same(lake.rows("silver", "orders_late"), late, "order_ref")
    features = [{**row, "source": "shop.orders-v2"} for row in cards_oracle.features(rows)]
    assert_same(lake.rows("gold", "shop_orders_features"), features, "transaction_id")

    wanted = vectors_oracle.vectors(that_count(lake), catalogue, set(told), 0, stream="shop_orders")
    found: dict[str, Row] = {}
    for row in sorted(lake.rows("gold", "shop_orders_vectors"), key=lambda row: row["version"]):
        assert row["version"] == found.get(row["order_ref"], {"version": 0})["version"] + 1
        found[row["order_ref"]] = row
    assert found.keys() == wanted.keys()
    for order_ref, vector in wanted.items():
        differs = vectors_oracle.is_same(found[order_ref], vector)
        assert differs is None, (order_ref, differs)
    return wanted


@pytest.mark.parametrize(
    "day",
    [datetime(2024, 3, 10), datetime(2024, 11, 3)],  # noqa: DTZ001  the clocks go forward, and back
    ids=["an hour is skipped", "an hour occurs twice"],
)
def test_its_tables_equal_brute_force_for_any_split_into_builds(
    lake: SmallLake, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, day: datetime
) -> None:
    monkeypatch.setattr(cards_oracle, "LATENESS", LATENESS)
    rng = random.Random(day.month)
    orders = random_orders(day.month, day, count=240, partitions=2)
    told: dict[str, Row] = {}
    while orders:
        size = rng.choice([1, 50, 90])
        lake.land("orders", orders[:size], ORDERS)
        orders = orders[size:]
        build(lake)
        told = check(lake, catalogue, told)
    assert len(told) > 100
    assert lake.rows("silver", "orders_late"), "none was late"
    assert any(row["version"] > 1 for row in lake.rows("gold", "shop_orders_vectors")), "nothing was corrected"

    build(lake, full_refresh=True, tests=True)
    check(lake, catalogue, {})


def test_its_features_are_those_of_the_standard_entries(catalogue: Catalogue) -> None:
    assert [feature.name for feature in catalogue.of_table("shop_orders_features")] == [
        "prior_mean", "prior_count", "count_10min", "sum_10min"
    ]  # fmt: skip
    names = [feature.name for feature in catalogue.of_table("shop_orders_vectors")]
    assert {"buyer_total_sum_10min", "buyer_shop_total_stddev_30d", "shop_total_max_24h"} <= set(names)
    assert {"buyer_is_first", "buyer_shop_seconds_since_last"} <= set(names)
    assert len(names) == 3 * (4 * 5 + 2 + 2)


def order(number: int, **changes: Any) -> Row:
    at = datetime(2024, 6, 1, 12, tzinfo=UTC) + timedelta(minutes=number)
    position = {"_topic": "orders-v2", "_partition": 0, "_offset": number, "_timestamp": at}
    told = {"order_ref": f"o{number}", "placed": at.isoformat(), "buyer": "b", "shop": "a", "total": Decimal(1)}
    return position | told | changes


def test_its_own_limits_count(lake: SmallLake) -> None:
    late_in_the_evening = "2024-06-01 23:00:00"  # in New York, eleven hours after its record
    orders = [order(0), order(1, total=Decimal("5000.01")), order(2, placed=late_in_the_evening), order(3)]
    lake.land("orders", orders, ORDERS)
    build(lake)
    silver = {row["order_ref"]: row for row in lake.rows("silver", "orders")}
    assert [row["is_amount_excluded"] for row in silver.values()] == [False, True, False, False]
    assert [row["is_time_excluded"] for row in silver.values()] == [False, False, True, False]
    features = {row["transaction_id"]: row for row in lake.rows("gold", "shop_orders_features")}
    assert (features["o3"]["count_10min"], features["o3"]["sum_10min"]) == (3, 2)


def test_an_alert_names_the_stream_and_whom_it_is_about(lake: SmallLake) -> None:
    lake.land("orders", [order(0)], ORDERS)
    many = [order(number, placed=f"2024-06-01T08:01:{number:02}", total=Decimal(100)) for number in range(1, 11)]
    lake.land("orders", many, ORDERS)
    lake.build("hot")
    (alert,) = lake.rows("gold", "alerts")
    assert (alert["rule"], alert["stream"], alert["transaction_id"]) == ("velocity", "shop_orders", "o10")
    assert (alert["entity_type"], alert["entity_id"], alert["source"]) == ("buyer", "b", "shop.orders-v2")


def test_labels_get_its_features(lake: SmallLake) -> None:
    lake.land("orders", [order(number) for number in range(5)], ORDERS)
    build(lake)

    def ask(labels: pl.DataFrame) -> list[Any]:
        wanted = ["buyer_total_count_10min"]
        told = as_of(labels, "shop_orders", features=wanted, settings=lake.settings, transformer=lake.transformer)
        return told["buyer_total_count_10min"].to_list()

    assert ask(pl.DataFrame({"order_ref": ["o0", "o3"]})) == [0, 3]
    at = datetime(2024, 6, 1, 12, 2, 30, tzinfo=UTC)
    assert ask(pl.DataFrame({"buyer": ["b", "nobody"], "event_time": [at, at]})) == [3, 0]


def test_a_changed_pipeline_is_taken_over_and_a_broken_one_is_refused(tmp_path: Path, pipeline: Path) -> None:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    for name in ("sources.yml", "streams.yml"):
        (folder / name).write_text((pipeline / name).read_text())
    lake = SmallLake(tmp_path / "lake", pipeline=folder)
    assert lake.transformer.reload()
    in_use = lake.transformer.project

    (folder / "streams.yml").write_text(STREAMS.replace("amount: total", "amount: totl"))
    with pytest.raises(TransformError, match=r"streams\.yml:8: .*'totl'.*did you mean total\?"):
        lake.transformer.reload()
    assert lake.transformer.project == in_use

    (folder / "streams.yml").write_text(STREAMS.replace("shop_orders:", "web_orders:"))
    assert lake.transformer.reload()
    assert "web_orders_features" in lake.transformer.names("hot")
    assert "shop_orders_features" not in lake.transformer.names("hot")
    lake.transformer.close()
