"""The judge itself: what it must find in a bronze that was tampered with. No server, no product."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from fraud_lakehouse.storage.lake import Lake
from tests.soak.bronze_verdict import Verdict, judge_cards, judge_changes, judge_positions
from tests.soak.cards import CardStream
from tests.soak.derived_verdict import AlertBook, check_deliveries
from tests.soak.hostile_destination import HostileDestination
from tests.soak.ledger import TABLES, TOTAL, Ledger
from tests.soak.shop import Shop
from tests.soak.workload import Committed, Event

HALF = TOTAL / 2
AT = datetime(2026, 1, 1, tzinfo=UTC)


def committed() -> list[Committed]:
    """Two accounts, then three transfers between them, the last with a key that changes."""
    rows = [Committed(1, {"accounts": [("c", 1, (1, HALF, "long", 1)), ("c", 2, (2, HALF, None, 2))]})]
    for number in (2, 3, 4):
        moved = Decimal(number)
        accounts = [("u", 1, (1, HALF - moved, "long", number)), ("u", 2, (2, HALF + moved, None, number))]
        if number == 4:
            accounts += [("d", 2, None), ("u", 9, (9, HALF + moved, None, number))]
        transfers: list[Event] = [("c", number, (number, 1, 2, moved, number))]
        rows.append(Committed(number, {"accounts": accounts, "transfers": transfers}))
    return rows


def bronze(transactions: list[Committed]) -> dict[str, list[dict[str, Any]]]:
    """What the product would land: the first transaction as snapshot, the note of account 1 never sent again."""
    tables: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for transaction in transactions:
        sequence = 0
        for table, events in transaction.events.items():
            for op, key, row in events:
                sequence += 1
                values = dict(zip(TABLES[table], row or (key, *[None] * 9), strict=False))
                place = {
                    "_op": op,
                    "_lsn": 100 * transaction.number,
                    "_seq": sequence,
                    "_unchanged": None,
                    "_text": None,
                }
                if transaction.number == 1:
                    place["_op"] = "r"
                elif values.get("note") == "long":
                    values["note"], place["_unchanged"] = None, '["note"]'
                at = AT + timedelta(seconds=transaction.number)
                tables[table].append({**values, **place, "_ingested_at": at})
    return tables


SCHEMA: dict[str, Any] = {"balance": pl.Decimal(14, 2), "amount": pl.Decimal(14, 2), "note": pl.String}
SCHEMA |= {"_unchanged": pl.String, "_text": pl.String, "_op": pl.String, "name": pl.String, "email": pl.String}
SCHEMA["transaction_date"] = pl.Datetime("us")


def judged(home: Path, tamper: Callable[[dict[str, list[dict[str, Any]]]], None]) -> Verdict:
    tables = bronze(committed())
    tamper(tables)
    write_bronze(home, tables)
    return judge_changes(Lake.at(home), Ledger("", 0, committed()))


def write_bronze(home: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    for table, rows in tables.items():
        columns = [*TABLES[table], "_op", "_lsn", "_seq", "_unchanged", "_text", "_ingested_at"]
        kinds = {name: SCHEMA.get(name, pl.Int64) for name in columns} | {"_ingested_at": pl.Datetime("us", "UTC")}
        write_deltalake(str(home / "bronze" / table), pl.DataFrame(rows, schema=kinds))


def test_what_was_committed_passes(tmp_path: Path) -> None:
    result = judged(tmp_path, lambda tables: None)
    assert result.clean, result.problems
    assert result.checked == 2 + 8 + 3


def stated_again(tables: dict[str, list[dict[str, Any]]], balance: Decimal) -> dict[str, Any]:
    """The row of account 1 as a resync writes it."""
    last = tables["accounts"][-4]
    assert last["id"] == 1
    return {**last, "balance": balance, "note": "long", "_op": "r", "_lsn": 900, "_unchanged": None}


def test_a_resync_may_state_a_row_again(tmp_path: Path) -> None:
    def restate(tables: dict[str, list[dict[str, Any]]]) -> None:
        tables["accounts"].append(stated_again(tables, HALF - 4))

    assert judged(tmp_path, restate).clean


def swap(rows: list[dict[str, Any]]) -> None:
    first, second = rows[2], rows[4]
    for name in ("_lsn", "_seq"):
        first[name], second[name] = second[name], first[name]


@pytest.mark.parametrize(
    "tamper, finds",
    [
        (lambda tables: tables["transfers"].pop(1), "lost"),
        (lambda tables: tables["accounts"].pop(), "lost"),
        (lambda tables: tables["transfers"].append(tables["transfers"][1]), "doubled"),
        (lambda tables: tables["transfers"].append({**tables["transfers"][1], "_seq": 9}), "doubled"),
        (lambda tables: tables["transfers"].append({**tables["transfers"][1], "id": 99, "_seq": 9}), "doubled"),
        (lambda tables: tables["transfers"][1].update(amount=Decimal(77)), "lost"),
        (lambda tables: tables["accounts"][2].update(_unchanged=None), "lost"),
        (lambda tables: swap(tables["accounts"]), "reordered"),
        (lambda tables: tables["transfers"][1].update(_lsn=301), "reordered"),
        (lambda tables: tables["transfers"][1].update(_ingested_at=AT + timedelta(days=1)), "reordered"),
        (lambda tables: tables["accounts"][0].update(balance=HALF - 1), None),
        (lambda tables: tables["accounts"].append(stated_again(tables, HALF - 8)), "doubled"),
    ],
)
def test_what_was_tampered_with_is_found(
    tmp_path: Path, tamper: Callable[[dict[str, list[dict[str, Any]]]], None], finds: str | None
) -> None:
    result = judged(tmp_path, tamper)
    assert not result.clean
    assert finds is None or getattr(result, finds) > 0, result


@pytest.mark.parametrize(
    "ingested, finds",
    [
        ([1, 2, 3], None),
        ([1, 3], "lost"),
        ([1, 2, 2, 3], "doubled"),
        ([1, 3, 2], "reordered"),
    ],
)
def test_orders_of_the_second_database(tmp_path: Path, ingested: list[int], finds: str | None) -> None:
    orders = {n: (f"o{n}", "a1", AT, Decimal(n), n) for n in (1, 2, 3)}
    bronze = {"shop_users": [], "shop_orders": [orders[n] for n in ingested]}
    for table, rows in bronze.items():
        columns = Shop.tables[table.removeprefix(Shop.prefix)]
        kinds: dict[str, Any] = dict.fromkeys(columns, pl.String) | {"is_seller": pl.Boolean, "stamp": pl.Int64}
        kinds |= {"paid_at": pl.Datetime("us", "UTC"), "total": pl.Decimal(38, 9)}
        frame = pl.DataFrame(rows, schema={name: kinds[name] for name in columns}, orient="row").with_columns(
            pl.lit("c").alias("_op"),
            pl.int_range(1, pl.len() + 1).alias("_lsn"),
            pl.lit(1).alias("_seq"),
            *(pl.lit(None, pl.String).alias(name) for name in ("_unchanged", "_text")),
            pl.lit(AT).alias("_ingested_at"),
        )
        write_deltalake(str(tmp_path / "bronze" / table), frame)
    first = Committed(0, {"orders": [("c", "o0", orders[1]), ("d", "o0", None)]})
    rest = [Committed(n, {"orders": [("c", f"o{n}", row)]}) for n, row in orders.items()]
    result = judge_changes(Lake.at(tmp_path), Shop("", 0, [first, *rest]))
    assert result.clean == (finds is None), result.problems
    assert finds is None or getattr(result, finds) > 0


@pytest.mark.parametrize(
    "ingested, finds",
    [
        ([(0, 0, "a"), (0, 1, "b")], None),
        ([(0, 0, "a")], "lost"),
        ([(0, 0, "a"), (0, 1, "b"), (0, 1, "b")], "doubled"),
        ([(0, 0, "a"), (0, 1, "b"), (0, 2, "c")], "doubled"),
        ([(0, 0, "b"), (0, 1, "a")], "lost"),
        ([(0, 1, "b"), (0, 0, "a")], "reordered"),
    ],
)
def test_card_records(tmp_path: Path, ingested: list[tuple[int, int, str]], finds: str | None) -> None:
    rows = [
        {"_topic": "t", "_partition": p, "_offset": o, "trans_num": n, "_raw": None, "_commit": c}
        for c, (p, o, n) in enumerate(ingested)
    ]
    kinds = {"_topic": pl.String, "_partition": pl.Int32, "_offset": pl.Int64, "trans_num": pl.String}
    kinds |= {"_raw": pl.Binary, "_commit": pl.Int64}
    write_deltalake(str(tmp_path / "bronze" / "card_transactions"), pl.DataFrame(rows, schema=kinds))
    cards = SimpleNamespace(topic="t", published={(0, 0): b'"a"', (0, 1): b'"b"'}, poison=set())
    result = judge_cards(Lake.at(tmp_path), cast("CardStream", cards))
    assert result.clean == (finds is None)
    assert finds is None or getattr(result, finds) > 0


def test_a_position_that_goes_back(tmp_path: Path) -> None:
    known: dict[tuple[str, str], tuple[int, int]] = {}
    for position in (5, 7, 6):
        properties = CommitProperties(app_transactions=[Transaction("pg:1:s", position)])
        table = str(tmp_path / "control" / "batches")
        write_deltalake(table, pl.DataFrame({"n": [1]}), mode="append", commit_properties=properties)
    reported = ["control/batches version 2: pg:1:s went from 7 back to 6"]
    assert judge_positions(Lake.at(tmp_path), known).problems == reported
    assert judge_positions(Lake.at(tmp_path), known).checked == 0


@pytest.mark.parametrize(
    "later, received, finds",
    [
        ([("a", 1.0), ("b", 2.0)], ["a", "b"], None),
        ([("b", 2.0)], ["a", "b"], "missing_alerts"),
        ([("a", 1.0), ("a", 1.0)], ["a"], "doubled"),
        ([("a", 3.0)], ["a"], "lost"),
        ([("a", 1.0), ("b", 2.0)], ["a"], "missing_alerts"),
    ],
)
def test_alerts(tmp_path: Path, later: list[tuple[str, float]], received: list[str], finds: str | None) -> None:
    lake, book = Lake.at(tmp_path), AlertBook()

    def judge(alerts: list[tuple[str, float]], arrived: list[str]) -> Verdict:
        frame = pl.DataFrame(alerts, schema={"alert_id": pl.String, "score": pl.Float64}, orient="row")
        write_deltalake(lake.uri("gold", "alerts"), frame, mode="overwrite")
        return book.judge(lake, [{"alert_id": one} for one in arrived])

    assert judge([("a", 1.0)], ["a"]).clean
    result = judge(later, received)
    assert result.clean == (finds is None)
    assert finds is None or getattr(result, finds) > 0


@pytest.mark.parametrize("amount, text", [("NaN", '{"amount": "NaN"}'), (Decimal("1e100"), '{"amount": "1E+100"}')])
def test_what_a_decimal_cannot_hold_is_compared_by_its_text(tmp_path: Path, amount: Any, text: str) -> None:
    def poisoned(recorded: str | None) -> Verdict:
        payment: Event = ("c", 5, (5, 7, AT.replace(tzinfo=None), amount))
        first = committed()[:1]
        ledger = Ledger("", 0, [*first, Committed(2, {"transactions": [payment]})])
        home = tmp_path / str(recorded is None)
        tables = bronze(first)
        places = {"_op": "c", "_lsn": 200, "_seq": 1, "_unchanged": None, "_text": recorded, "_ingested_at": AT}
        values = {"transaction_id": 5, "user_id": 7, "transaction_date": AT.replace(tzinfo=None), "amount": None}
        tables["transactions"] = [values | places]
        write_bronze(home, tables)
        return judge_changes(Lake.at(home), ledger)

    assert poisoned(text).clean
    assert poisoned(None).lost == 1


@pytest.mark.parametrize("accepted, elsewhere, missing", [(["a"], [], 0), ([], [], 1), (["a"], ["/302"], 1)])
def test_deliveries(tmp_path: Path, accepted: list[str], elsewhere: list[str], missing: int) -> None:
    lake = Lake.at(tmp_path)
    rows = {
        "alert_id": ["a", "b"],
        "destination": ["json://there:1#0", "json://other:1#0"],
        "status": ["delivered"] * 2,
    }
    write_deltalake(lake.uri("gold", "alert_deliveries"), pl.DataFrame(rows))
    hostile = SimpleNamespace(host="there:1", accepted=accepted, elsewhere=elsewhere)
    result = check_deliveries(lake, cast("HostileDestination", hostile))
    assert result.missing_alerts == missing
    assert result.clean == (missing == 0)
