"""A changed catalogue over a filled lake: new rows follow it, old ones are named, and a rebuild brings them to it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from fraud_lakehouse.detection import as_of
from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE
from fraud_lakehouse.transform.definitions import Outdated, outdated_features
from fraud_lakehouse.transform.project import current_definitions
from fraud_lakehouse.transform.rebuild import rebuild
from tests.dbt.small_lake import Row, SmallLake

VECTORS, OVER, HOT = "card_feature_vectors", "user_trans_amt_last_360min", "card_transaction_features"
SPINE = f"{OVER}_windowed_spine"
START = datetime(2024, 1, 1)  # noqa: DTZ001 event times have no zone
KEPT = [
    {"name": "user_amt_{aggregate}_1h", "stream": "card_payments", "entity": "user", "measure": "amt", "owner": "o"}
    | {"aggregate": ["count", "mean"], "window": "1 hour"},
    {"name": "user_amount_mean_1h", "stream": "bank_payments", "entity": "user", "measure": "amount", "owner": "o"}
    | {"aggregate": "mean", "window": "1 hour"},
]


def declare(project: Path, *more: dict[str, Any], **measures: Any) -> None:
    """A catalogue of few features: those of KEPT, the reference's, and `more`."""
    path = project / "pipeline" / FILE
    content = yaml.safe_load(path.read_text())
    shipped = [one for one in content["features"] if one["owner"] != "added"]
    reference = [one for one in shipped if one.get("past", "strict") != "strict"]
    content["measures"]["card_payments"] |= measures
    content["features"] = [*KEPT, *reference, *more]
    path.write_text(yaml.safe_dump(content))


def build(lake: SmallLake) -> None:
    lake.transformer.reload()
    lake.build("hot")
    lake.transformer.build([VECTORS, OVER, f"{OVER}_windowed"], tests=False).raise_for_errors()


def payments(first: int, count: int) -> list[Row]:
    """A payment each ten minutes, of 1, 2, 3 ..."""
    return [
        {"trans_num": f"t{number}", "user_id": 1, "cc_num": 1, "amt": float(number), "merchant": "m", "category": "c"}
        | {"_topic": "t", "_partition": 0, "_offset": number, "is_fraud": 0}
        | {"trans_date_trans_time": (START + timedelta(minutes=10 * number)).isoformat(" ")}
        for number in range(first, first + count)
    ]


def outdated(lake: SmallLake, project: Path) -> dict[str, Outdated]:
    return {one.table: one for one in outdated_features(lake.lake, current_definitions(lake.settings, project))}


def told(lake: SmallLake, table: str, feature: str) -> list[Any]:
    """The feature by event time; rows without the column have null."""
    time = "event_time" if table == VECTORS else "trans_date_trans_time"
    return [row.get(feature) for row in sorted(lake.rows("gold", table), key=lambda row: row[time])]


def test_what_the_catalogue_has_changed_is_named_until_it_is_rebuilt(
    lake: SmallLake, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    declare(project)
    lake.land("card_transactions", payments(1, 40))
    build(lake)
    assert outdated(lake, project) == {}

    latest = {
        "name": "user_amt_last_1h",
        "stream": "card_payments",
        "entity": "user",
        "measure": "amt",
        "owner": "added",
    }
    latest |= {"aggregate": "last", "window": "1 hour"}
    most = {**latest, "name": "user_most", "table": OVER, "aggregate": "max", "window": "360 minutes", "past": "closed"}
    in_window = {**most, "table": f"{OVER}_windowed", "past": "tumble"}
    amt = {"expression": "2 * amt", "decimals": 4, "unit": "half units", "about": "doubled amount"}
    declare(project, latest, most, in_window, amt=amt)
    lake.land("card_transactions", payments(41, 48))
    build(lake)
    stale = outdated(lake, project)
    assert stale.keys() == {VECTORS, HOT, f"{OVER}_versions", f"{OVER}_windowed_versions"}
    assert stale[HOT].features == ("prior_mean", "prior_count", "sum_10min"), "all but the one without the measure"
    assert stale[VECTORS].features == ("user_amt_count_1h", "user_amt_mean_1h", "user_amt_last_1h")
    before, after = told(lake, VECTORS, "user_amt_last_1h")[:39], told(lake, VECTORS, "user_amt_last_1h")[40:]
    assert before == [None] * 39 and after == [2.0 * number for number in range(40, 87)]
    assert told(lake, OVER, "user_most")[:40] == [None] * 40 and told(lake, OVER, "user_most")[-1] == 2 * 88.0
    with caplog.at_level(logging.WARNING):
        labels = pl.DataFrame({"trans_num": ["t3"]})
        as_of(labels, "cards", features=["user_amt_last_1h"], settings=lake.settings, transformer=lake.transformer)
    assert f"`fraud-lakehouse rebuild {VECTORS}`" in caplog.text

    built = rebuild(lake.transformer, lake.settings, [f"gold/{VECTORS}", *(name for name in stale if name != VECTORS)])
    hot = [node.name for node in built[:-1]]
    assert sorted(hot) == sorted(stale.keys() - {VECTORS}) and built[-1].name == VECTORS, "the hot models first"
    assert outdated(lake, project) == {}
    latest_now = told(lake, VECTORS, "user_amt_last_1h")
    assert latest_now == [None, *(2.0 * number for number in range(1, len(latest_now)))]
    build(lake)
    assert told(lake, OVER, "user_most") == [2.0 * number for number in range(1, 89)]
    windows = sorted(lake.rows("gold", f"{OVER}_windowed"), key=lambda row: row["window_start"])
    assert [row["user_most"] for row in windows] == [2.0 * 35, 2.0 * 71]
    assert all(row["user_mean_trans_amt_last_360min"] > 30 for row in windows)


@pytest.mark.parametrize(
    "name, output",
    [
        ("alerts", "gold/alerts keeps its rows"),
        (SPINE, f"gold/{SPINE} is a view"),
        ("card_feature_vector", "there is no model 'card_feature_vector'\n.*gold/card_feature_vectors"),
        ("silver/user", "there is no model 'silver/user'\n.*silver/users"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(lake: SmallLake, name: str, output: str) -> None:
    with pytest.raises(TransformError, match=output):
        rebuild(lake.transformer, lake.settings, [VECTORS, name])
    assert not lake.lake.exists("gold", VECTORS), "nothing was built"
