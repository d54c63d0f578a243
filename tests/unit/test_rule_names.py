"""What names in rules stand for, which features a rule needs, and which names it cannot have."""

from __future__ import annotations

from typing import Any

import pytest

from fraud_lakehouse.rules import FeatureRequest, Rule, StreamRule, bind
from tests.rule_scopes import BANK, CARDS, MINIMAL, bound


def requested(**keys: Any) -> FeatureRequest:
    (request,) = bound(**keys).requests
    return request


def problems(scope: Any = CARDS, **keys: Any) -> list[tuple[tuple[Any, ...], str]]:
    found = bind(Rule.model_validate({**MINIMAL, "name": "mine", **keys}), scope)
    assert not isinstance(found, StreamRule)
    return [(at, problem.text) for at, problem in found]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("card_amount_count_5min", ("card", "count", "amount", 300, False)),
        ("card_amt_sum_1h", ("card", "sum", "amount", 3600, False)),
        ("card_count_60s", ("card", "count", None, 60, False)),
        ("card_count_60s_with_current", ("card", "count", None, 60, True)),
        ("card_distinct_category_60s", ("card", "distinct", "category", 60, False)),
        ("card_distinct_merchants_24h", ("card", "distinct", "merchant", 86_400, False)),
        ("user_merchant_seconds_since_last", ("user_merchant", "seconds_since_last", None, None, False)),
        ("card_is_first", ("card", "is_first", None, None, False)),
        ("card_amount_percentile_95_30d", ("card", "percentile_95", "amount", 2_592_000, False)),
        ("card_night_mean_7d", ("card", "mean", "night", 604_800, False)),
        ("card_merchant_count_10min", ("card", "count", "merchant", 600, False)),
    ],
)
def test_names_of_the_scheme_are_requests(name: str, expected: tuple[Any, ...]) -> None:
    request = requested(when=f"coalesce({name} = {name}, true)")
    assert (request.entity, request.aggregate, request.measure, request.seconds, request.current) == expected


def test_equal_requests_have_one_name_whatever_the_rule_calls_them() -> None:
    declared = {"spree": {"aggregate": "sum", "measure": "amt", "window": "1 hour", "entity": "card", "current": False}}
    assert requested(features=declared, when="spree > 5") == requested(when="card_amount_sum_1h > 5")
    with_current = requested(features={"spree": declared["spree"] | {"current": True}}, when="spree > 5")
    assert with_current.name == "card_amount_sum_1h_with_current"


def test_a_declared_feature_counts_the_payment_itself_unless_it_has_no_window() -> None:
    assert requested(features={"n": {"aggregate": "count", "window": "5 minutes"}}, when="n > 1").current
    ever = requested(features={"most": {"aggregate": "max", "measure": "amount"}}, when="most > 1")
    assert (ever.name, ever.seconds, ever.current) == ("user_amount_max_ever", None, False)


def test_a_filter_is_sql_over_the_past_payment() -> None:
    features = {"tiny": {"aggregate": "count", "window": "5 minutes", "filter": "amount < most and merchant = 'x'"}}
    request = requested(features=features, parameters={"most": 2.0}, when="tiny > 1")
    assert request.filter is not None and '"amount"' in request.filter and "2.0e0" in request.filter
    other = requested(features={"tiny": features["tiny"] | {"filter": "amount < 3"}}, when="tiny > 1")
    assert request.name != other.name


def test_a_feature_of_the_catalogue_goes_before_the_scheme() -> None:
    rule = bound(when="user_amt_sum_24h > 5 and user_is_first", evidence=["count_10min"])
    assert rule.requests == ()
    assert rule.features == {"user_amt_sum_24h": "double", "user_is_first": "boolean", "count_10min": "bigint"}


def test_a_request_never_takes_the_name_of_a_column_that_means_something_else() -> None:
    features = {"all_day": {"aggregate": "sum", "measure": "amount", "window": "24 hours", "current": False}}
    catalogue = bound(features=features, when="all_day > 5")
    assert [one.name for one in catalogue.requests] == ["user_amount_sum_24h"]
    scope = CARDS.__class__(**{**CARDS.__dict__, "features": {"user_amount_sum_24h": "double"}})
    assert [one.name for one in bound(scope, features=features, when="all_day > 5").requests] == [
        "user_amount_sum_24h_"
    ]


def test_own_columns_and_the_entity_are_used_columns() -> None:
    rule = bound(when="category = 'travel'", entity="user_merchant", evidence=["cc_num"])
    assert rule.columns == {
        "category": "varchar",
        "amount": "double",
        "cc_num": "bigint",
        "user_id": "bigint",
        "merchant": "varchar",
    }
    assert rule.keys == ("user_id", "merchant")


@pytest.mark.parametrize(
    "name, problem",
    [
        ("cont_10min", "cont_10min is no parameter, feature or column of cards; did you mean count_10min?"),
        ("card_distinct_categry_60s", "did you mean card_distinct_category_60s?"),
        ("card_count_61s", "did you mean card_count_60s?"),
        ("is_fraud", "is_fraud is the label of cards, which is not known when a rule is evaluated"),
        ("merchant_fraud_share_30d", "waits for labels, .* or `on: vectors`"),
        ("card_fraud_sum_30d", "is no parameter, feature or column"),
    ],
)
def test_what_is_not_known_on_arrival_is_refused(name: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        bound(when=f"{name} > 1")


def test_vectors_have_features_of_labels_and_no_requests() -> None:
    rule = bound(on="vectors", when="merchant_fraud_share_30d > 0.1")
    assert rule.features == {"merchant_fraud_share_30d": "double"}
    ((_, text),) = problems(on="vectors", when="card_count_60s > 1")
    assert "card_count_60s is no parameter" in text
    features = {"n": {"aggregate": "count", "window": "5 minutes"}}
    ((at, text),) = problems(on="vectors", features=features, when="n > 1")
    assert at == ("features", "n") and "expected no `features`" in text


@pytest.mark.parametrize(
    "feature, problem",
    [
        ({"aggregate": "sum", "measure": "fraud", "window": "1 hour"}, "is known only when labels are"),
        ({"aggregate": "sum", "measure": "is_fraud", "window": "1 hour"}, "is known only when labels are"),
        ({"aggregate": "sum", "measure": "merchant", "window": "1 hour"}, "needs numbers, and merchant is none"),
        (
            {"aggregate": "sum", "measure": "amnt", "window": "1 hour"},
            "no measure or column of cards; did you mean amt",
        ),
        (
            {"aggregate": "count", "window": "1 hour", "entity": "crad"},
            "'crad' is no entity of cards.*did you mean card",
        ),
        ({"aggregate": "count", "window": "1 hour", "filter": "is_fraud = 1"}, "is the label, which is not known yet"),
        ({"aggregate": "count", "window": "1 hour", "filter": "count_10min > 1"}, "count_10min is no column"),
        (
            {"aggregate": "count", "window": "1 hour", "filter": "sum(amt) > 1"},
            "the filter of mine: .* is an aggregate",
        ),
    ],
)
def test_a_declared_feature_is_checked_where_it_is_declared(feature: dict[str, Any], problem: str) -> None:
    ((at, text),) = problems(features={"mine": feature}, when="mine > 1")
    assert at == ("features", "mine")
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(text)


def test_a_name_with_two_meanings_is_refused() -> None:
    for name, other in (
        ("count_10min", "a feature of the catalogue"),
        ("category", "a column"),
        ("card_count_5min", "a feature by its form"),
        ("amount", "a column"),
    ):
        (at, text) = problems(parameters={name: 1})[0]
        assert at == ("parameters", name) and f"is also {other} of cards" in text


def test_a_parameter_may_be_called_like_a_fact_and_with_all_streams_like_a_column() -> None:
    assert bound(parameters={"max_amount": 5}, when="amount > max_amount").when.args[1].value == 5.0
    assert bound(streams=["all"], parameters={"category": 5}, when="amount > category").when.args[1].value == 5.0


def test_a_column_of_unknown_type_is_compared_as_what_it_is_compared_with() -> None:
    for condition in ("user_id = 7", "user_id = 'seven'", "user_id is not null", "lower(user_id) like 'a%'"):
        assert bound(BANK, streams=["bank"], when=condition).columns["user_id"] == ""
