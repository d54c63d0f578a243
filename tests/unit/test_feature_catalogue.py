"""The catalogue: families are spelt out, what is wrong is named, every feature stands in dbt's documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue
from fraud_lakehouse.features.window import Window
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import prepare_project
from tests.catalogues import loaded, shipped_catalogue, small, stream

MEASURES: dict[str, Any] = {
    "amt": {"expression": "amt", "unit": "euros", "decimals": 2, "about": "amount"},
    "fraud": {"expression": "f", "unit": "share", "decimals": 0, "about": "label", "delay": "label_delay"},
}
ENTRY: dict[str, Any] = {
    "name": "{entity}_{measure}_{aggregate}_{window}",
    "stream": "cards",
    "entity": ["user", "card"],
    "measure": "amt",
    "aggregate": ["count", "mean"],
    "window": ["10 minutes", "30 days"],
    "owner": "somebody",
}


def load(folder: Path, *entries: dict[str, Any]) -> Catalogue:
    return small(folder, stream(), *entries, measures=MEASURES)


def test_lists_spell_out_to_a_family(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ENTRY)

    assert [feature.name for feature in catalogue.of_table("vectors")] == [
        f"{entity}_amt_{aggregate}_{window}"
        for entity in ("user", "card")
        for aggregate in ("count", "mean")
        for window in ("10min", "30d")
    ]
    first, last = catalogue.features[0], catalogue.features[-1]
    assert (first.seconds, first.data_type, first.empty, first.unit) == (600, "integer", "0", "payments")
    assert (last.seconds, last.data_type, last.empty, last.unit) == (2_592_000, "double", "null", "euros")
    assert first.definition == (
        "Number of payments with amount, of the user; event time in [t - 10 minutes, t):"
        " the payment itself and those of equal time do not count."
    )


def test_an_expression_names_features_beside_it(tmp_path: Path) -> None:
    ratio = {
        "name": "ratio", "stream": "cards", "entity": "user", "window": "30 days", "owner": "somebody",
        "expression": "{amt} / nullif({user_amt_mean_30d}, 0)", "unit": "ratio",
        "definition": "Amount to mean of {about}.",
    }  # fmt: skip
    feature = load(tmp_path, ratio, ENTRY).features[0]
    assert feature.expression == "amt / nullif(user_amt_mean_30d, 0)"
    assert feature.definition == "Amount to mean of the user."

    with pytest.raises(TransformError, match=r"feature 'ratio': its expression names 'user_amt_mean_30d'"):
        load(tmp_path, ratio)


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"aggregate": "average"}, r"feature '\{entity\}.*unknown aggregate 'average'\n.*count, sum, mean"),
        ({"aggregate": "percentile_100"}, "unknown aggregate 'percentile_100'"),
        ({"window": "10 minuets"}, "window '10 minuets' is not a size\n.*10 minutes"),
        ({"window": "0 days"}, "window '0 days' is not a size"),
        ({"window": None}, "the aggregate count needs a window"),
        ({"entity": "shop"}, "unknown entity 'shop'\n.*user, card"),
        ({"measure": "price"}, "unknown measure 'price'\n.*amt"),
        ({"measure": None}, "the aggregate count needs a measure\n.*amt"),
        ({"stream": "bonds"}, "unknown stream 'bonds'\n.*cards"),
        ({"aggregate": "is_first", "measure": None}, "the aggregate is_first takes no window"),
        ({"name": "{entity}_twice"}, "vectors has two features named 'user_twice'"),
        ({"name": "{entity} {window} {aggregate}"}, "feature 'user 10min count': not a column name"),
        ({"aggregate": None}, "needs either an aggregate or an expression"),
        ({"aggregate": None, "expression": "1"}, "give it a definition and a unit"),
        ({"past": "ever"}, r"feature '\{entity\}.*past: Input should be 'strict', 'closed', 'tumble', 'hop'"),
        ({"owner": None}, r"feature '\{entity\}.*owner: Input should be a valid string"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], reported: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){reported}"):
        load(tmp_path, {**ENTRY, **change})


LATER: dict[str, Any] = {**ENTRY, "measure": "fraud", "aggregate": ["count", "sum", "mean"]}


def test_a_delayed_measure_says_when_it_is_known(tmp_path: Path) -> None:
    feature = load(tmp_path, {**LATER, "name": "f_{aggregate}_{window}", "entity": "user"}).features[-1]

    assert (feature.name, feature.delay, feature.seconds) == ("f_mean_30d", "label_delay", 2_592_000)
    assert feature.definition == (
        "Mean of label, of the user; event time in [t - delay - 30 days, t - delay): those whose label became known"
        " in the 30 days before t, with delay FRAUD_LABEL_DELAY after the payment."
    )
    assert feature.column()["config"]["meta"]["delay"] == "FRAUD_LABEL_DELAY"


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"aggregate": "median"}, "fraud is known after its delay, which median does not support\n.*count, sum, mean"),
        ({"aggregate": "distinct"}, "fraud is known after its delay, which distinct does not support"),
        ({"past": "closed"}, "the measure fraud has a delay, not supported by past: closed\n.*past: strict"),
        ({"past": "tumble"}, "the measure fraud has a delay, not supported by past: tumble"),
        (
            {"aggregate": None, "expression": "1", "definition": "one", "unit": "one"},
            "fraud is known after its delay, which an expression does not support",
        ),
        (
            {"aggregate": None, "measure": None, "expression": "{fraud}", "definition": "one", "unit": "one"},
            "its expression uses 'fraud' of the row itself\n.*FRAUD_LABEL_DELAY later",
        ),
    ],
)
def test_what_a_delayed_measure_cannot_be_used_for_is_named(
    tmp_path: Path, change: dict[str, Any], reported: str
) -> None:
    with pytest.raises(TransformError, match=f"(?s){reported}"):
        load(tmp_path, {**LATER, **change})


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"delay": "lable_delay"}, "measure 'fraud' of 'cards': unknown delay 'lable_delay'\n.*label_delay"),
        ({"decimals": None}, "measure 'fraud' of 'cards': it has a delay but no decimals\n.*0: whole numbers"),
    ],
)
def test_what_is_wrong_with_a_delay_is_named(tmp_path: Path, change: dict[str, Any], reported: str) -> None:
    measures = {**MEASURES, "fraud": {**MEASURES["fraud"], **change}}
    with pytest.raises(TransformError, match=f"(?s){reported}"):
        small(tmp_path, stream(), measures=measures)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "features.yml").write_text("features: [")
    with pytest.raises(TransformError, match=r"features\.yml is not YAML"):
        loaded(tmp_path / "features.yml")


@given(st.integers(1, 10_000), st.sampled_from([("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)]))
def test_a_size_is_a_number_and_a_unit(number: int, unit: tuple[str, int]) -> None:
    assert Window.parse(f"{number} {unit[0]}s").seconds == number * unit[1]


def test_every_feature_stands_in_the_documentation(tmp_path: Path) -> None:
    catalogue = shipped_catalogue()
    prepared = prepare_project(load_settings(lake=str(tmp_path / "lake")))
    nodes = json.loads(prepared.manifest_path.read_text())["nodes"].values()
    models = {node["name"]: node for node in nodes if node["resource_type"] == "model"}

    documented = [feature for feature in catalogue.features if feature.table in models]
    assert {"card_feature_vectors", "transaction_feature_vectors", "user_trans_amt_last_360min"} <= {
        feature.table for feature in documented
    }
    for feature in documented:
        column = models[feature.table]["columns"][feature.name]
        assert column["description"] == feature.definition
        assert column["meta"]["unit"] == feature.unit
        assert column["meta"]["owner"] == feature.owner
        assert column["meta"]["entity"] == feature.entity
        assert column["data_type"]


MERCHANT: dict[str, Any] = {"expression": "merchant", "unit": "merchants", "about": "merchant"}


@pytest.mark.parametrize("aggregate", ["count", "sum", "mean", "min", "max", "median", "mad", "percentile_9", "first"])
def test_what_is_no_number_is_only_told_apart(tmp_path: Path, aggregate: str) -> None:
    measures = {"shop": MERCHANT}
    entry = {**ENTRY, "measure": "shop", "aggregate": aggregate}
    with pytest.raises(
        TransformError,
        match=rf"feature '\{{entity.*the measure shop has no decimals, so it is not a number, which {aggregate} needs\n"
        ".*give it decimals .*or count its different values with distinct",
    ):
        small(tmp_path, stream(), entry, measures=measures)
    assert (
        small(tmp_path, stream(), {**entry, "aggregate": "distinct"}, measures=measures).features[0].data_type
        == "integer"
    )


@pytest.mark.parametrize(
    "measures, reported",
    [
        ({"user_id": {**MERCHANT}}, "measure 'user_id' of 'cards': the vectors have a column of that name"),
        ({"event_time": {**MERCHANT}}, "measure 'event_time' of 'cards': the vectors have a column"),
        ({"Shop": MERCHANT}, "measure 'Shop' of 'cards': not a column name"),
        ({"shop": {**MERCHANT, "expression": "a +"}}, r"measure 'shop' of 'cards': 'a \+' is not an SQL exp"),
        ({"shop": {**MERCHANT, "expression": "a, b"}}, "measure 'shop' of 'cards': 'a, b' is more than one SQL exp"),
    ],
)
def test_what_is_wrong_with_a_measure_is_named(tmp_path: Path, measures: dict[str, Any], reported: str) -> None:
    with pytest.raises(TransformError, match=reported):
        small(tmp_path, stream(), measures=measures)


@pytest.mark.parametrize("name", ["amt", "user_id", "at", "version", "units_of_amt"])
def test_a_feature_named_as_another_column_is_refused(tmp_path: Path, name: str) -> None:
    entry = {**ENTRY, "name": name, "entity": "user", "aggregate": "mean", "window": "30 days"}
    with pytest.raises(TransformError, match=f"feature '{name}': vectors has a column of that name already"):
        load(tmp_path, entry)


@pytest.mark.parametrize(
    "expression, reported",
    [
        ("{amt} / user_id", "feature 'ratio': its expression names 'user_id'"),
        ("{amt} /", "feature 'ratio': 'amt /' is not an SQL expression"),
    ],
)
def test_what_is_wrong_with_an_expression_is_named(tmp_path: Path, expression: str, reported: str) -> None:
    ratio = {"name": "ratio", "stream": "cards", "entity": "user", "owner": "somebody", "unit": "ratio"}
    with pytest.raises(TransformError, match=reported):
        load(tmp_path, {**ratio, "expression": expression, "definition": "A ratio."})


OWN: dict[str, Any] = {
    "recent": {"past": "closed", "key": ["user_id"], "model": "recent_versions", "must_have": ["user_amt"]}
}
CLOSED: dict[str, Any] = {
    "name": "user_amt", "stream": "cards", "table": "recent", "entity": "user", "measure": "amt", "aggregate": "mean",
    "window": "6 hours", "past": "closed", "owner": "somebody",
}  # fmt: skip


def test_a_table_of_its_own_has_the_features_of_its_entries(tmp_path: Path) -> None:
    more = {**CLOSED, "name": "user_most", "aggregate": "max"}
    catalogue = small(tmp_path, stream(), CLOSED, more, tables=OWN)
    assert [feature.name for feature in catalogue.of_table("recent")] == ["user_amt", "user_most"]
    assert catalogue.beside("recent") == ["recent_versions"]
    assert "event time in [t - 6 hours, t]" in catalogue.features[0].definition


@pytest.mark.parametrize(
    "change, reported",
    [
        (
            {"table": None},
            "past: closed is not computed in vectors, whose features are strictly past\n.*strict, or table: recent",
        ),
        ({"table": None, "past": "tumble"}, "past: tumble is not computed in vectors.*\n.*use past: strict$"),
        ({"past": "strict"}, "past: strict is not computed in recent\n.*use past: closed"),
        ({"table": "elsewhere"}, "no model computes features in the table 'elsewhere'\n.*use one of vectors, recent"),
        ({"entity": "card"}, "recent has rows by user_id, the entity card has another key\n.*use user"),
        ({"aggregate": "is_first", "measure": None, "window": None}, "recent has only aggregates over a window"),
        ({"name": "user_other"}, "recent has no feature 'user_amt', which others rely on"),
    ],
)
def test_what_a_table_does_not_compute_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], reported: str
) -> None:
    with pytest.raises(TransformError, match=f"(?s)features.yml.*{reported}"):
        small(tmp_path, stream(), {**CLOSED, **change}, tables=OWN)


def test_a_table_of_its_own_has_one_window(tmp_path: Path) -> None:
    other = {**CLOSED, "name": "user_recent", "window": "1 hour"}
    with pytest.raises(TransformError, match="feature 'user_recent': its window is 1 hour, but 6 hours in recent"):
        small(tmp_path, stream(), CLOSED, other, tables=OWN)


WINDOWS = ("10min", "1h", "6h", "24h", "7d", "30d")


def test_the_shipped_catalogue_has_every_family_it_is_to_have() -> None:
    catalogue = shipped_catalogue()
    cards = {feature.name for feature in catalogue.of_table("card_feature_vectors")}
    bank = {feature.name for feature in catalogue.of_table("transaction_feature_vectors")}

    for entity in ("user", "card", "merchant", "category", "user_merchant"):
        assert {f"{entity}_amt_{what}_{w}" for what in ("count", "sum", "mean", "stddev") for w in WINDOWS} <= cards
        assert {f"{entity}_amt_to_mean_30d", f"{entity}_amt_z_30d"} <= cards
    assert {f"user_amount_{what}_{w}" for what in ("count", "sum", "mean", "stddev") for w in WINDOWS} <= bank
    assert {f"{entity}_distinct_merchants_{w}" for entity in ("user", "card") for w in WINDOWS} <= cards
    for names, measure in ((cards, "amt"), (bank, "amount")):
        own_past = ("to_mean", "to_median", "to_max", "z", "robust_z")
        assert {f"user_{measure}_{against}_30d" for against in own_past} <= names
        assert {"user_seconds_since_last", "user_is_first", "user_night_share_30d", "user_weekend_share_30d"} <= names
    assert {"user_merchant_is_first", "user_category_is_first", "card_seconds_since_last"} <= cards
    risks = {"merchant_fraud_risk_30d", "merchant_fraud_share_30d", "category_fraud_risk_30d"}
    assert risks <= cards
    assert all(feature.delay for feature in catalogue.features if feature.measure == "fraud")


def test_a_weekend_is_one_however_an_engine_numbers_the_days() -> None:
    """DuckDB numbers Sunday 0 to Saturday 6, Spark 1 to 7."""
    catalogue = shipped_catalogue()
    for payments in catalogue.streams.values():
        expression = payments.measures["weekend"].expression
        numbered_from_one = expression.replace("extract(dow", "1 + extract(dow")
        assert numbered_from_one != expression
        moments = "generate_series(timestamp '2024-02-26 23:59', timestamp '2024-03-10', interval 1 day)"
        days = f"select unnest({moments}) as {payments.time}"
        for one in (expression, numbered_from_one):
            rows = duckdb.sql(f"select {payments.time}, {one} from ({days})").fetchall()
            assert [(day.isoweekday() >= 6) for day, _ in rows] == [bool(weekend) for _, weekend in rows]
            assert len(rows) > 7
