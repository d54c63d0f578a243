"""A declared stream of changes over any table says what the bank's says of the same changes, by other names and types.

The log of the bank's oracle is translated into one of a shop: ids are uuids, accounts are texts, times have a zone, and
each payment has a merchant too. What the oracles expect of the bank is translated likewise.
"""

from __future__ import annotations

import random
import textwrap
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from fraud_lakehouse.detection import as_of
from fraud_lakehouse.ingest.bronze import BronzeTable
from fraud_lakehouse.transform.project import current_catalogue
from tests.dbt import as_of_oracle, bank_vectors_oracle
from tests.dbt.small_lake import CHANGE, Row, SmallLake, assert_same
from tests.dbt.transactions_oracle import START, Change, Replayed, committed_at, random_log
from tests.dbt.vectors_oracle import is_same
from tests.dbt.windows_oracle import AGGREGATES

PAYMENTS, ACCOUNTS, REFUNDS = "shop__payments", "shop__accounts", "shop__refunds"
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    PAYMENTS: {
        "payment_id": pl.String(),
        "account": pl.String(),
        "merchant": pl.String(),
        "paid_at": pl.Datetime("us", "UTC"),
        "total": pl.Decimal(38, 9),
        **CHANGE,
    },
    ACCOUNTS: {"account_no": pl.String(), **CHANGE},
    REFUNDS: {
        "refund": pl.Int16(),
        "customer": pl.Int32(),
        "made_at": pl.Datetime("us"),
        "paid": pl.Float64(),
        **CHANGE,
    },
}
KEYS = {PAYMENTS: ["payment_id"], ACCOUNTS: ["account_no"], REFUNDS: ["refund"]}
SOURCES = """
shop:
  type: postgres
  dsn_env: SHOP_DSN
  prefix: shop__
"""
STREAMS = f"""
shop_payments:
  from: {PAYMENTS}
  kind: changes
  id: payment_id
  time: paid_at
  amount: total
  entities:
    account: {{key: account, exists_in: {{table: {ACCOUNTS}, column: account_no}}}}
    merchant: {{key: merchant, partitions: large}}
    pair: [account, merchant]
refunds:
  from: {REFUNDS}
  kind: changes
  id: refund
  time: made_at
  timezone: America/New_York
  amount: paid
  max_amount: 1000
  entities: {{customer: customer}}
"""
LEDGER, HOT, VECTORS = "shop_payments_ledger", "shop_payments_features", "shop_payments_vectors"
MINUTE = timedelta(minutes=1)
RECENCY = ("seconds_since_last", "is_first")
WINDOWED = [name for name in AGGREGATES if name not in RECENCY]
_ENTRY = {"stream": "shop_payments", "entity": "all", "owner": "o"}
ADDED: list[dict[str, Any]] = [
    {**_ENTRY, "name": "{entity}_{aggregate}_10min", "measure": "total", "window": "10 minutes", "aggregate": WINDOWED},
    {**_ENTRY, "name": "{entity}_cheap_{aggregate}", "measure": "total", "window": "1 hour", "aggregate": WINDOWED}
    | {"filter": "total < 10"},
    {**_ENTRY, "name": "{entity}_cheap_payments", "window": "1 hour", "aggregate": "count", "filter": "total < 10"},
    {**_ENTRY, "name": "{entity}_{aggregate}_cheap", "aggregate": [*RECENCY], "filter": "total < 10"},
]
FEATURES = "\n" + textwrap.indent(yaml.safe_dump(ADDED), "  ")


def pipeline_with(folder: Path, sources: str, streams: str, features: str = "") -> Path:
    """A pipeline folder with the shipped declarations and further ones."""
    folder.mkdir(parents=True)
    shipped = Path(__file__).resolve().parents[2] / "pipeline"
    for name, further in (("sources.yml", sources), ("streams.yml", streams), ("features.yml", features)):
        (folder / name).write_text((shipped / name).read_text() + further)
    return folder


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    home = tmp_path_factory.mktemp("change_streams")
    lake = SmallLake(home / "lake", pipeline=pipeline_with(home / "pipeline", SOURCES, STREAMS, FEATURES))
    yield lake
    lake.transformer.close()


def land(lake: SmallLake, table: str, rows: list[Row]) -> None:
    """One commit of bronze rows of the shop; columns that a row lacks are null."""
    schema = SCHEMAS[table]
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    BronzeTable.open_or_create(lake.lake, table, schema, KEYS[table]).append(frame, {})


def payment_id(number: Any) -> str:
    return str(uuid.UUID(int=int(number)))


def account(user: int | None) -> str | None:
    return None if user is None else f"account {user}"


def merchant(amount: Decimal | None) -> str | None:
    return None if amount is None else f"merchant {int(amount * 100) % 3}"


def paid_at(date: datetime | None) -> datetime | None:
    return None if date is None else date.replace(tzinfo=UTC)


def shop_row(row: Row) -> Row:
    """A transaction of the bank as a payment of the shop, as bronze has it."""
    return {
        "payment_id": payment_id(row["transaction_id"]),
        "account": account(row["user_id"]),
        "merchant": merchant(row["amount"]),
        "paid_at": paid_at(row["transaction_date"]),
        "total": row["amount"],
    }


class Shop:
    """Translates the bank's changes into the shop's; some updates leave out the account that they do not change."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._accounts: dict[int, str | None] = {}
        self._left: tuple[tuple[int, int], str | None] = ((-1, -1), None)
        self.unsent = 0

    def translated(self, table: str, change: Row) -> tuple[str, Row]:
        meta = {name: change.get(name) for name in ("_op", "_lsn", "_seq", "_committed_at")}
        if table == "users":
            return ACCOUNTS, meta if change["_op"] == "t" else {"account_no": account(change["user_id"]), **meta}
        return PAYMENTS, {**self._payment(change), **meta}

    def _payment(self, change: Row) -> Row:
        if change["_op"] == "t":
            self._accounts.clear()
            return {}
        number, at = change["transaction_id"], (change["_lsn"], change["_seq"])
        if change["_op"] == "d":
            self._left = at, self._accounts.pop(number)
            return {"payment_id": payment_id(number)}
        row = shop_row(change)
        moved = self._left[1] if self._left[0] == (at[0], at[1] - 1) else None
        before = self._accounts.get(number, moved)
        self._accounts[number] = row["account"]
        if change["_op"] == "u" and before is not None and before == row["account"] and self._rng.random() < 0.5:
            self.unsent += 1
            return {**row, "account": None, "_unchanged": '["account"]'}
        return row


def shop_ledger(entry: Row) -> Row:
    found = {**shop_row(entry), "paid_at": entry["transaction_date"]}
    return found | {name: entry[name] for name in ("weight", "_lsn", "_seq", "_op")}


def shop_features(row: Row) -> Row:
    found = {name: value for name, value in row.items() if name != "user_id"}
    return found | {
        "source": f"shop.{PAYMENTS}",
        "transaction_id": payment_id(row["transaction_id"]),
        "account": account(row["user_id"]),
    }


def shop_alert(row: Row) -> Row:
    return {**row, "transaction_id": payment_id(row["transaction_id"]), "stream": "shop_payments"}


def shop_vectors(lake: SmallLake, state: dict[int, Row]) -> dict[str, Row]:
    """The vectors of the state, by the bank's oracle put to each entity in turn; by payment."""
    catalogue = current_catalogue(lake.settings)
    assert catalogue is not None
    vectors: dict[str, Row] = {payment_id(number): {} for number in state}
    for entity, described in catalogue.streams["shop_payments"].entities.items():
        features = [feature for feature in catalogue.of_table(VECTORS) if feature.entity == entity]
        assert len(features) > 10
        as_of_bank = [
            replace(feature, measure="amount") if feature.measure == "total" else feature for feature in features
        ]
        keys = {number: tuple(shop_row(row)[name] for name in described.key) for number, row in state.items()}
        owned = {n: {**row, "user_id": None if None in keys[n] else keys[n]} for n, row in state.items()}
        for number, vector in bank_vectors_oracle.vectors_of(owned, as_of_bank).items():
            vectors[payment_id(number)] |= {name: value for name, value in vector.items() if name != "user_id"}
    for number, row in state.items():
        vectors[payment_id(number)] |= {"account": account(row["user_id"]), "merchant": merchant(row["amount"])}
    return vectors


def check(lake: SmallLake, expected: Replayed) -> None:
    current = [shop_row(row) for row in expected.transactions.values()]
    assert_same(lake.rows("silver", PAYMENTS), current, "payment_id")
    assert_same(
        lake.rows("silver", LEDGER), [*map(shop_ledger, expected.ledger)], "payment_id", "_lsn", "_seq", "weight"
    )
    features = [*map(shop_features, expected.features)]
    assert_same(lake.rows("gold", HOT), features, "transaction_id", "_lsn", "_seq")
    assert_same(lake.rows("gold", "alerts"), [*map(shop_alert, expected.alerts())], "rule", "transaction_id")


def check_vectors(lake: SmallLake, state: dict[int, Row]) -> None:
    newest: dict[str, Row] = {}
    for row in sorted(lake.rows("gold", VECTORS), key=lambda row: row["version"]):
        assert row["version"] == newest.get(row["payment_id"], {"version": 0})["version"] + 1
        newest[row["payment_id"]] = row
    wanted = shop_vectors(lake, state)
    assert {number for number, row in newest.items() if not row["is_deleted"]} == wanted.keys()
    for number, vector in wanted.items():
        assert (differs := is_same(newest[number], vector)) is None, (number, differs)


@pytest.mark.parametrize("seed", range(2))
def test_any_split_of_a_shops_log_gives_what_the_banks_oracles_expect(lake: SmallLake, seed: int) -> None:
    log = random_log(seed, transactions=120)
    shop, rng = Shop(seed), random.Random(seed)
    changes: list[list[Change]] = [[shop.translated(*change) for change in commit] for commit in log]
    assert shop.unsent > 5
    bounds = [0, *sorted(rng.sample(range(1, len(log)), 3)), len(log)]
    for start, end in pairwise(bounds):
        for table in SCHEMAS:
            if rows := [row for commit in changes[start:end] for name, row in commit if name == table]:
                land(lake, table, rows)
        lake.build(rng.choice(["hot", "all"]))
    lake.build("all")

    expected = Replayed().replay(log)
    check(lake, expected)
    check_vectors(lake, expected.transactions)
    assert {row["entity_type"] for row in lake.rows("gold", "alerts")} == {"account"}

    lake.build("all", full_refresh=True)
    check(lake, expected)
    check_vectors(lake, expected.transactions)


def test_a_change_of_one_entitys_rows_leaves_what_others_counted(lake: SmallLake) -> None:
    rows = [
        {"payment_id": payment_id(n), "account": who, "merchant": where, "paid_at": paid_at(START + n * MINUTE)}
        | {"total": Decimal(20), "_op": "c", "_lsn": 10, "_seq": n, "_committed_at": committed_at(10)}
        for n, (who, where) in enumerate([("a", "m"), ("b", "z"), ("b", "m"), ("c", "z")])
    ]
    land(lake, PAYMENTS, rows)
    lake.build("all")
    land(lake, PAYMENTS, [{**rows[0], "total": Decimal(5), "_op": "u", "_lsn": 20, "_committed_at": committed_at(20)}])
    lake.build("all")

    touched = {row["payment_id"]: row for row in lake.rows("gold", VECTORS) if row["version"] == 2}
    assert touched.keys() == {payment_id(2)}, "nothing is before the first, which has no feature of its own amount"
    (found,) = touched.values()
    assert (found["merchant_total_sum_10min"], found["merchant_cheap_payments"]) == (5.0, 1)
    assert (found["account_total_sum_10min"], found["account_seconds_since_last"]) == (20.0, 60)


def test_features_of_labels_are_those_of_the_table_as_it_was_then(lake: SmallLake) -> None:
    log, shop, rng = random_log(3, transactions=120), Shop(3), random.Random(3)
    changes = [change for commit in log for change in commit]
    land(lake, PAYMENTS, [row for table, row in (shop.translated(*change) for change in changes) if table == PAYMENTS])
    lake.build("hot")
    catalogue = current_catalogue(lake.settings)
    assert catalogue is not None
    catalogue = replace(catalogue, features=[one for one in catalogue.features if one.expression is None])
    labels, wanted = [], []
    for _ in range(60):
        lsn = rng.choice(changes)[1]["_lsn"]
        before = rng.random() < 0.5  # a microsecond before that commit, or exactly at it
        at = START + timedelta(minutes=rng.randrange(90), microseconds=rng.choice([0, 0, 1]))
        label = {"account": account(rng.randrange(1, 7)), "merchant": f"merchant {rng.randrange(3)}", "t": at}
        label["known_by"] = committed_at(lsn) - timedelta(microseconds=int(before))
        until = [commit for commit in log if commit and commit[0][1]["_lsn"] < lsn + (not before)]
        rows = [
            {**row, **shop_row(row), "t": row["transaction_date"], "known_from": label["known_by"], "known_to": None}
            for row in Replayed().replay(until).transactions.values()
        ]
        labels.append(label)
        wanted.append(as_of_oracle.features_of(label, rows, catalogue, "shop_payments"))
    frame = pl.DataFrame([{name: row[name] for name in ("account", "merchant", "known_by")} for row in labels])
    frame = frame.with_columns(event_time=pl.Series([row["t"] for row in labels], dtype=pl.Datetime("us")))
    names = [feature.name for feature in catalogue.of_table(VECTORS)]
    found = as_of(frame, "shop_payments", features=names, settings=lake.settings, transformer=lake.transformer)
    assert any(row["pair_cheap_count"] for row in found.to_dicts())
    for label, row, expected in zip(labels, found.to_dicts(), wanted, strict=True):
        assert (differs := is_same(row, expected)) is None, (label, differs)


def test_velocity_fires_once_on_the_account(lake: SmallLake) -> None:
    change = {"_op": "c", "account": "a/1", "total": Decimal(1), "merchant": "m"}
    rows = [
        change | {"payment_id": payment_id(n), "paid_at": paid_at(START), "_lsn": 10 * n, "_seq": 1}
        for n in range(1, 12)
    ]
    land(lake, PAYMENTS, rows)
    lake.build("hot")
    land(lake, PAYMENTS, [{**rows[-1], "_op": "u", "_lsn": 900, "total": Decimal(2)}])
    lake.build("hot")

    (alert,) = lake.rows("gold", "alerts")
    assert (alert["rule"], alert["transaction_id"]) == ("velocity", payment_id(11))
    assert (alert["entity_type"], alert["entity_id"], alert["user_id"]) == ("account", "a/1", None)
    assert (alert["stream"], alert["source"]) == ("shop_payments", f"shop.{PAYMENTS}")


def test_times_are_in_the_streams_zone_and_limits_are_its_own(lake: SmallLake) -> None:
    noon = datetime(2026, 7, 1, 12)  # noqa: DTZ001 of New York
    rows = [(1, 7, noon, 10.5), (2, 7, noon.replace(hour=13), 1000.5), (3, None, None, None)]
    land(
        lake,
        REFUNDS,
        [
            {
                "refund": refund,
                "customer": customer,
                "made_at": at,
                "paid": paid,
                "_op": "c",
                "_lsn": 10 * refund,
                "_seq": 1,
                "_committed_at": datetime(2026, 7, 1, 20, tzinfo=UTC),
            }
            for refund, customer, at, paid in rows
        ],
    )
    lake.build("all")

    entries = {row["refund"]: row for row in lake.rows("silver", "refunds_ledger")}
    assert [entries[n]["made_at"] for n in (1, 2, 3)] == [noon.replace(hour=16), noon.replace(hour=17), None]
    assert [entries[n]["is_amount_excluded"] for n in (1, 2, 3)] == [False, True, False]
    assert {row["refund"]: row["customer_paid_count_24h"] for row in lake.rows("gold", "refunds_vectors")} == {
        1: 0,
        2: 1,
        3: None,
    }
    labels = pl.DataFrame({"refund": [2], "event_time": [datetime(2026, 7, 2)]})  # noqa: DTZ001 as labels have it
    known = as_of(
        labels, "refunds", features=["customer_paid_count_24h"], transformer=lake.transformer, settings=lake.settings
    )
    assert known["customer_paid_count_24h"].to_list() == [1]
    (alert,) = [row for row in lake.rows("gold", "alerts") if row["rule"] == "amount_out_of_range"]
    assert (alert["transaction_id"], alert["entity_type"], alert["entity_id"]) == ("2", "customer", "7")
    assert '"max_amount":1000' in alert["evidence"]


def test_a_stream_is_built_once_its_table_is_captured_and_the_others_meanwhile(lake: SmallLake) -> None:
    bank = {"_op": "c", "_lsn": 5, "_seq": 1, "transaction_id": 1, "user_id": 1, "transaction_date": START}
    lake.land("transactions", [bank])
    lake.build("hot")
    assert len(lake.rows("gold", "transaction_features")) == 1
    assert not lake.lake.exists("gold", HOT)

    first = {"_op": "c", "_lsn": 5, "_seq": 1, "payment_id": payment_id(1), "paid_at": paid_at(START)}
    land(lake, PAYMENTS, [first | {"total": Decimal(3)}])
    lake.build("hot")
    (found,) = lake.rows("gold", HOT)
    assert (found["amount"], found["user_exists"]) == (3.0, None), "nothing is known of accounts yet"


def test_a_stream_whose_columns_do_not_fit_is_named_and_the_others_are_built(
    lake: SmallLake, caplog: pytest.LogCaptureFixture
) -> None:
    schema = {name: kind for name, kind in SCHEMAS[PAYMENTS].items() if name != "total"} | {"total": pl.String()}
    row = {"payment_id": payment_id(1), "_op": "c", "_lsn": 5, "_seq": 1, "total": "3"}
    frame = pl.DataFrame([{name: row.get(name) for name in schema}], schema=schema)
    BronzeTable.open_or_create(lake.lake, PAYMENTS, schema, KEYS[PAYMENTS]).append(frame, {})
    lake.land("transactions", [{"_op": "c", "_lsn": 5, "_seq": 1, "transaction_id": 1, "transaction_date": START}])
    lake.build("hot")
    assert len(lake.rows("gold", "transaction_features")) == 1
    assert not lake.lake.exists("gold", HOT)
    assert f"shop_payments: the amount total of bronze/{PAYMENTS} is varchar, expected a number" in caplog.text


def test_a_stream_of_another_name_over_the_banks_table_raises_each_alert_once(tmp_path: Path) -> None:
    folder = pipeline_with(tmp_path / "pipeline", "", "")
    declared = (folder / "streams.yml").read_text().replace("\nbank_payments:", "\ntransfers:")
    (folder / "streams.yml").write_text(declared)
    lake = SmallLake(tmp_path / "lake", pipeline=folder)
    change = {"_op": "c", "_seq": 1, "user_id": 1, "transaction_date": START, "amount": Decimal(100)}
    lake.land("transactions", [change | {"transaction_id": n, "_lsn": n} for n in range(1, 12)])
    try:
        lake.build("hot")
    finally:
        lake.transformer.close()

    (alert,) = lake.rows("gold", "alerts")
    assert (alert["rule"], alert["transaction_id"], alert["stream"]) == ("velocity", "11", "transfers")
    assert (alert["source"], alert["user_id"]) == ("bank.transactions", 1)
