"""Entries like none of the shipped catalogue equal brute force, however they are computed.

By the index of a first build, by the windows of later ones, and as of labels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from fraud_lakehouse.detection import as_of
from fraud_lakehouse.features.catalogue import FILE, Catalogue
from tests.catalogues import loaded, shipped_content
from tests.dbt import as_of_oracle
from tests.dbt import vectors_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake, copied_project

TABLE, OVER = "card_feature_vectors", "user_trans_amt_last_360min"
LABEL_DELAY = 86_400
VALUED = ["min", "max", "median", "mad", "percentile_9", "percentile_90", "first", "last"]
CARDS: dict[str, Any] = {"stream": "card_payments", "owner": "o"}
BANK: dict[str, Any] = {"stream": "bank_payments", "owner": "o", "entity": "user"}
ENTITIES = ["user", "category", "merchant", "user_merchant"]
ALL, RECENCY = ["count", "sum", "mean", "stddev", *VALUED, "distinct"], ["seconds_since_last", "is_first"]
ADDED: list[dict[str, Any]] = [
    # of few keys with many rows, of many, of texts, of a key of two columns
    {**CARDS, "name": "{entity}_{measure}_{aggregate}_{window}", "entity": ENTITIES}
    | {"measure": "amt", "aggregate": ALL, "window": ["1 hour", "7 days"]},
    # a measure that is named unlike its column, which is a key's
    {**CARDS, "name": "card_{measure}s_{window}", "entity": "card", "measure": "shop", "aggregate": "distinct"}
    | {"window": "7 days"},
    {**CARDS, "name": "card_{aggregate}", "entity": "card", "aggregate": ["seconds_since_last", "is_first"]},
    {**CARDS, "name": "user_amt_to_last", "entity": "user", "expression": "{amt} - {user_amt_last_7d}"}
    | {"definition": "Amount less the latest of {about}.", "unit": "currency units"},
    {**BANK, "name": "user_amount_{aggregate}_7d", "measure": "amount", "aggregate": VALUED, "window": "7 days"},
    # of rows for which a condition holds
    {
        **CARDS,
        "name": "{entity}_{measure}_{aggregate}_some",
        "entity": ENTITIES,
    }
    | {"measure": "amt", "aggregate": ALL, "window": "7 days", "filter": "category = 'travel' or amt < 50"},
    {**CARDS, "name": "{entity}_count_known", "entity": ["user", "category"], "aggregate": "count", "window": "1 hour"}
    | {"filter": "merchant <> 'one'"},
    {**CARDS, "name": "card_shops_cheap", "entity": "card", "measure": "shop", "aggregate": "distinct"}
    | {"window": "7 days", "filter": "amt < 50"},
    {**CARDS, "name": "{entity}_frauds_{aggregate}", "entity": ["merchant", "category"], "measure": "fraud"}
    | {"aggregate": ["count", "sum", "mean"], "window": "7 days", "filter": "amt < 50"},
    {**CARDS, "name": "{entity}_{aggregate}_known", "entity": ["user", "category", "user_merchant"]}
    | {"aggregate": RECENCY, "filter": "merchant <> 'one'"},
    {**CARDS, "name": "{entity}_{aggregate}_cheap", "entity": ["user", "merchant"], "aggregate": RECENCY}
    | {"filter": "{amount} < 50"},
    *(
        {**CARDS, "name": "user_{measure}_{aggregate}", "table": table, "past": past, "window": "360 minutes"}
        | {"entity": "user", "measure": measure, "aggregate": aggregates}
        for table, past in ((OVER, "closed"), (f"{OVER}_windowed", "tumble"))
        for measure, aggregates in (("amt", ["max", "first", "percentile_90"]), ("shop", ["distinct"]))
    ),
    *(
        {**CARDS, "name": "user_cheap_{aggregate}", "table": table, "past": past, "window": "360 minutes"}
        | {"entity": "user", "measure": measure, "aggregate": aggregates, "filter": "amt < 50"}
        for table, past in ((OVER, "closed"), (f"{OVER}_windowed", "tumble"))
        for measure, aggregates in (("amt", ["mean", "last"]), (None, "count"))
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied_project(tmp_path_factory.mktemp("entries"))
    content = shipped_content()
    content["measures"]["card_payments"]["shop"] = {"expression": "merchant", "unit": "shops", "about": "shop"}
    reference = [entry for entry in content["features"] if entry.get("past", "strict") != "strict"]
    content["features"] = [*reference, *ADDED]
    (folder / "pipeline" / FILE).write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def catalogue(project: Path) -> Catalogue:
    return loaded(project / "pipeline" / FILE)


@pytest.fixture(scope="module")
def shared_lake(project: Path) -> Iterator[SmallLake]:
    lake = SmallLake(project.parent / "lake", project, late_rows="correct", idle_seconds=1e6, label_delay=LABEL_DELAY)
    yield lake
    lake.transformer.close()


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    lake.build("hot")
    selected = [TABLE, OVER, f"{OVER}_windowed"]
    lake.transformer.build(selected, full_refresh=full_refresh, tests=False).raise_for_errors()


def silver(lake: SmallLake) -> list[Row]:
    rows = lake.rows("silver", "card_transactions")
    return [{**row, "t": row["trans_date_trans_time"], "shop": row["merchant"]} for row in rows]


def check_vectors(lake: SmallLake, catalogue: Catalogue, told: set[str]) -> set[str]:
    """Every vector's newest version equals brute force; answers whose they are."""
    names = [feature.name for feature in catalogue.of_table(TABLE)]
    wanted = oracle.vectors(silver(lake), catalogue, told, LABEL_DELAY)
    newest = {row["trans_num"]: row for row in sorted(lake.rows("gold", TABLE), key=lambda row: row["version"])}
    assert newest.keys() == wanted.keys()
    for trans_num, vector in wanted.items():
        assert vector.keys() == set(names)
        assert (differs := oracle.is_same(newest[trans_num], vector)) is None, (trans_num, differs)
    return set(wanted)


def test_vectors_and_as_of_equal_brute_force(lake: SmallLake, catalogue: Catalogue) -> None:
    records = oracle.random_payments(5, count=160, partitions=2)
    told: set[str] = set()
    for rows in (records[:60], records[60:75], records[75:]):
        lake.land("card_transactions", rows)
        build(lake)
        told = check_vectors(lake, catalogue, told)
    assert len(told) > 60
    versions = [row["version"] for row in lake.rows("gold", TABLE)]
    assert max(versions) > 1, "nothing was corrected"
    lake.transformer.build([TABLE], full_refresh=True, tests=False).raise_for_errors()
    check_vectors(lake, catalogue, set())

    rng = random.Random(5)
    known = [{**row, "known_from": datetime(2020, 1, 1, tzinfo=UTC), "known_to": None} for row in silver(lake)]
    keys = ("user_id", "cc_num", "merchant", "category")
    labels = []
    for row in rng.sample([row for row in known if row["t"] is not None], 40):
        at = row["t"] + timedelta(hours=rng.choice([0, 1, 24]), microseconds=rng.choice([0, 0, 1]))
        labels.append({name: row[name] for name in keys} | {"amt": rng.choice([None, 3.5]), "t": at})
    frame = pl.DataFrame([{name: row[name] for name in (*keys, "amt")} | {"event_time": row["t"]} for row in labels])
    later = datetime(2100, 1, 1, tzinfo=UTC)
    each = frame.with_columns(known_by=pl.lit(later))
    by_now: list[tuple[pl.DataFrame, dict[str, Any]]] = [
        (frame, {"corrected": True}), (frame, {"known_by": later}), (each, {})
    ]  # fmt: skip
    for given, moment in by_now:
        found = as_of(given, "cards", **moment, settings=lake.settings, transformer=lake.transformer)
        for label, row in zip(labels, found.to_dicts(), strict=True):
            wanted = as_of_oracle.features_of(label, known, catalogue, "cards", timedelta(seconds=LABEL_DELAY))
            assert (differs := oracle.is_same(row, wanted)) is None, (label, differs)


def test_tables_of_their_own_have_what_their_entries_say(lake: SmallLake) -> None:
    records = oracle.random_payments(6, count=160, partitions=1)
    for rows in (records[:80], records[80:120], records[120:]):
        lake.land("card_transactions", rows)
        build(lake)
    rows = [row for row in silver(lake) if row["t"] is not None]
    over = lake.rows("gold", OVER)
    assert len(over) == len(rows)
    for found in over:
        until = found["trans_date_trans_time"]
        since = until - timedelta(minutes=360)
        inside = [row for row in rows if row["user_id"] == found["user_id"] and since <= row["t"] <= until]
        check_own(found, inside)
    windows = lake.rows("gold", f"{OVER}_windowed")
    assert windows
    for found in windows:
        begin, end = found["window_start"], found["window_end"]
        check_own(found, [row for row in rows if row["user_id"] == found["user_id"] and begin <= row["t"] < end])


def check_own(found: Row, inside: list[Row]) -> None:
    amounts = [{"t": row["t"], "x": row["amt"]} for row in inside]
    wanted = {
        f"user_amt_{name}": oracle.windows_oracle.aggregate(name, amounts, None)
        for name in ("max", "first", "percentile_90")
    }
    wanted["user_shop_distinct"] = len({row["shop"] for row in inside if row["shop"] is not None})
    cheap = [event for event in amounts if event["x"] is not None and event["x"] < 50]
    wanted |= {
        f"user_cheap_{name}": oracle.windows_oracle.aggregate(name, cheap, None) for name in ("mean", "last", "count")
    }
    wanted["user_mean_trans_amt_last_360min"] = oracle.windows_oracle.aggregate("mean", amounts, None)
    wanted["user_trans_count_last_360min"] = oracle.windows_oracle.aggregate("count", amounts, None)
    assert (differs := oracle.is_same(found, wanted)) is None, (found, differs)
