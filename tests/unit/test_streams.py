"""Streams of a dbt project: their models' names, what they may not be called, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.streams import Rates
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.transform.captured import Captured
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.rates import with_rates
from fraud_lakehouse.transform.stream_checks import check_stream, check_tables
from fraud_lakehouse.transform.stream_models import files_of, stream_models
from fraud_lakehouse.transform.streams import declared_catalogue, folder_with_rules, pipeline_folder, project_streams
from tests.catalogues import PIPELINE, stream

SOURCES = """
shop:
  type: kafka
  servers_env: SHOP_SERVERS
  topics:
    - {topic: orders, table: orders, fields: {ref: int64, paid: timestamp, total: double, buyer: string, code: string}}
"""
RATES = "    - {topic: fx, table: fx, fields: {currency: string, valid_from: timestamp, rate: double}}\n"
RATE = Rates(code="category", table="fx", currency="currency", valid_from="valid_from", rate="rate")
ORDERS = "orders: {from: orders, kind: events, id: ref, time: paid, amount: total, entities: {buyer: buyer}}\n"


def folder(root: Path, streams: str = ORDERS) -> Path:
    (root / "sources.yml").write_text(SOURCES)
    (root / "streams.yml").write_text(streams)
    return root


def test_the_shipped_streams_have_the_models_of_the_project() -> None:
    found = project_streams(shipped_project(), PIPELINE)
    assert found.own == {"card_payments", "bank_payments"}
    assert {stream.name for stream in found.generated} == {"account_payments", "transfer_payments"}
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
    models = stream_models(found.generated, lambda table: f"source('captured', {table!r})")
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


def test_a_topic_of_rates_is_a_source_of_the_models(tmp_path: Path) -> None:
    several = ORDERS.replace("entities", "currency: {column: code, rates: fx, to: EUR}, entities")
    root = folder(tmp_path, several)
    (root / "sources.yml").write_text(f"{SOURCES.rstrip()}\n{RATES}")
    found = project_streams(shipped_project(), root)
    [orders] = found.generated
    assert (orders.currency, orders.rates.columns if orders.rates else None) == (
        "EUR",
        ["currency", "valid_from", "rate"],
    )
    kinds = [("currency", "varchar"), ("valid_from", "timestamp"), ("rate", "double")]
    orders = with_rates(orders, {"fx": Captured([], [], kinds)})
    models = stream_models([orders], lambda table: f"source('streams', {table!r})")
    assert models[0].call == "event_rows('orders', source('streams', 'orders'), rates=source('streams', 'fx'))"
    files = files_of(models, [orders], declared_catalogue(tmp_path, found))
    [source] = yaml.safe_load(files["models/silver/streams/sources.yml"])["sources"]
    assert [table["name"] for table in source["tables"]] == ["orders", "fx"]
    assert {"rate", "_commit", "_error"} <= {column["name"] for column in source["tables"][1]["columns"]}
    [rows] = yaml.safe_load(files["models/silver/streams/orders.yml"])["models"]
    columns = {column["name"]: column["data_type"] for column in rows["columns"]}
    assert (columns["total"], columns["total_original"], columns["_rate"]) == ("decimal(38, 9)", "double", "double")


@pytest.mark.parametrize(
    "captured, reported",
    [
        ({}, "its table of rates, bronze/fx, is not captured yet"),
        ({"rte": "double"}, "there is no column rate of the table of rates, bronze/fx, .*; did you mean rte?"),
        ({"rate": "varchar"}, "the column rate of the table of rates, bronze/fx, is varchar, expected a number"),
        ({"rate": "double", "currency": "integer"}, "the column currency of .* is integer, expected a text"),
        ({"rate": "double", "valid_from": "bigint"}, "the column valid_from of .* is bigint, expected a date"),
    ],
)
def test_a_table_of_rates_that_does_not_fit_is_named(captured: dict[str, str], reported: str) -> None:
    kinds = {"currency": "varchar", "valid_from": "date"} | captured
    tables = {"fx": Captured([], [], list(kinds.items()))} if captured else {}
    with pytest.raises(TransformError, match=rf"streams\.yml, cards: {reported}"):
        with_rates(stream(rates=RATE), tables)


@pytest.mark.parametrize("name", ["bank_payments", "card_payments"])
def test_models_that_are_files_of_the_project_convert_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "sources.yml").write_text((PIPELINE / "sources.yml").read_text())
    declared = (PIPELINE / "streams.yml").read_text()
    before, named, after = declared.partition(f"\n{name}:")
    several = after.replace("currency: USD", "currency: {column: category, rates: fx, to: USD}", 1)
    (tmp_path / "streams.yml").write_text(before + named + several)
    with pytest.raises(TransformError, match=f"{name}: it has amounts of several currencies"):
        project_streams(shipped_project(), tmp_path)


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
    assert folder_with_rules(settings, project) == named, "a prepared project has declarations, but no rules"
    (project / "pipeline" / "rules").mkdir()
    assert folder_with_rules(settings, project) == project / "pipeline"


@pytest.mark.parametrize(
    "streams, reported",
    [
        (ORDERS.replace("orders: {", "card_payments: {"), "card_payments: it reads orders .* another name"),
        (ORDERS.replace("amount: total", "amount: totl"), r"streams\.yml:1: .*'totl'.*did you mean total\?"),
        (
            ORDERS + "orders_late: {from: t, kind: changes, id: a, time: b, amount: c, entities: {d: e}}\n",
            r"streams\.yml:2: .*'t'",
        ),
    ],
)
def test_what_is_wrong_with_a_stream_is_named(tmp_path: Path, streams: str, reported: str) -> None:
    with pytest.raises(TransformError, match=f"(?s){reported}"):
        project_streams(shipped_project(), folder(tmp_path, streams))


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"amount": "order"}, "amount names the column 'order', expected .* not an SQL keyword"),
        ({"time": "was at"}, "time names the column 'was at', expected letters"),
        ({"time": "at"}, "time names the column 'at'"),
        ({"id": "Version"}, "id names the column 'Version', which models use for one of their own"),
        ({"entities": {"user": {"key": ["scored_at"], "about": "u"}}}, "entity 'user' names the column 'scored_at'"),
        (
            {"entities": {"user": {"key": ["card", "PAID"], "about": "u"}}},
            "entity 'user' has 'PAID' in its key.* the time",
        ),
        (
            {"fields": {"amt_Original": "double"}, "rates": RATE},
            "table payments: the field 'amt_Original' has the name of a column of the silver table",
        ),
        ({"fields": {"is_time_excluded": "boolean"}}, "table payments: the field 'is_time_excluded' has the name of"),
    ],
)
def test_columns_that_models_cannot_have_are_named(change: dict[str, object], reported: str) -> None:
    with pytest.raises(TransformError, match=reported):
        check_stream(stream(**({"time": "paid"} | change)))


def test_a_time_may_be_called_event_time() -> None:
    check_stream(stream(time="event_time"))


def test_a_generated_model_is_not_called_like_one_of_the_project() -> None:
    taken = stream(
        time="paid", rows="user_avg", late="user_avg_late", fields={"id": "varchar", "paid": "varchar", "amt": "double"}
    )
    taken = taken.model_copy(update={"fields": taken.fields | {"user_id": "bigint", "card": "varchar"}})
    with pytest.raises(TransformError, match="stream cards would have the table silver/user_avg, as the model models/"):
        check_tables(shipped_project(), stream_models([taken], lambda table: f"source('captured', {table!r})"))
