"""The pipeline folder: what its files may declare, where it is, and the command that checks it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fraud_lakehouse.cli import commands as cli
from fraud_lakehouse.errors import SettingsError, TransformError
from fraud_lakehouse.pipeline import (
    CurrencyColumn,
    ExistsIn,
    KafkaSource,
    Pipeline,
    PipelineError,
    PostgresSource,
    Rates,
    default_folder,
    load_pipeline,
)
from tests.declared import SHIPPED, SOURCES, STREAMS, changed, write


def load(
    folder: Path, sources: str = SOURCES, streams: str = STREAMS, environment: Mapping[str, str] | None = None
) -> Pipeline:
    return load_pipeline(write(folder, sources, streams), environment or {})


def test_the_shipped_card_fields_give_the_columns_of_every_lake() -> None:
    source = load_pipeline(SHIPPED, {}).sources["cards"]
    assert isinstance(source, KafkaSource)
    [topic] = source.topics
    texts = ("trans_date_trans_time", "merchant", "category", "first", "last", "zipcode", "dob", "trans_num")
    types = dict.fromkeys(texts, "string") | dict.fromkeys(("cc_num", "is_fraud", "user_id"), "int64")
    assert {name: field.type for name, field in topic.fields.items()} == types | {"amt": "double"}
    assert (topic.topic, topic.table, topic.format) == ("transaction", "card_transactions", "json")


def test_the_shipped_users_must_be_known() -> None:
    stream = load_pipeline(SHIPPED, {}).streams["bank_payments"]
    assert stream.entities["user"].exists_in == ExistsIn(table="users", column="user_id")


def test_an_entry_may_leave_out_whatever_has_a_default(tmp_path: Path) -> None:
    pipeline = load(tmp_path)
    shop, wires = pipeline.sources["shop"], pipeline.streams["wires"]
    assert isinstance(shop, PostgresSource)
    assert (shop.name, shop.slot, shop.publication) == ("shop", "fraud_lakehouse_shop", "fraud_lakehouse_shop")
    assert (shop.tables, shop.prefix, shop.update_delay) == (("orders", "users", "crm.users"), "", None)
    assert (wires.name, wires.from_, wires.timezone, wires.currency, wires.event) == (
        "wires",
        "wires",
        "UTC",
        "USD",
        "payment",
    )
    pair = wires.entities["pair"]
    assert (pair.key, pair.about, pair.partitions, pair.exists_in) == (
        ("sender_id", "cur"),
        "the pair",
        "small",
        None,
    )


def test_fields_have_a_type_and_the_path_of_their_value(tmp_path: Path) -> None:
    source = load(tmp_path).sources["wires"]
    assert isinstance(source, KafkaSource)
    fields = source.topics[0].fields
    assert (fields["amt"].type, fields["amt"].path) == ("decimal(18,2)", "amt")
    assert (fields["sender_id"].name, fields["sender_id"].path) == ("sender_id", "sender.id")


@pytest.mark.parametrize(
    "written, seconds",
    [("0", 0), ("1.5", 1.5), ("30 minutes", 1800), ("2 hours", 7200), ("1 day", 86_400), ("45 seconds", 45)],
)
def test_a_duration_is_seconds_or_a_text(tmp_path: Path, written: str, seconds: float) -> None:
    source = load(tmp_path, SOURCES + f"  update_delay: {written}\n").sources["wires"]
    assert source.update_delay == seconds


def test_a_currency_may_be_a_column_with_rates(tmp_path: Path) -> None:
    streams = STREAMS + "  currency: {column: cur, rates: orders, to: EUR}\n"
    wires = load(tmp_path, streams=streams).streams["wires"]
    named = {"table": "orders", "currency": "currency", "from": "valid_from", "rate": "rate"}
    assert wires.currency == CurrencyColumn(column="cur", rates=Rates.model_validate(named), to="EUR")
    assert wires.further_tables == ["orders"]


def test_an_anchor_repeats_a_value(tmp_path: Path) -> None:
    sources = changed(SOURCES, "fields:", "fields: &fields") + (
        "    - {topic: more, table: more_wires, fields: *fields}\n"
    )
    source = load(tmp_path, sources).sources["wires"]
    assert isinstance(source, KafkaSource)
    assert source.topics[1].fields == source.topics[0].fields


def test_words_that_yaml_1_1_takes_for_booleans_and_numbers_are_text(tmp_path: Path) -> None:
    sources = changed(SOURCES, "        cur: string\n", "        cur: string\n        on: string\n        no: string\n")
    streams = STREAMS + "    no: [on, no]\n"
    assert load(tmp_path, sources, streams).streams["wires"].entities["no"].key == ("on", "no")


def test_a_source_is_present_where_its_variable_is_set() -> None:
    pipeline = load_pipeline(SHIPPED, {})
    for name, variable in (("bank", "FRAUD_POSTGRES_DSN"), ("cards", "FRAUD_KAFKA_BOOTSTRAP_SERVERS")):
        assert pipeline.sources[name].is_present({variable: "x"})
        assert not pipeline.sources[name].is_present({variable: ""})
        assert not pipeline.sources[name].is_present({})


def test_variables_name_slot_publication_tables_and_topic_of_the_shipped_sources() -> None:
    environment = {
        "FRAUD_POSTGRES_SLOT": "own_slot",
        "FRAUD_POSTGRES_PUBLICATION": "Own",
        "FRAUD_POSTGRES_TABLES": 'crm.users, "a,b"',
        "FRAUD_KAFKA_TOPIC": "cards.v2",
    }
    sources = load_pipeline(SHIPPED, environment).sources
    bank, cards = sources["bank"], sources["cards"]
    assert isinstance(bank, PostgresSource)
    assert isinstance(cards, KafkaSource)
    assert (bank.slot, bank.publication, bank.tables) == ("own_slot", "Own", ("crm.users", '"a,b"'))
    assert cards.topics[0].topic == "cards.v2"
    default = load_pipeline(SHIPPED, {"FRAUD_KAFKA_TOPIC": ""}).sources["bank"]
    assert isinstance(default, PostgresSource)
    assert (default.slot, default.publication, default.tables) == ("fraud_lakehouse", "fraud_lakehouse", ())


def test_the_shipped_topic_needs_no_name(tmp_path: Path) -> None:
    sources = changed(SOURCES, "topic: wires", "topic_env: FRAUD_KAFKA_TOPIC")
    source = load(tmp_path, sources).sources["wires"]
    assert isinstance(source, KafkaSource)
    assert source.topics[0].topic == "transaction"


@pytest.mark.parametrize("tables", ["", "  tables: [orders]\n  tables_env: SHOP_TABLES\n"])
def test_a_database_whose_tables_are_not_listed_may_have_any(tmp_path: Path, tables: str) -> None:
    sources = changed(SOURCES, "  tables: [orders, users, crm.users]\n", tables)
    assert load(tmp_path, sources, changed(STREAMS, "from: orders", "from: sales")).streams["orders"].from_ == "sales"


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert list(load(tmp_path, "\ufeff" + SOURCES).sources) == ["shop", "wires"]


def test_no_source_and_no_stream_is_a_pipeline(tmp_path: Path) -> None:
    assert load(tmp_path, "{}\n", "{}\n") == Pipeline({}, {}, tmp_path)


def test_the_folder_is_named_or_here_or_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder({"FRAUD_PIPELINE": "elsewhere"}) == Path("elsewhere")
    (tmp_path / "pipeline").mkdir()
    assert default_folder({"FRAUD_PIPELINE": ""}) == SHIPPED
    write(tmp_path / "pipeline")
    assert default_folder({}).resolve() == tmp_path / "pipeline"


def test_no_folder_anywhere_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fraud_lakehouse.pipeline.load.shipped_path", lambda name: tmp_path / "shipped" / name)
    with pytest.raises(SettingsError, match="FRAUD_PIPELINE"):
        default_folder({})


def fitting(folder: Path) -> Path:
    """A folder whose columns models can name."""
    return write(
        folder, changed(SOURCES, " at: timestamp", " paid: timestamp"), changed(STREAMS, "time: at", "time: paid")
    )


def check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", "pipeline", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_counts_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUD_PIPELINE", str(fitting(tmp_path)))
    assert check(monkeypatch) == 0
    assert re.fullmatch(r"2 sources, 2 streams, \d+ rules: no mistakes\n", capsys.readouterr().out)


def test_the_command_checks_what_models_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert check(monkeypatch, str(tmp_path)) == TransformError.exit_code
    assert "wires: time names the column 'at', expected letters, digits and _" in capsys.readouterr().err
    (fitting(tmp_path) / "features.yml").write_text("features: [{name: x, stream: wire, entity: pair, owner: me}]")
    assert check(monkeypatch, str(tmp_path)) == TransformError.exit_code
    assert "feature 'x': unknown stream 'wire'" in capsys.readouterr().err


def test_the_command_prints_a_mistake_a_line_and_exits_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, SOURCES + "bad: 1\n", STREAMS + "bad: 2\n")
    assert check(monkeypatch, str(tmp_path)) == PipelineError.exit_code
    printed = capsys.readouterr()
    assert [line.split(": found")[0] for line in printed.out.splitlines()] == [
        "sources.yml:18: bad",
        "streams.yml:18: bad",
    ]
    assert printed.err == ""
