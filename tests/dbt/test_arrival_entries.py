"""Entries of the hot tables that the shipped catalogue has not equal brute force; a rebuild of them fires no alert."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_lakehouse.features.catalogue import FILE, Feature
from fraud_lakehouse.transform.definitions import outdated_features
from fraud_lakehouse.transform.project import current_definitions
from fraud_lakehouse.transform.rebuild import rebuild
from tests.catalogues import loaded
from tests.dbt import cards_oracle, vectors_oracle
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.dbt.transactions_oracle import Change, Replayed, random_log

CARDS, BANK = "card_transaction_features", "transaction_features"
HOT: dict[str, Any] = {"stream": "card_payments", "table": CARDS, "past": "arrived", "entity": "user", "owner": "added"}
LEDGER: dict[str, Any] = {
    "stream": "bank_payments",
    "table": BANK,
    "past": "committed",
    "entity": "user",
    "owner": "added",
}
ALL, FAMILY = ["count", "sum", "mean"], "{measure}_{aggregate}_{window}"
ADDED: list[dict[str, Any]] = [
    {**HOT, "name": "count_{window}", "aggregate": "count", "window": ["1 hour", "1 day"]},
    {**HOT, "name": FAMILY, "measure": ["amt", "night", "flag"], "aggregate": ALL, "window": ["1 minute", "1 hour"]},
    {**HOT, "name": "{measure}_{aggregate}_ever", "measure": ["night", "flag", "amt"], "aggregate": ALL},
    {**HOT, "name": "all_ever", "aggregate": "count"},
    {**HOT, "name": "cheap_{measure}_{aggregate}", "measure": ["amt", "night"], "aggregate": ALL, "filter": "amt < 50"},
    {**HOT, "name": "cheap_{aggregate}_{window}", "aggregate": "count", "window": "1 hour", "filter": "amt < 50"},
    {**LEDGER, "name": "count_{window}", "aggregate": "count", "window": ["7 minutes", "1 hour"]},
    {**LEDGER, "name": FAMILY, "measure": "amount", "aggregate": ALL, "window": ["10 minutes", "1 hour"]},
    {**LEDGER, "name": "{measure}_{aggregate}_ever", "measure": "amount", "aggregate": ALL},
]
FLAG = {"expression": "case when merchant = 'one' then 2.5 end", "unit": "u", "decimals": 1, "about": "flag"}


def declare(project: Path, *more: dict[str, Any]) -> None:
    """The shipped catalogue's own tables of both sources, and `more`."""
    path = project / "pipeline" / FILE
    content = yaml.safe_load(path.read_text())
    shipped = [one for one in content["features"] if one["owner"] != "added"]
    few = [one for one in shipped if one.get("past", "strict") != "strict" or one.get("aggregate") == "is_first"]
    content["measures"]["card_payments"]["flag"] = FLAG
    content["features"] = [*few, *more]
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def more(lake: SmallLake, project: Path) -> list[Feature]:
    """The added features, which the lake's project has."""
    declare(project, *ADDED)
    lake.transformer.reload()
    return [feature for feature in loaded(project / "pipeline" / FILE).features if feature.owner == "added"]


def told(feature: Feature, values: list[tuple[Any, int]]) -> Any:
    """A feature of the rows that count: each with its value (null: none), and 1, or -1 where it is taken back."""
    known = [(value, weight) for value, weight in values if value is not None]
    count, total = sum(weight for _, weight in known), sum(value * weight for value, weight in known)
    return {"count": count, "sum": total, "mean": total / count if count > 0 else None}[str(feature.aggregate)]


def value_of(feature: Feature, row: Row) -> Any:
    if not vectors_oracle.holds(feature, row):
        return None
    if feature.measure == "flag":
        return 2.5 if row["merchant"] == "one" else None
    if feature.measure == "night":
        return int(row["t"].hour < 6) if row["t"] else 0
    return row["amt"] if feature.measure else 1


def counts(feature: Feature, other: Row, row: Row) -> bool:
    if feature.seconds is None:
        return bool(other["t"] < row["t"])
    return bool(row["t"] - timedelta(seconds=feature.seconds) <= other["t"] <= row["t"])


def card_features(rows: list[Row], features: list[Feature]) -> list[Row]:
    """Counting only the row and what arrived before it; alone without a user or a time."""
    placed = [row for row in rows if row["user_id"] is not None and row["t"] is not None]
    known: dict[int, list[Row]] = {}
    result: list[Row] = []
    for row in cards_oracle.by_arrival(placed):
        known.setdefault(row["user_id"], []).append(row)
        result.append({"transaction_id": row["trans_num"]})
        for feature in features:
            counted = [other for other in known[row["user_id"]] if counts(feature, other, row)]
            result[-1][feature.name] = told(feature, [(value_of(feature, other), 1) for other in counted])
    for row in (row for row in rows if row["user_id"] is None or row["t"] is None):
        alone = {one.name: told(one, [(value_of(one, row), 1)] if one.seconds else []) for one in features}
        result.append({"transaction_id": row["trans_num"], **alone})
    return result


def check_cards(lake: SmallLake, more: list[Feature]) -> None:
    silver = lake.rows("silver", "card_transactions")
    rows = [{**row, "t": row["trans_date_trans_time"], "_commit": row["_bronze_commit"]} for row in silver]
    features = [feature for feature in more if feature.table == CARDS]
    assert_same(lake.rows("gold", CARDS), card_features(rows, features), "transaction_id")


@pytest.mark.parametrize("seed", range(2))
def test_cards_equal_brute_force_however_they_land(lake: SmallLake, more: list[Feature], seed: int) -> None:
    rng = random.Random(seed)
    records = vectors_oracle.random_payments(seed, count=220, partitions=2)
    while records:
        size = rng.choice([1, 8, 40, 90])
        lake.land("card_transactions", records[:size])
        records = records[size:]
        if rng.random() < 0.7:
            lake.build("hot")
            check_cards(lake, more)
    lake.build("hot")
    check_cards(lake, more)
    assert {row["user_id"] for row in lake.rows("gold", CARDS)} > {None}
    lake.build("hot", full_refresh=True)
    check_cards(lake, more)


class MoreReplayed(Replayed):
    """The replayed log with more features."""

    more: list[Feature]

    def _measure(self, row: Row, change: Row) -> Row:
        owner, date = row["user_id"], row["transaction_date"]
        others = [
            (other["amount"], 1)
            for other in self.transactions.values()
            if owner and other["user_id"] == owner and other is not row
        ]
        measured = super()._measure(row, change)
        entries = [entry for entry in self.ledger if entry["user_id"] == owner] if owner else self.ledger[-1:]
        for feature in self.more:
            begin = date - timedelta(seconds=feature.seconds or 0) if date else None
            near = [
                (entry["amount"] if feature.measure else 1, entry["weight"])
                for entry in entries
                if begin and entry["transaction_date"] and begin <= entry["transaction_date"] <= date
            ]
            measured[feature.name] = told(feature, near if feature.seconds else others)
        return measured


@pytest.mark.parametrize("seed", range(2))
def test_the_bank_equals_brute_force_however_its_log_is_split(lake: SmallLake, more: list[Feature], seed: int) -> None:
    log = random_log(seed, transactions=110)
    expected = MoreReplayed()
    expected.more = [feature for feature in more if feature.table == BANK]
    expected.replay(log)
    bounds = [0, *sorted(random.Random(seed).sample(range(1, len(log)), 6)), len(log)]
    for start, end in pairwise(bounds):
        land_log(lake, log[start:end])
        lake.build("hot")
    key = ("transaction_id", "_lsn", "_seq")
    assert_same(lake.rows("gold", BANK), expected.features, *key)
    lake.build("hot", full_refresh=True)
    assert_same(lake.rows("gold", BANK), expected.features, *key)


def land_log(lake: SmallLake, commits: list[list[Change]]) -> None:
    for table in ("users", "transactions"):
        if rows := [row for commit in commits for name, row in commit if name == table]:
            lake.land(table, rows)


def payments(first: int, count: int) -> list[Row]:
    """A payment each minute, of 1."""
    return [
        {"trans_num": f"t{number}", "user_id": 1, "amt": 1.0, "_topic": "t", "_partition": 0, "_offset": number}
        | {"trans_date_trans_time": (datetime(2024, 1, 1) + timedelta(minutes=number)).isoformat(" ")}  # noqa: DTZ001
        for number in range(first, first + count)
    ]


def velocity(project: Path, most: int) -> None:
    """The rule fires on more than `most` transactions in ten minutes."""
    path = project / "pipeline/rules/velocity.yml"
    text, changed = re.subn(r"max_count: \d+", f"max_count: {most}", path.read_text())
    assert changed == 1
    path.write_text(text)


def fired(lake: SmallLake) -> list[str]:
    return sorted((row["transaction_id"] for row in lake.rows("gold", "alerts")), key=lambda name: int(name[1:]))


def outdated(lake: SmallLake, project: Path) -> dict[str, tuple[str, ...]]:
    found = outdated_features(lake.lake, current_definitions(lake.settings, project))
    return {one.table: one.features for one in found}


def test_a_rebuild_makes_old_rows_say_what_new_ones_say_and_fires_no_alert(lake: SmallLake, project: Path) -> None:
    declare(project)
    velocity(project, 10)
    lake.transformer.reload()
    lake.land("card_transactions", payments(0, 20))
    lake.build("hot")
    assert fired(lake) == [f"t{number}" for number in range(10, 20)], "eleven payments lie in ten minutes"
    assert outdated(lake, project) == {}

    declare(project, {**HOT, "name": "count_{window}", "aggregate": "count", "window": "1 hour"})
    velocity(project, 4)
    lake.transformer.reload()
    lake.land("card_transactions", payments(20, 2))
    lake.build("hot")
    assert outdated(lake, project) == {CARDS: ("count_1h",)}
    hour = {row["transaction_id"]: row["count_1h"] for row in lake.rows("gold", CARDS)}
    assert [hour[f"t{number}"] for number in (0, 19, 20, 21)] == [None, None, 21, 22]

    lake.land("card_transactions", payments(22, 3))  # judged before the table is built anew
    for again in range(2):
        rebuild(lake.transformer, lake.settings, [CARDS])
        assert outdated(lake, project) == {}
        rows = {row["transaction_id"]: row for row in lake.rows("gold", CARDS)}
        assert [rows[f"t{number}"]["count_1h"] for number in range(25)] == list(range(1, 26)), again
        assert [rows[f"t{number}"]["count_10min"] for number in range(25)] == [min(n + 1, 11) for n in range(25)]
    assert fired(lake) == [f"t{number}" for number in range(10, 25)]
    for count in (0, 2):
        lake.land("card_transactions", payments(25, count))
        lake.build("hot")
        assert fired(lake) == [f"t{number}" for number in range(10, 25 + count)], "none of t4 to t9"


def test_a_table_made_of_other_rows_is_judged_as_a_whole(lake: SmallLake, project: Path) -> None:
    declare(project)
    velocity(project, 10)
    lake.transformer.reload()
    lake.land("card_transactions", payments(0, 12))
    lake.build("hot")
    velocity(project, 4)
    lake.transformer.reload()
    lake.land("card_transactions", payments(12, 1))
    lake.build("hot", full_refresh=True)
    assert fired(lake) == [f"t{number}" for number in range(4, 13)]
