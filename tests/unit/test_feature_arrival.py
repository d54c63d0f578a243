"""Features that are told when their row arrives: what they say, what they cannot be, what a change of them is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from fraud_lakehouse.errors import LabelsError, TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue
from fraud_lakehouse.features.choice import chosen_features, stream_named
from fraud_lakehouse.features.definitions import UNNUMBERED, definitions_of
from fraud_lakehouse.features.documented import documented_models
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.definitions import MIXED, app_id, outdated_features, to_commit
from fraud_lakehouse.transform.project import shipped_project
from tests.catalogues import shipped_catalogue, shipped_content, small, stream, written

MEASURES: dict[str, Any] = {
    "amt": {"expression": "amount", "unit": "euros", "decimals": 2, "about": "amount"},
    "double": {"expression": "2 * amount", "unit": "euros", "decimals": 2, "about": "twice the amount"},
    "shop": {"expression": "shop", "unit": "shops", "about": "shop"},
    "fraud": {"expression": "f", "unit": "share", "decimals": 0, "about": "label", "delay": "label_delay"},
}
TABLES: dict[str, Any] = {
    "hot": {"past": "arrived", "key": ["user_id"], "must_have": ["count_10min"]},
    "ledger": {"past": "committed", "key": ["user_id"]},
}
HOT: dict[str, Any] = {
    "name": "{aggregate}_{window}", "stream": "cards", "table": "hot", "past": "arrived", "entity": "user",
    "aggregate": "count", "window": "10 minutes", "owner": "somebody",
}  # fmt: skip
LEDGER: dict[str, Any] = {**HOT, "table": "ledger", "past": "committed", "measure": "amt", "name": "of_ledger"}
SETTINGS = {"late_rows": "drop", "label_delay_seconds": 60}
CARDS, BANK = "card_transaction_features", "transaction_features"


def load(folder: Path, *entries: dict[str, Any], **tables: Any) -> Catalogue:
    return small(folder, stream(amount="amount"), *entries, measures=MEASURES, tables=TABLES | tables)


def test_they_have_several_windows_or_none(tmp_path: Path) -> None:
    sums = {**HOT, "name": "{measure}_{aggregate}_{window}", "measure": ["amt", "double"], "aggregate": ["sum", "mean"]}
    ever = {**HOT, "name": "prior_{aggregate}", "measure": "amt", "aggregate": ["mean", "count"], "window": None}
    catalogue = load(tmp_path, HOT, {**sums, "window": ["1 hour", "2 days"]}, ever)
    found = {feature.name: feature for feature in catalogue.of_table("hot")}

    assert list(found) == [
        "count_10min", "amt_sum_1h", "amt_sum_2d", "amt_mean_1h", "amt_mean_2d",
        "double_sum_1h", "double_sum_2d", "double_mean_1h", "double_mean_2d", "prior_mean", "prior_count",
    ]  # fmt: skip
    assert {found[name].data_type for name in ("count_10min", "prior_count")} == {"bigint"}
    assert {found[name].empty for name in ("count_10min", "prior_count", "amt_sum_1h")} == {"0"}
    assert found["prior_mean"].empty == "null" and found["prior_mean"].seconds is None
    assert catalogue.streams["cards"].model_of("hot") == "hot" and catalogue.beside("hot") == []


def test_their_definitions_say_what_counts(tmp_path: Path) -> None:
    ever = {"aggregate": "mean", "measure": "amt", "window": None}
    entries = [HOT, {**HOT, "name": "ever", **ever}, LEDGER, {**LEDGER, "name": "ledger_ever", **ever}]
    reported = {feature.name: feature.definition for feature in load(tmp_path, *entries).features}

    assert reported == {
        "count_10min": "Number of payments, of the user; event time in [t - 10 minutes, t], of what had arrived by "
        "then: the payment itself counts, and of equal time those that arrived before it.",
        "ever": "Mean of amount, of the user; event time before t, however long ago, of what had arrived by then: "
        "the payment itself and those of equal time do not count.",
        "of_ledger": "Number of payments with amount, of the user; event time in [t - 10 minutes, t], by the ledger up "
        "to that commit: the payment itself counts, what was taken back by then does not.",
        "ledger_ever": "Mean of amount, of the user; all that the table had just before that commit, whatever their "
        "event time: the payment's own version does not count.",
    }


@pytest.mark.parametrize(
    "change, reported",
    [
        (
            {"aggregate": "median", "measure": "amt"},
            "aggregate median is not computed when a row arrives\n.*count, sum",
        ),
        ({"aggregate": "is_first", "window": None}, "the aggregate is_first is not computed when a row arrives"),
        ({"aggregate": "sum"}, "the aggregate sum needs a measure"),
        ({"aggregate": "mean", "measure": "shop"}, "the measure shop has no decimals, so it is not a number"),
        ({"measure": "fraud"}, "the measure fraud has a delay, not supported by past: arrived"),
        ({"entity": "card"}, "hot has rows by user_id, the entity card has another key\n.*use user"),
        ({"past": "closed", "measure": "amt"}, "past: closed is not computed in hot\n.*past: arrived"),
        ({"table": "ledger"}, "past: arrived is not computed in ledger\n.*past: committed"),
        ({"table": None}, "past: arrived is not computed in vectors.*\n.*past: strict, or table: hot"),
        (
            {"aggregate": None, "window": None, "expression": "{amt}", "definition": "d", "unit": "u"},
            "hot has only aggregates\n.*an aggregate, or leave hot out",
        ),
        ({"name": "other"}, "hot has no feature 'count_10min', which others rely on"),
    ],
)
def test_what_is_not_told_as_a_row_arrives_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], reported: str
) -> None:
    with pytest.raises(TransformError, match=f"(?s){FILE}.*{reported}"):
        load(tmp_path, {**HOT, **change})


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"measure": "double"}, "measure double is '2 . amount', and the ledger of ledger adds up amount alone\n.*amt"),
        ({"measure": None, "window": None}, "counts only payments with a value\n.*or a window"),
    ],
)
def test_what_a_ledger_cannot_tell_is_refused_by_name(tmp_path: Path, change: dict[str, Any], reported: str) -> None:
    load(tmp_path, HOT, LEDGER)
    with pytest.raises(TransformError, match=f"(?s)feature 'of_ledger': .*{reported}"):
        load(tmp_path, HOT, {**LEDGER, **change})


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Catalogue:
    """The shipped catalogue with a change."""
    content = shipped_content()
    change(content)
    return written(folder, content)


def copied(folder: Path) -> Path:
    """A copy of the shipped models."""
    return Path(shutil.copytree(shipped_project() / "models", folder / "project" / "models")).parent


def test_a_name_of_the_tables_own_columns_is_refused(tmp_path: Path) -> None:
    def named(name: str) -> Callable[[dict[str, Any]], None]:
        return lambda content: content["features"].append(
            {**HOT, "stream": "card_payments", "table": CARDS, "name": name, "window": "1 hour"}
        )

    fine = changed(tmp_path, named("count_1h"))
    check_models(shipped_project(), fine, {})
    documented = copied(tmp_path)
    for path, text in documented_models(shipped_project(), fine).items():
        (documented / path).write_text(text)
    check_models(documented, fine, {})
    with pytest.raises(TransformError, match=f"feature 'user_exists': {CARDS} has a column of that name already"):
        check_models(shipped_project(), changed(tmp_path, named("user_exists")), {})


def test_labels_are_not_told_them() -> None:
    catalogue = shipped_catalogue()
    for name in ("cards", "bank"):
        stream = stream_named(catalogue, name)
        columns = [stream.id, "event_time", "user_id"]
        chosen = chosen_features(catalogue, stream, None, columns, stored=True)
        assert {one.table for one in chosen} == {stream.vectors}
        with pytest.raises(LabelsError, match="there is no feature 'prior_mean'"):
            chosen_features(catalogue, stream, ["prior_mean"], columns, stored=True)


def longer(content: dict[str, Any]) -> None:
    (count,) = [one for one in content["features"] if one.get("table") == "fast_path" and one["aggregate"] == "count"]
    count |= {"window": "11 minutes", "name": "count_10min"}


def fewer_decimals(content: dict[str, Any]) -> None:
    content["measures"]["card_payments"]["amt"] = {
        "expression": "amt", "unit": "currency units", "about": "amount", "decimals": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    "change, reported",
    [
        (longer, {f"{CARDS}.count_10min", f"{BANK}.count_10min"}),
        (fewer_decimals, set()),
    ],
)
def test_what_decides_them(tmp_path: Path, change: Callable[[dict[str, Any]], None], reported: set[str]) -> None:
    before = definitions_of(shipped_catalogue(), SETTINGS)
    after = definitions_of(changed(tmp_path, change), SETTINGS)
    differ = {f"{table}.{name}" for table in (CARDS, BANK) for name in after[table] if after[table] != before[table]
              and after[table][name] != before[table].get(name)}  # fmt: skip
    assert differ == reported


def commit(lake: Lake, table: str, definitions: dict[str, int]) -> DeltaTable:
    """A row computed by these definitions, as a build adds it."""
    output = to_commit(lake.open("gold", table), definitions, all_rows=False, table=table)
    row = pa.table({name: pa.array([0.5], pa.float64()) for name in ["id", *definitions]})
    properties = CommitProperties(app_transactions=output)
    write_deltalake(lake.uri("gold", table), row, mode="append", schema_mode="merge", commit_properties=properties)
    return lake.open("gold", table)


@pytest.mark.parametrize(
    ("table", "changed"),
    [(CARDS, ()), (BANK, ("count_10min", "sum_10min"))],  # windows of the bank once counted but 100 entries
)
def test_a_lake_of_before_the_catalogue_had_them_is_outdated_where_one_has_changed(
    tmp_path: Path, table: str, changed: tuple[str, ...]
) -> None:
    lake = Lake.at(tmp_path / "lake")
    now = dict(definitions_of(shipped_catalogue(), SETTINGS | {"late_rows": "correct"})[table])
    write_deltalake(lake.uri("gold", table), pa.table({name: [0.5] for name in ["id", *now]}))
    assert tuple(name for one in outdated_features(lake, {table: now}) for name in one.features) == changed
    (reported,) = outdated_features(lake, {table: now | {"count_10min": 1}})
    assert reported.features == (changed or ("count_10min",))

    later = now | {"count_1h": 7}
    stored = commit(lake, table, later)
    numbers = {name: stored.transaction_version(app_id(name)) for name in later}
    assert numbers == now | dict.fromkeys([*changed, "count_1h"], MIXED)
    (reported,) = outdated_features(lake, {table: later})
    assert reported.features == (*changed, "count_1h")
    commit(lake, table, later | {"sum_10min": 1})
    (reported,) = outdated_features(lake, {table: later})
    assert reported.features == (*(changed or ("sum_10min",)), "count_1h"), "rows in the middle say something else"


def test_only_these_tables_are_known_of_before() -> None:
    assert UNNUMBERED.keys() == {CARDS, BANK}
