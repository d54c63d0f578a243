"""Filters of features: what they say, what they change, which are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.definitions import definitions_of
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.project import shipped_project
from tests.catalogues import BANK, CARDS, shipped_content, small, stream, written

SETTINGS = {"late_rows": "drop", "label_delay_seconds": 60}
MEASURES: dict[str, Any] = {
    "amt": {"expression": "amt", "unit": "euros", "decimals": 2, "about": "amount"},
    "fraud": {"expression": "is_fraud", "unit": "share", "decimals": 0, "about": "label", "delay": "label_delay"},
}
TABLES: dict[str, Any] = {
    "hot": {"past": "arrived", "key": ["user_id"]},
    "ledger": {"past": "committed", "key": ["user_id"]},
}
ENTRY: dict[str, Any] = {
    "name": "{entity}_travel_{aggregate}", "stream": "cards", "entity": "user", "measure": "amt",
    "aggregate": "sum", "window": "10 minutes", "filter": "category = 'travel'", "owner": "somebody",
}  # fmt: skip
ROWS: dict[str, Any] = {"measure": None, "aggregate": "count"}
LAST: dict[str, Any] = {"measure": None, "aggregate": "seconds_since_last", "window": None}


def load(folder: Path, *entries: dict[str, Any]) -> Catalogue:
    return small(folder, stream(label="is_fraud"), *entries, measures=MEASURES, tables=TABLES)


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "Sum of amount, of those with category = 'travel', of the user; event time in [t - 10 minutes, t)"),
        (ROWS, "Number of payments, of those with category = 'travel', of the user; event time in [t - 10 minutes, t)"),
        (LAST, "Seconds since the latest earlier payment, of those with category = 'travel', of the user; event time"),
        ({"filter": "category = '{about}'"}, "Sum of amount, of those with category = '{about}', of the user; event"),
        ({"filter": "{amount} < 2"}, "Sum of amount, of those with amt < 2, of the user; event time"),
        (
            {**ROWS, "table": "hot", "past": "arrived"},
            "Number of payments, of those with category = 'travel', of the user; event time in [t - 10 minutes, t], of",
        ),
    ],
)
def test_the_definition_says_which_rows_count(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (feature,) = load(tmp_path, {**ENTRY, **change}).features
    assert feature.definition.startswith(words)
    assert feature.column()["config"]["meta"]["filter"] == feature.filter


def test_models_aggregate_a_measure_of_rows_that_count(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ENTRY, {**ENTRY, **ROWS}, {**ENTRY, "name": "all", "filter": None})
    variables = catalogue.variables()
    features = {feature["name"]: feature for feature in json.loads(variables["features"])}
    measures = variables["streams"]["cards"]["measures"]
    travel, count = (measures[features[f"user_travel_{name}"]["measure"]] for name in ("sum", "count"))

    assert travel["expression"] == "case when (category = 'travel') then (amt) end"
    assert (travel["columns"], travel["decimals"]) == (["category", "amt"], 2)
    assert (count["expression"], count["columns"]) == ("case when (category = 'travel') then 1 end", ["category"])
    assert features["all"]["measure"] == "amt"
    assert {*measures} - {feature["measure"] for feature in features.values()} == {"fraud"}
    assert {*catalogue.streams["cards"].measures} == {"amt", "fraud"}, "expressions cannot name the others"
    assert features["user_travel_sum"]["needs"] == ["user_id"], "a label needs no category"


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"filter": "category ="}, "its filter 'category =' is not an SQL expression"),
        ({"filter": "amt < 2, amt > 1"}, "its filter 'amt < 2, amt > 1' is more than one SQL expression"),
        ({"filter": "amt < (select 2)"}, "has a subquery or a window\n"),
        ({"filter": "row_number() over () < 2"}, "has a subquery or a window\n"),
        (
            {"aggregate": None, "expression": "{amt}", "definition": "d", "unit": "u"},
            "it has a filter, but an expression instead of an aggregate\n.*give the filter to the features it names",
        ),
        ({"filter": "is_fraud = 1"}, "names is_fraud, the label, which is known only FRAUD_LABEL_DELAY later\n"),
        ({**ROWS, "filter": "is_fraud = 1"}, "names is_fraud, the label"),
        ({"measure": ["fraud", "amt"], "filter": "is_fraud = 1"}, "names is_fraud, the label"),
        (
            {**ROWS, "table": "ledger", "past": "committed"},
            "the totals of ledger come from its ledger, .* cannot filter\n.*vectors computes filters",
        ),
        ({"measure": None}, "the aggregate sum needs a measure"),
        ({**ROWS, "filter": None}, "the aggregate count needs a measure"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], reported: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){reported}"):
        load(tmp_path, {**ENTRY, **change})


def test_entries_that_differ_only_in_their_filter_need_two_names(tmp_path: Path) -> None:
    other = {**ENTRY, "filter": "amt < 2"}
    with pytest.raises(TransformError, match="vectors has two features named 'user_travel_sum'"):
        load(tmp_path, ENTRY, other)
    assert len(load(tmp_path, ENTRY, {**other, "name": "user_small_sum"}).features) == 2


def test_a_label_may_be_a_condition_on_a_measure_that_is_known_as_late(tmp_path: Path) -> None:
    (feature,) = load(tmp_path, {**ENTRY, "measure": "fraud", "filter": "is_fraud = 1"}).features
    assert feature.delay == "label_delay"


@pytest.mark.parametrize(
    "name, condition, reported",
    [
        (
            CARDS,
            "categry = 'travel'",
            "names 'categry', which is no column of .*card_payments\n.*did you mean category?",
        ),
        (CARDS, "_partition = 0", "names '_partition', which is no column of .*card_payments"),
        (CARDS, "trans_num = 'a'", "names 'trans_num', which is no column of .*card_payments"),
        (CARDS, "current_timestamp > trans_date_trans_time", "names 'current_timestamp'"),
        (CARDS, "amt < random()", "its filter calls random, which needs more than a single row"),
        (CARDS, "sum(amt) > 1", "its filter calls sum, which needs more than a single row"),
        (CARDS, "trans_date_trans_time < now()", "its filter calls now"),
        (CARDS, "amt", "its filter 'amt' is DOUBLE, not true or false\n.*a condition"),
        (CARDS, "no_such(amt) < 2", "'no_such.*' cannot be computed"),
        (CARDS, "amt < 2 --", "cannot be computed"),
        (BANK, "amt < 2", "names 'amt', which is no column of .*bank_payments\n.*did you mean amount?"),
        (BANK, "weight < 2", "names 'weight', which is no column of .*bank_payments"),
    ],
)
def test_a_filter_that_does_not_fit_the_rows_is_refused(
    tmp_path: Path, name: str, condition: str, reported: str
) -> None:
    entry = {**ENTRY, "stream": name, "measure": "amount", "filter": condition}
    content = shipped_content()
    content["features"].append(entry)
    with pytest.raises(TransformError, match=f"(?s)feature 'user_travel_sum': .*{reported}"):
        check_models(shipped_project(), written(tmp_path, content), {})


@pytest.mark.parametrize("column", ["version", "order"])
def test_a_column_that_models_cannot_name_is_refused(tmp_path: Path, column: str) -> None:
    content = shipped_content()
    content["features"].append({**ENTRY, "stream": CARDS, "filter": f'"{column}" = 1'})
    project = shutil.copytree(shipped_project(), tmp_path / "project")
    described = project / "models" / "silver" / "card_transactions.yml"
    models = yaml.safe_load(described.read_text())
    models["models"][0]["columns"].append({"name": column, "data_type": "bigint"})
    described.write_text(yaml.safe_dump(models))
    with pytest.raises(TransformError, match=f"its filter names the column '{column}', which is a keyword .*own\n"):
        check_models(project, written(tmp_path, content), {})


def test_a_changed_filter_is_another_definition(tmp_path: Path) -> None:
    def numbers(condition: str | None) -> dict[str, int]:
        return dict(definitions_of(load(tmp_path, {**ENTRY, "filter": condition}), SETTINGS)["vectors"])

    found = [numbers(condition)["user_travel_sum"] for condition in (None, "amt < 2", "amt < 3", "amt < 2")]
    assert found[1] == found[3]
    assert len({*found}) == 3
