"""Streams with amounts of several currencies: every amount that counts is the converted one, by the rate of its time.

One stream of each kind. The shop's rates are a table in PostgreSQL with columns of other names, and days; those of the
web are a topic with the names that need no declaration, and timestamps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.ingest.bronze import BronzeTable
from tests.dbt import spark_sql
from tests.dbt.small_lake import CHANGE, Row, SmallLake, assert_same, by
from tests.spark import Spark

SOURCES = """
shop: {type: postgres, dsn_env: SHOP_DSN, prefix: shop__}
web:
  type: kafka
  servers_env: WEB_SERVERS
  topics:
    - topic: orders
      table: orders
      fields: {ref: string, placed: timestamp, total: "decimal(12,2)", ccy: string, buyer: string}
    - {topic: fx, table: fx_rates, fields: {currency: string, valid_from: timestamptz, rate: double}}
"""
STREAMS = """
shop_payments:
  from: shop__payments
  kind: changes
  id: payment_id
  time: paid_at
  amount: total
  currency: {column: ccy, to: EUR, rates: {table: shop__fx, currency: code, from: day, rate: eur}}
  max_amount: 5000
  entities: {account: account, shop: shop}
web_orders:
  from: orders
  kind: events
  id: ref
  time: placed
  amount: total
  currency: {column: ccy, rates: fx_rates, to: EUR}
  max_amount: 5000
  entities: {buyer: buyer}
"""
TEXT, TIME = pl.String(), pl.Datetime("us")
ZONED = pl.Datetime("us", "UTC")
RECORD: dict[str, pl.DataType] = {
    "_topic": TEXT,
    "_partition": pl.Int32(),
    "_offset": pl.Int64(),
    "_timestamp": ZONED,
    "_raw": pl.Binary(),
    "_error": TEXT,
}
PAYMENT: dict[str, pl.DataType] = {
    "account": pl.Int64(),
    "shop": pl.Int32(),
    "paid_at": TIME,
    "total": pl.Decimal(12, 2),
}
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "shop__payments": {"payment_id": pl.Int64(), **PAYMENT, "ccy": TEXT, **CHANGE},
    "shop__fx": {"id": pl.Int32(), "code": TEXT, "day": pl.Date(), "eur": pl.Decimal(18, 6), **CHANGE},
    "orders": {"ref": TEXT, "placed": TIME, "total": pl.Decimal(12, 2), "ccy": TEXT, "buyer": TEXT, **RECORD},
    "fx_rates": {"currency": TEXT, "valid_from": ZONED, "rate": pl.Float64(), **RECORD},
}
KEYS = {"shop__payments": ["payment_id"], "shop__fx": ["id"], "orders": [], "fx_rates": []}
MODELS = {
    "events": ["orders", "web_orders_features", "web_orders_vectors"],
    "changes": ["shop_payments_ledger", "shop_payments_features", "shop_payments_vectors"],
}
MIDNIGHT = datetime(2026, 3, 2)  # noqa: DTZ001 UTC, as silver has it
RATES = [
    ("USD", MIDNIGHT - timedelta(days=10), 0.9),
    ("USD", MIDNIGHT, 0.8),
    ("jpy ", MIDNIGHT - timedelta(days=1), 0.0061),
    ("GBP", MIDNIGHT, 1.25),
    ("CHF", MIDNIGHT - timedelta(days=9), 1.05),
    ("CHF", MIDNIGHT - timedelta(days=1), None),  # from then on there is none
]


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    home = tmp_path_factory.mktemp("currencies")
    lake = SmallLake(home / "lake", pipeline=write(home / "pipeline"), max_future=1e9)
    yield lake
    lake.transformer.close()


def write(folder: Path) -> Path:
    folder.mkdir()
    (folder / "sources.yml").write_text(SOURCES)
    (folder / "streams.yml").write_text(STREAMS)
    return folder


def land(lake: SmallLake, table: str, rows: list[Row]) -> None:
    schema = SCHEMAS[table]
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    BronzeTable.open_or_create(lake.lake, table, schema, KEYS[table]).append(frame, {})


class Log:
    """Rows as bronze has them, each after the one before."""

    def __init__(self) -> None:
        self._position = 0

    def change(self, op: str = "c", **columns: Any) -> Row:
        self._position += 1
        return {
            "_op": op,
            "_lsn": self._position,
            "_seq": 1,
            "_committed_at": datetime(2026, 3, 3, tzinfo=UTC),
        } | columns

    def record(self, **columns: Any) -> Row:
        self._position += 1
        at = datetime(2026, 3, 3, tzinfo=UTC)
        return {"_topic": "t", "_partition": 0, "_offset": self._position, "_timestamp": at} | columns

    def rates(self, rates: list[tuple[str, datetime, float | None]]) -> dict[str, list[Row]]:
        """The same rates for both streams."""
        return {
            "shop__fx": [
                self.change(id=number, code=code, day=at.date(), eur=None if rate is None else Decimal(str(rate)))
                for number, (code, at, rate) in enumerate(rates)
            ],
            "fx_rates": [
                self.record(currency=code, valid_from=at.replace(tzinfo=UTC), rate=rate) for code, at, rate in rates
            ],
        }

    def payment(self, kind: str, number: int, currency: str | None, amount: str | None, at: datetime | None) -> Row:
        total = None if amount is None else Decimal(amount)
        if kind == "changes":
            return self.change(payment_id=number, account=1, shop=2, paid_at=at, total=total, ccy=currency)
        return self.record(ref=str(number), buyer="a", placed=at, total=total, ccy=currency)


TABLES = {"events": "orders", "changes": "shop__payments"}
kinds = pytest.mark.parametrize("kind", ["events", "changes"])


def build(lake: SmallLake, kind: str, *, full_refresh: bool = False) -> None:
    lake.build_only(*MODELS[kind], full_refresh=full_refresh)


def silver(lake: SmallLake, kind: str) -> dict[int, Row]:
    """The rows with amounts by number of the payment, by the names of the stream of changes."""
    if kind == "changes":
        rows = [row for row in lake.rows("silver", "shop_payments_ledger") if row["weight"] == 1]
        return {row["payment_id"]: row for row in rows}
    return {int(row["ref"]): row for row in lake.rows("silver", "orders")}


def features(lake: SmallLake, kind: str) -> dict[int, Row]:
    name = "web_orders_features" if kind == "events" else "shop_payments_features"
    return {int(row["transaction_id"]): row for row in lake.rows("gold", name)}


def expected_rate(currency: str | None, at: datetime | None) -> float | None:
    code = (currency or "").strip().upper()
    if code == "EUR":
        return 1.0
    held = [(since, rate) for name, since, rate in RATES if name.strip().upper() == code and at and since <= at]
    return max(held)[1] if held else None


def random_payments(log: Log, kind: str, rng: random.Random, count: int) -> list[Row]:
    codes = ["EUR", "eur", " usd", "USD", "JPY", "GBP", "CHF", "XXX", "", None]
    minutes = [-1, 0, 1, -1440, -1441, -1439, 700, -20_000]
    return [
        log.payment(
            kind,
            number,
            rng.choice(codes),
            rng.choice(["10.01", "0.33", "7000.00", "-2.50", None]),
            MIDNIGHT + timedelta(minutes=rng.choice(minutes)) if rng.random() < 0.95 else None,
        )
        for number in range(count)
    ]


@kinds
def test_amounts_are_those_of_an_oracle_for_any_split_into_builds(lake: SmallLake, kind: str) -> None:
    log, rng = Log(), random.Random(kind)
    for table, rows in log.rates(RATES).items():
        land(lake, table, rows)
    payments = random_payments(log, kind, rng, 400)
    sent = {int(row.get("payment_id", row.get("ref"))): row for row in payments}
    left = list(payments)
    while left:
        size = rng.choice([1, 60, 200])
        land(lake, TABLES[kind], left[:size])
        left = left[size:]
        build(lake, kind)
    for _ in range(2):
        found, known = silver(lake, kind), features(lake, kind)
        assert found.keys() == known.keys() == sent.keys()
        for number, row in sent.items():
            rate = expected_rate(row["ccy"], row.get("paid_at", row.get("placed")))
            amount = None if rate is None or row["total"] is None else round(float(row["total"]) * rate, 9)
            stored = found[number]
            assert (stored["_rate"], known[number]["amount"]) == (rate, amount)
            assert (None if stored["total"] is None else float(stored["total"])) == amount
            is_counted = row["total"] is None or (amount is not None and abs(amount) <= 5000)
            assert stored["is_amount_excluded"] is not is_counted
            if kind == "events":
                assert (stored["total_original"], stored["ccy"]) == (row["total"], row["ccy"])
        assert {row["_rate"] for row in found.values()} == {1.0, 0.9, 0.8, 0.0061, 1.25, 1.05, None}
        build(lake, kind, full_refresh=True)


@kinds
def test_features_and_alerts_are_of_converted_amounts(lake: SmallLake, kind: str) -> None:
    log = Log()
    for table, rows in log.rates(RATES).items():
        land(lake, table, rows)
    sent = [("USD", "400"), ("JPY", "70000"), ("EUR", "249.01"), ("XXX", "400"), ("GBP", "4000.01"), ("GBP", "3.20")]
    land(
        lake,
        TABLES[kind],
        [log.payment(kind, n, code, amount, MIDNIGHT + timedelta(minutes=n)) for n, (code, amount) in enumerate(sent)],
    )
    lake.build("hot")

    known = features(lake, kind)
    assert [known[n]["amount"] for n in range(6)] == [320.0, 427.0, 249.01, None, 5000.0125, 4.0]
    sums = [320.0, 747.0, 996.01, 996.01, 996.01, 1000.01]
    assert [known[n]["sum_10min"] for n in range(6)] == pytest.approx(sums)
    alerts = by(lake.rows("gold", "alerts"), "rule", "transaction_id")
    out_of_range, velocity = "amount_out_of_range", "velocity"
    assert alerts.keys() == {(out_of_range, "3"), (out_of_range, "4"), (velocity, "5")}
    assert '"amount":null' in alerts[out_of_range, "3"]["evidence"]
    assert '"sum_10min":1000.01' in alerts[velocity, "5"]["evidence"]


@kinds
def test_a_rate_that_comes_later_counts_from_then_on_and_for_all_in_a_rebuild(lake: SmallLake, kind: str) -> None:
    log = Log()
    early, late = ([("USD", MIDNIGHT, rate)] for rate in (0.8, 0.5))
    for table, rows in log.rates(early).items():
        land(lake, table, rows)
    land(lake, TABLES[kind], [log.payment(kind, 1, "USD", "10", MIDNIGHT), log.payment(kind, 2, "GBP", "10", MIDNIGHT)])
    build(lake, kind)
    for table, rows in log.rates([*late, ("GBP", MIDNIGHT, 1.5)]).items():  # the first is the same row, corrected
        land(lake, table, rows)
    land(lake, TABLES[kind], [log.payment(kind, 3, "USD", "10", MIDNIGHT), log.payment(kind, 4, "GBP", "10", MIDNIGHT)])
    build(lake, kind)
    assert {n: row["total"] for n, row in silver(lake, kind).items()} == {1: 8, 2: None, 3: 5, 4: 15}

    build(lake, kind, full_refresh=True)
    assert {n: row["total"] for n, row in silver(lake, kind).items()} == {1: 5, 2: 15, 3: 5, 4: 15}


def test_rates_of_a_table_are_its_current_rows(lake: SmallLake) -> None:
    log, at = Log(), MIDNIGHT.date()
    old, gone = (
        log.change(id=1, code="USD", day=at, eur=Decimal(9)),
        log.change(id=2, code="GBP", day=at, eur=Decimal(9)),
    )
    events = [old, gone, log.change("t"), log.change(id=3, code="USD", day=at - timedelta(days=1), eur=Decimal(2))]
    events += [log.change(id=4, code="GBP", day=at, eur=Decimal(3)), log.change("d", id=4)]
    events += [
        log.change(id=5, code="CHF", day=at, eur=Decimal(9)),
        log.change("u", id=5, code="CHF", day=at, eur=Decimal(4)),
    ]
    land(lake, "shop__fx", events)
    land(
        lake,
        "shop__payments",
        [log.payment("changes", n, code, "10", MIDNIGHT) for n, code in enumerate(["USD", "GBP", "CHF"])],
    )
    build(lake, "changes")
    assert [row["total"] for _, row in sorted(silver(lake, "changes").items())] == [20, None, 40]


def test_rates_of_a_topic_are_its_readable_records(lake: SmallLake) -> None:
    log, at = Log(), MIDNIGHT.replace(tzinfo=UTC)
    records = [log.record(currency="USD", valid_from=at, rate=2.0), log.record(_error="no JSON", _raw=b"x")]
    land(lake, "fx_rates", [*records, log.record(_error="half", currency="USD", valid_from=at, rate=7.0)])
    land(lake, "orders", [log.payment("events", 1, "USD", "10", MIDNIGHT)])
    build(lake, "events")
    assert silver(lake, "events")[1]["total"] == 20


def test_an_update_closes_the_amount_as_it_was_converted(lake: SmallLake) -> None:
    log, day = Log(), MIDNIGHT.date()
    land(lake, "shop__fx", [log.change(id=1, code="USD", day=day, eur=Decimal("0.8"))])
    first = log.payment("changes", 1, "USD", "10", MIDNIGHT)
    land(lake, "shop__payments", [first])
    build(lake, "changes")
    land(lake, "shop__fx", [log.change("u", id=1, code="USD", day=day, eur=Decimal("0.5"))])
    land(lake, "shop__payments", [first | log.change("u") | {"total": Decimal(20)}])
    build(lake, "changes")

    entries = sorted(
        lake.rows("silver", "shop_payments_ledger"), key=lambda row: (row["_lsn"], row["_seq"], row["weight"])
    )
    assert [(row["weight"], row["total"], row["_rate"]) for row in entries] == [
        (1, 8, 0.8),
        (-1, 8, None),
        (1, 10, 0.5),
    ]


@kinds
def test_a_stream_waits_for_its_table_of_rates_and_the_other_does_not(
    lake: SmallLake, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    mine, other = ("fx_rates", "shop__fx") if kind == "events" else ("shop__fx", "fx_rates")
    rates = log.rates(RATES)
    land(lake, other, rates[other])
    for each, table in TABLES.items():
        land(lake, table, [log.payment(each, 1, "USD", "10", MIDNIGHT)])
    lake.build("hot")
    assert not lake.lake.exists("gold", MODELS[kind][1])
    assert f"its table of rates, bronze/{mine}, is not captured yet" in caplog.text
    others = next(name for name in TABLES if name != kind)
    assert features(lake, others)[1]["amount"] == 8

    land(lake, mine, rates[mine])
    lake.build("hot")
    assert features(lake, kind)[1]["amount"] == 8, "nothing was lost meanwhile"


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.timeout(900)
@kinds
def test_spark_converts_alike(lake: SmallLake, kind: str, spark: Spark) -> None:
    log = Log()
    rates = {"events": "fx_rates", "changes": "shop__fx"}[kind]
    land(lake, rates, log.rates(RATES)[rates])
    land(lake, TABLES[kind], random_payments(log, kind, random.Random(5), 100))
    model = MODELS[kind][0]
    build(lake, kind)
    for table in (rates, TABLES[kind]):
        spark.files(f"bronze_{table}", DeltaTable(str(lake.root / "bronze" / table)).file_uris())
    [sql] = spark_sql.models(lake.transformer, [model]).values()
    stream = "web_orders" if kind == "events" else "shop_payments"
    kept = spark_sql.rendered(
        lake.transformer,
        "{%- for name, expression in rate_columns(stream_of('" + stream + "').rates).items() -%}"
        "{{ expression }} as {{ name }}, {% endfor -%}",
    )
    further = "coalesce(_commit, 0) as _bronze_commit, _ingested_at, _topic, _partition, _offset"
    further = further if kind == "events" else "id as key_1, _op, _lsn, _seq"
    where = "where _error is null" if kind == "events" else ""
    sql = re.sub(r'seen\."[^"]*"', f"(select {kept}{further} from bronze_{rates} {where})", sql)
    key = ("ref",) if kind == "events" else ("payment_id", "weight")
    columns = [*key, "_rate", "is_amount_excluded"]
    found = spark.query(f"select {', '.join(columns)}, cast(total as double) as total from ({sql})")
    wanted = [{name: row[name] for name in [*columns, "total"]} for row in lake.rows("silver", model)]
    assert {row["_rate"] for row in wanted} >= {1.0, 0.9, 0.8, 0.0061, 1.25, None}
    assert_same(found, [row | {"total": row["total"] and float(row["total"])} for row in wanted], *key)
