"""The catalogue: families are spelt out, what is wrong is named, every feature stands in dbt's documentation."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE, Catalogue, load_catalogue
from fraud_lakehouse.features.window import Window
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import prepare_project, shipped_project

SOURCE: dict[str, Any] = {
    "table": "vectors",
    "rows": "payments",
    "id": "id",
    "time": "at",
    "event": "payment",
    "entities": {"user": {"key": ["user_id"], "about": "the user"}, "card": {"key": ["card"], "about": "the card"}},
    "measures": {
        "amt": {"expression": "amt", "unit": "euros", "decimals": 2, "about": "amount"},
        "fraud": {"expression": "f", "unit": "share", "decimals": 0, "about": "label", "delay": "label_delay"},
    },
}
ENTRY: dict[str, Any] = {
    "name": "{entity}_{measure}_{aggregate}_{window}",
    "source": "cards",
    "entity": ["user", "card"],
    "measure": "amt",
    "aggregate": ["count", "mean"],
    "window": ["10 minutes", "30 days"],
    "owner": "somebody",
}


def load(folder: Path, *entries: dict[str, Any]) -> Catalogue:
    path = folder / "features.yml"
    path.write_text(yaml.safe_dump({"sources": {"cards": SOURCE}, "features": copy.deepcopy(list(entries))}))
    return load_catalogue(path)


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
        "name": "ratio", "source": "cards", "entity": "user", "window": "30 days", "owner": "somebody",
        "expression": "{amt} / nullif({user_amt_mean_30d}, 0)", "unit": "ratio",
        "definition": "Amount to mean of {about}.",
    }  # fmt: skip
    feature = load(tmp_path, ratio, ENTRY).features[0]
    assert feature.expression == "amt / nullif(user_amt_mean_30d, 0)"
    assert feature.definition == "Amount to mean of the user."

    with pytest.raises(TransformError, match=r"feature 'ratio': its expression names 'user_amt_mean_30d'"):
        load(tmp_path, ratio)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"aggregate": "average"}, r"feature '\{entity\}.*unknown aggregate 'average'\n.*count, sum, mean"),
        ({"aggregate": "percentile_100"}, "unknown aggregate 'percentile_100'"),
        ({"window": "10 minuets"}, "window '10 minuets' is no size\n.*10 minutes"),
        ({"window": "0 days"}, "window '0 days' is no size"),
        ({"window": None}, "the aggregate count needs a window"),
        ({"entity": "shop"}, "unknown entity 'shop'\n.*card, user"),
        ({"measure": "price"}, "unknown measure 'price'\n.*amt"),
        ({"measure": None}, "the aggregate count needs a measure\n.*amt"),
        ({"source": "bonds"}, "unknown source 'bonds'\n.*cards"),
        ({"aggregate": "is_first", "measure": None}, "the aggregate is_first takes no window"),
        ({"name": "{entity}_twice"}, "vectors has two features named 'user_twice'"),
        ({"name": "{entity} {window} {aggregate}"}, "feature 'user 10min count': no name of a column"),
        ({"aggregate": None}, "neither or both of aggregate and expression"),
        ({"aggregate": None, "expression": "1"}, "give it a definition and a unit"),
        ({"past": "ever"}, r"feature '\{entity\}.*past: Input should be 'strict', 'closed', 'tumble'"),
        ({"owner": None}, r"feature '\{entity\}.*owner: Input should be a valid string"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){told}"):
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
    "change, told",
    [
        ({"aggregate": "median"}, "fraud is known only after its delay, which median cannot heed\n.*count, sum, mean"),
        ({"aggregate": "distinct"}, "fraud is known only after its delay, which distinct cannot heed"),
        ({"past": "closed"}, "the measure fraud has a delay, which past: closed does not heed\n.*past: strict"),
        ({"past": "tumble"}, "the measure fraud has a delay, which past: tumble does not heed"),
        (
            {"aggregate": None, "expression": "1", "definition": "one", "unit": "one"},
            "fraud is known only after its delay, which an expression cannot heed",
        ),
        (
            {"aggregate": None, "measure": None, "expression": "{fraud}", "definition": "one", "unit": "one"},
            "its expression names 'fraud' of the row itself\n.*FRAUD_LABEL_DELAY later",
        ),
    ],
)
def test_what_a_delayed_measure_cannot_be_used_for_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){told}"):
        load(tmp_path, {**LATER, **change})


@pytest.mark.parametrize(
    "change, told",
    [
        ({"delay": "lable_delay"}, "measure 'fraud' of 'cards': unknown delay 'lable_delay'\n.*label_delay"),
        ({"decimals": None}, "measure 'fraud' of 'cards': it has a delay but no decimals\n.*0: whole numbers"),
    ],
)
def test_what_is_wrong_with_a_delay_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    measures = {**SOURCE["measures"], "fraud": {**SOURCE["measures"]["fraud"], **change}}
    path = tmp_path / "features.yml"
    path.write_text(yaml.safe_dump({"sources": {"cards": {**SOURCE, "measures": measures}}, "features": []}))
    with pytest.raises(TransformError, match=f"(?s){told}"):
        load_catalogue(path)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "features.yml").write_text("features: [")
    with pytest.raises(TransformError, match=r"features\.yml is not YAML"):
        load_catalogue(tmp_path / "features.yml")


@given(st.integers(1, 10_000), st.sampled_from([("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)]))
def test_a_size_is_a_number_and_a_unit(number: int, unit: tuple[str, int]) -> None:
    assert Window.parse(f"{number} {unit[0]}s").seconds == number * unit[1]


def test_every_feature_stands_in_the_documentation(tmp_path: Path) -> None:
    catalogue = load_catalogue(shipped_project() / FILE)
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


def load_with(folder: Path, source: dict[str, Any], *entries: dict[str, Any]) -> Catalogue:
    """A catalogue whose source differs from SOURCE in these parts."""
    path = folder / "features.yml"
    path.write_text(yaml.safe_dump({"sources": {"cards": {**SOURCE, **source}}, "features": list(entries)}))
    return load_catalogue(path)


MERCHANT: dict[str, Any] = {"expression": "merchant", "unit": "merchants", "about": "merchant"}


@pytest.mark.parametrize("aggregate", ["count", "sum", "mean", "min", "max", "median", "mad", "percentile_9", "first"])
def test_what_is_no_number_is_only_told_apart(tmp_path: Path, aggregate: str) -> None:
    source = {"measures": {"shop": MERCHANT}}
    entry = {**ENTRY, "measure": "shop", "aggregate": aggregate}
    with pytest.raises(
        TransformError,
        match=rf"feature '\{{entity.*the measure shop has no decimals, so it is no number, which {aggregate} needs\n"
        ".*give it decimals .*or count its different values with distinct",
    ):
        load_with(tmp_path, source, entry)
    assert load_with(tmp_path, source, {**entry, "aggregate": "distinct"}).features[0].data_type == "integer"


@pytest.mark.parametrize(
    "source, told",
    [
        (
            {"measures": {"user_id": {**MERCHANT}}},
            "measure 'user_id' of 'cards': the vectors have a column of that name",
        ),
        ({"measures": {"event_time": {**MERCHANT}}}, "measure 'event_time' of 'cards': the vectors have a column"),
        ({"measures": {"Shop": MERCHANT}}, "measure 'Shop' of 'cards': no name of a column"),
        ({"entities": {"the user": SOURCE["entities"]["user"]}}, "entity 'the user' of 'cards': no name of a column"),
        ({"measures": {"shop": {**MERCHANT, "expression": "a +"}}}, r"measure 'shop' of 'cards': 'a \+' is no SQL exp"),
        ({"measures": {"shop": {**MERCHANT, "expression": "a, b"}}}, "measure 'shop' of 'cards': 'a, b' is no SQL exp"),
        ({"settings": ["colour"]}, "settings.0: Input should be 'late_rows'"),
    ],
)
def test_what_is_wrong_with_a_source_is_named(tmp_path: Path, source: dict[str, Any], told: str) -> None:
    with pytest.raises(TransformError, match=told):
        load_with(tmp_path, source)


@pytest.mark.parametrize("name", ["amt", "user_id", "at", "version", "units_of_amt"])
def test_a_feature_named_as_another_column_is_refused(tmp_path: Path, name: str) -> None:
    entry = {**ENTRY, "name": name, "entity": "user", "aggregate": "mean", "window": "30 days"}
    with pytest.raises(TransformError, match=f"feature '{name}': vectors has a column of that name already"):
        load(tmp_path, entry)


@pytest.mark.parametrize(
    "expression, told",
    [
        ("{amt} / user_id", "feature 'ratio': its expression names 'user_id'"),
        ("{amt} /", "feature 'ratio': 'amt /' is no SQL expression"),
    ],
)
def test_what_is_wrong_with_an_expression_is_named(tmp_path: Path, expression: str, told: str) -> None:
    ratio = {"name": "ratio", "source": "cards", "entity": "user", "owner": "somebody", "unit": "ratio"}
    with pytest.raises(TransformError, match=told):
        load(tmp_path, {**ratio, "expression": expression, "definition": "A ratio."})


OWN: dict[str, Any] = {
    "tables": {"recent": {"past": "closed", "key": ["user_id"], "model": "recent_versions", "must_have": ["user_amt"]}}
}
CLOSED: dict[str, Any] = {
    "name": "user_amt", "source": "cards", "table": "recent", "entity": "user", "measure": "amt", "aggregate": "mean",
    "window": "6 hours", "past": "closed", "owner": "somebody",
}  # fmt: skip


def test_a_table_of_its_own_has_the_features_of_its_entries(tmp_path: Path) -> None:
    more = {**CLOSED, "name": "user_most", "aggregate": "max"}
    catalogue = load_with(tmp_path, OWN, CLOSED, more)
    assert [feature.name for feature in catalogue.of_table("recent")] == ["user_amt", "user_most"]
    assert catalogue.beside("recent") == ["recent_versions"]
    assert "event time in [t - 6 hours, t]" in catalogue.features[0].definition


@pytest.mark.parametrize(
    "change, told",
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
def test_what_a_table_does_not_compute_is_refused_by_name(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(TransformError, match=f"(?s)features.yml.*{told}"):
        load_with(tmp_path, OWN, {**CLOSED, **change})


def test_a_table_of_its_own_has_one_window(tmp_path: Path) -> None:
    other = {**CLOSED, "name": "user_recent", "window": "1 hour"}
    with pytest.raises(TransformError, match="feature 'user_recent': its window is 1 hour, but 6 hours in recent"):
        load_with(tmp_path, OWN, CLOSED, other)


WINDOWS = ("10min", "1h", "6h", "24h", "7d", "30d")


def test_the_shipped_catalogue_has_every_family_it_is_to_have() -> None:
    catalogue = load_catalogue(shipped_project() / FILE)
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
    catalogue = load_catalogue(shipped_project() / FILE)
    for source in catalogue.sources.values():
        expression = source.measures["weekend"].expression
        numbered_from_one = expression.replace("extract(dow", "1 + extract(dow")
        assert numbered_from_one != expression
        moments = "generate_series(timestamp '2024-02-26 23:59', timestamp '2024-03-10', interval 1 day)"
        days = f"select unnest({moments}) as {source.time}"
        for one in (expression, numbered_from_one):
            rows = duckdb.sql(f"select {source.time}, {one} from ({days})").fetchall()
            assert [(day.isoweekday() >= 6) for day, _ in rows] == [bool(weekend) for _, weekend in rows]
            assert len(rows) > 7
