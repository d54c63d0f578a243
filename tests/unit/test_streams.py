"""Streams of a dbt project: their models' names, what they may not be called, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.stream_checks import check_stream, check_tables
from fraud_lakehouse.transform.stream_models import files_of, stream_models
from fraud_lakehouse.transform.streams import declared_catalogue, pipeline_folder, project_streams
from tests.catalogues import PIPELINE, stream

SOURCES = """
shop:
  type: kafka
  servers_env: SHOP_SERVERS
  topics:
    - {topic: orders, table: orders, fields: {ref: int64, paid: timestamp, total: double, buyer: string, code: string}}
"""
ORDERS = "orders: {from: orders, kind: events, id: ref, time: paid, amount: total, entities: {buyer: buyer}}\n"


def folder(root: Path, streams: str = ORDERS) -> Path:
    (root / "sources.yml").write_text(SOURCES)
    (root / "streams.yml").write_text(streams)
    return root


def test_the_shipped_streams_have_the_models_of_the_project() -> None:
    found = project_streams(shipped_project(), PIPELINE)
    assert found.own == {"card_payments", "bank_payments"} and found.generated == []
    cards, bank = found.streams["card_payments"], found.streams["bank_payments"]
    assert cards.models == [
        "card_transactions", "card_transactions_late", "card_transaction_features", "card_feature_vectors"
    ]  # fmt: skip
    assert bank.models == ["transactions_ledger", "transaction_features", "transaction_feature_vectors"]
    assert (cards.source_text, bank.source_text) == ("kafka.", "postgres.transactions")


def test_a_further_stream_has_models_of_its_own_names_and_the_shipped_ones_stay(tmp_path: Path) -> None:
    found = project_streams(shipped_project(), folder(tmp_path))
    assert set(found.streams) == {"orders", "card_payments", "bank_payments"}
    [orders] = found.generated
    assert orders.models == ["orders", "orders_late", "orders_features", "orders_vectors"]
    assert (orders.source_text, orders.entity, orders.fields["paid"]) == ("shop.", "buyer", "timestamp")


def test_generated_models_declare_their_columns_and_tests(tmp_path: Path) -> None:
    found = project_streams(shipped_project(), folder(tmp_path))
    catalogue = declared_catalogue(tmp_path, found)
    models = stream_models(found.generated)
    files = files_of(models, found.generated, catalogue)
    [rows] = yaml.safe_load(files["models/silver/streams/orders.yml"])["models"]
    kinds = {column["name"]: column["data_type"] for column in rows["columns"]}
    assert (kinds["ref"], kinds["paid"], kinds["total"]) == ("varchar", "timestamp", "double")
    assert rows["columns"][0]["data_tests"] == ["unique", "not_null"]
    [vectors] = yaml.safe_load(files["models/gold/streams/orders_vectors.yml"])["models"]
    names = [column["name"] for column in vectors["columns"]]
    assert names[:2] == ["ref", "buyer"] and "buyer_total_max_30d" in names
    assert (
        "event_vectors('orders', ref('orders'), ref('orders_late'))" in files["models/gold/streams/orders_vectors.sql"]
    )
    [source] = yaml.safe_load(files["models/silver/streams/sources.yml"])["sources"]
    assert {"ref", "_commit", "_error", "_offset"} <= {column["name"] for column in source["tables"][0]["columns"]}


def test_a_project_without_models_of_streams_has_no_streams(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("{name: other, vars: {}}")
    assert project_streams(tmp_path, PIPELINE).streams == {}


def test_the_folder_is_the_projects_own_else_that_of_the_settings(tmp_path: Path) -> None:
    project, named = tmp_path / "project", tmp_path / "named"
    project.mkdir()
    settings = load_settings(pipeline=named)
    assert pipeline_folder(settings, project) == named
    (project / "pipeline").mkdir()
    assert pipeline_folder(settings, project) == project / "pipeline"


@pytest.mark.parametrize(
    "streams, told",
    [
        (ORDERS.replace("orders: {", "card_payments: {"), "card_payments: it is from orders .* another name"),
        (
            ORDERS.replace("entities", "currency: {column: code, rates: orders}, entities"),
            "its currency is the column 'code', and amounts of several currencies are not converted",
        ),
        (ORDERS.replace("amount: total", "amount: totl"), r"streams\.yml:1: .*'totl'.*did you mean total\?"),
        (
            ORDERS + "orders_late: {from: t, kind: changes, id: a, time: b, amount: c, entities: {d: e}}\n",
            r"streams\.yml:2: .*'t'",
        ),
    ],
)
def test_what_is_wrong_with_a_stream_is_named(tmp_path: Path, streams: str, told: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){told}"):
        project_streams(shipped_project(), folder(tmp_path, streams))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"amount": "order"}, "amount names the column 'order', expected .* no keyword of SQL"),
        ({"time": "was at"}, "time names the column 'was at', expected letters"),
        ({"time": "at"}, "time names the column 'at'"),
        ({"id": "Version"}, "id names the column 'Version', as models call one of their own"),
        ({"entities": {"user": {"key": ["scored_at"], "about": "u"}}}, "entity 'user' names the column 'scored_at'"),
        (
            {"entities": {"user": {"key": ["card", "PAID"], "about": "u"}}},
            "entity 'user' has 'PAID' in its key.* the time",
        ),
        ({"fields": {"is_time_excluded": "boolean"}}, "table payments: the field 'is_time_excluded' is called like"),
    ],
)
def test_columns_that_models_cannot_have_are_named(change: dict[str, object], told: str) -> None:
    with pytest.raises(TransformError, match=told):
        check_stream(stream(**({"time": "paid"} | change)))


def test_a_time_may_be_called_event_time() -> None:
    check_stream(stream(time="event_time"))


def test_a_generated_model_is_not_called_like_one_of_the_project() -> None:
    taken = stream(
        time="paid", rows="user_avg", late="user_avg_late", fields={"id": "varchar", "paid": "varchar", "amt": "double"}
    )
    taken = taken.model_copy(update={"fields": taken.fields | {"user_id": "bigint", "card": "varchar"}})
    with pytest.raises(TransformError, match="stream cards would have the table silver/user_avg, as the model models/"):
        check_tables(shipped_project(), stream_models([taken]))
