"""Whether a captured table fits a declared stream of changes, and which models the stream then has."""

from __future__ import annotations

from typing import Any

import pytest

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.streams import Entity, PaymentStream
from fraud_lakehouse.transform.captured import Captured
from fraud_lakehouse.transform.change_models import change_models
from fraud_lakehouse.transform.fitted_streams import fitted
from fraud_lakehouse.transform.stream_checks import check_spelling

COLUMNS = {
    "payment_id": "varchar",
    "account": "varchar",
    "merchant": "integer",
    "paid_at": "timestamptz",
    "total": "decimal(12,2)",
    "_op": "varchar",
}


def stream(**changes: Any) -> PaymentStream:
    entities = {
        "account": Entity(key=["account"], about="the account", exists_in={"table": "accounts", "column": "number"}),
        "merchant": Entity(key=["merchant"], about="the merchant"),
    }
    declared: dict[str, Any] = {
        "name": "shop",
        "kind": "changes",
        "table": "payments",
        "rows": "payments",
        "ledger": "shop_ledger",
        "features": "shop_features",
        "vectors": "shop_vectors",
        "source_text": "shop.payments",
        "id": "payment_id",
        "time": "paid_at",
        "amount": "total",
        "entity": "account",
        "entities": entities,
    }
    return PaymentStream.model_validate(declared | changes)


def captured(key: str = "payment_id", **columns: str | None) -> dict[str, Captured]:
    kinds = {name: kind for name, kind in (COLUMNS | columns).items() if kind is not None}
    return {"payments": Captured([key], [name for name in kinds if name[0] != "_"], list(kinds.items()))}


ACCOUNTS = {"accounts": Captured(["id"], ["id", "number"], [("id", "integer"), ("number", "varchar")])}


def test_a_stream_whose_table_is_not_captured_has_no_models_yet() -> None:
    assert fitted(stream(), {}) is None


@pytest.mark.parametrize("kind", ["integer", "bigint", "float", "double", "decimal(38,9)"])
def test_any_number_is_an_amount(kind: str) -> None:
    found = fitted(stream(), captured(total=kind))
    assert found is not None and found.fields["total"] == kind


@pytest.mark.parametrize(
    ("changes", "tables", "expected"),
    [
        (
            {},
            captured(total=None),
            r"bronze/payments has no column total \(amount\), expected one of account, merchant",
        ),
        ({}, captured(merchant=None), r"bronze/payments has no column merchant \(key of merchant\)"),
        ({}, captured(total="varchar"), "the amount total of bronze/payments is varchar, expected a number"),
        ({}, captured(paid_at="varchar"), "the time paid_at of bronze/payments is varchar, expected a timestamp"),
        ({}, captured(key="account"), "the id payment_id is not the key of bronze/payments, which is account"),
        ({"id": "total", "amount": "payment_id"}, captured(), "the id total is not the key of bronze/payments"),
        ({}, captured() | ACCOUNTS, "exists_in names number, which is not the key of bronze/accounts"),
        ({"amount": "weight"}, captured(weight="double"), "the models have a column weight of their own"),
        ({"amount": "account_count"}, captured(account_count="double"), "the models have a column account_count"),
        (
            {"entities": {"account": Entity(key=["account", "merchant"], about="it")}},
            captured(),
            "its first entity account has a key of several columns",
        ),
        (
            {"entities": {"account": Entity(key=["payment_id"], about="it")}},
            captured(),
            "id, time, amount and the key of account are not four columns",
        ),
        ({}, captured() | {"shop_ledger": ACCOUNTS["accounts"]}, "silver/shop_ledger is already a captured table"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], tables: dict[str, Captured], expected: str) -> None:
    with pytest.raises(TransformError, match=rf"streams\.yml, shop: {expected}"):
        fitted(stream(**changes), tables)


def test_a_column_that_the_source_has_dropped_is_missing() -> None:
    table = captured()["payments"]
    without_total = Captured(table.key, [name for name in table.present if name != "total"], table.columns)
    with pytest.raises(TransformError, match="has no column total"):
        fitted(stream(), {"payments": without_total})


def test_models_have_the_streams_own_names_and_types() -> None:
    found = fitted(stream(), captured())
    assert found is not None
    ledger, features, vectors = change_models(found, lambda table: f"source('captured', {table!r})", captured())
    kinds = {column["name"]: column["data_type"] for column in ledger.columns}
    wanted = {"payment_id": "varchar", "account": "varchar", "merchant": "bigint"}
    assert wanted.items() <= kinds.items()
    assert ledger.call == "change_ledger('shop', source('captured', 'payments'))"
    assert features.call == "change_features('shop', ref('shop_ledger'))", "accounts are not captured"
    assert [vectors.name, vectors.layer, vectors.config["tags"]] == ["shop_vectors", "gold", ["features"]]


def test_features_know_the_table_that_must_have_the_entity() -> None:
    accounts = Captured(["number"], ["number"], [("number", "varchar")])
    tables = captured() | {"accounts": accounts}
    found = fitted(stream(), tables)
    assert found is not None
    _, features, _ = change_models(found, lambda table: f"source('captured', {table!r})", tables)
    assert features.call == "change_features('shop', ref('shop_ledger'), source('captured', 'accounts'))"


@pytest.mark.parametrize("column", ["order", "at", "in total", "9th"])
def test_a_column_that_sql_does_not_read_as_it_is_is_refused(column: str) -> None:
    with pytest.raises(TransformError, match=f"streams.yml, shop: amount names the column '{column}'"):
        check_spelling(stream(amount=column))
