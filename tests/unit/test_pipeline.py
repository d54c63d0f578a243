"""The pipeline folder: what its files may declare, and the file, line and words of each kind of mistake."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from fraud_lakehouse import cli
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.features.catalogue import FILE, load_catalogue
from fraud_lakehouse.pipeline import (
    CurrencyColumn,
    ExistsIn,
    KafkaSource,
    Pipeline,
    PipelineError,
    PostgresSource,
    default_folder,
    find_mistakes,
    load_pipeline,
)
from fraud_lakehouse.sources.kafka.records import FIELD_TYPES
from fraud_lakehouse.transform.project import shipped_project

SHIPPED = Path(__file__).parents[2] / "pipeline"
SOURCES = """\
shop:
  type: postgres
  dsn_env: SHOP_DSN
  tables: [orders, users, crm.users]
wires:
  type: kafka
  servers_env: WIRES_SERVERS
  topics:
    - topic: wires
      table: wires
      fields:
        id: string
        at: timestamp
        amt: "decimal(18, 2)"
        cur: string
        fraud: boolean
        sender_id: {path: sender.id, type: string}
"""
STREAMS = """\
orders:
  from: orders
  kind: changes
  id: id
  time: placed_at
  amount: total
  entities: {user: user_id}
wires:
  from: wires
  kind: events
  id: id
  time: at
  amount: amt
  label: fraud
  entities:
    sender: sender_id
    pair: [sender_id, cur]
"""


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join(10 * [f'*a{level - 1}'])}]\n" for level in range(1, 10)
)


def write(folder: Path, sources: str | bytes = SOURCES, streams: str | bytes = STREAMS) -> Path:
    for name, content in (("sources.yml", sources), ("streams.yml", streams)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def load(
    folder: Path, sources: str = SOURCES, streams: str = STREAMS, environment: Mapping[str, str] | None = None
) -> Pipeline:
    return load_pipeline(write(folder, sources, streams), environment or {})


def mistakes(
    folder: Path,
    sources: str | bytes = SOURCES,
    streams: str | bytes = STREAMS,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    return [str(one) for one in find_mistakes(write(folder, sources, streams), environment or {})]


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


# --- what is declared -------------------------------------------------------------------------------------------------


def test_the_shipped_card_fields_have_the_types_that_are_decoded() -> None:
    source = load_pipeline(SHIPPED, {}).sources["cards"]
    assert isinstance(source, KafkaSource)
    [topic] = source.topics
    types = {"string": pl.String(), "int64": pl.Int64(), "double": pl.Float64()}
    assert {name: types[field.type] for name, field in topic.fields.items()} == FIELD_TYPES
    assert (topic.topic, topic.table, topic.format) == ("transaction", "card_transactions", "json")


def test_the_shipped_entities_are_those_of_the_features() -> None:
    pipeline, catalogue = load_pipeline(SHIPPED, {}), load_catalogue(shipped_project() / FILE)
    for stream, source in (("card_payments", "cards"), ("bank_payments", "bank")):
        declared, known = pipeline.streams[stream], catalogue.sources[source]
        assert {name: (list(one.key), one.about, one.partitions) for name, one in declared.entities.items()} == {
            name: (one.key, one.about, one.partitions) for name, one in known.entities.items()
        }
        assert (declared.id, declared.time, declared.amount) == (known.id, known.time, known.amount)
        assert declared.event == known.event
    assert pipeline.streams["bank_payments"].entities["user"].exists_in == ExistsIn(table="users", column="user_id")


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
    streams = STREAMS + "  currency: {column: cur, rates: orders}\n"
    assert load(tmp_path, streams=streams).streams["wires"].currency == CurrencyColumn(column="cur", rates="orders")


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


def test_no_source_and_no_stream_is_a_pipeline(tmp_path: Path) -> None:
    assert load(tmp_path, "{}\n", "{}\n") == Pipeline({}, {}, tmp_path)


# --- mistakes ---------------------------------------------------------------------------------------------------------

SOURCE_MISTAKES = [
    ("type: postgres", "type: postgers", r":2: shop.type: found 'postgers', .*; did you mean postgres\?"),
    ("  type: postgres\n", "", r":1: shop: the key type is missing, expected one of postgres, kafka"),
    ("  dsn_env: SHOP_DSN\n", "", r":1: shop: the key 'dsn_env' is missing"),
    ("shop:", "Shop:", r":1: Shop: found 'Shop', expected a name of a-z"),
    ("shop:", "s" * 41 + ":", r":1: s+: found 's+', expected a name of a-z.*at most 40"),
    ("dsn_env: SHOP_DSN", "dsn_env: 5432", r":3: shop.dsn_env: found the value 5432, expected the name of the env"),
    ("dsn_env: SHOP_DSN", "dsn_env: SHOP_DSN\n  slot: My-Slot", r":4: shop.slot: found 'My-Slot', expected a slot"),
    ("dsn_env: SHOP_DSN", "dsn_env: SHOP_DSN\n  name: bank", r":4: shop.name: unknown key"),
    ("dsn_env: SHOP_DSN", "dsn_env: SHOP_DSN\n  type: kafka", r":4: shop.type: the key is there twice, .*line 2"),
    ("[orders, users, crm.users]", "[orders, 'a,b', .c]", r":4: shop.tables\[1\]: found 'a,b', expected \[schema"),
    ("[orders, users, crm.users]", "[orders, users, Users]", r":4: .*\[2\]: the bronze table 'Users' .*only by case"),
    ("[orders, users, crm.users]", "[orders, wires]", r":10: .*the bronze table 'wires' is also that of shop.tables"),
    ("[orders, users, crm.users]", "[orders, crm.a, crm__a]", r":4: .*\[2\]: the bronze table 'crm__a' is also"),
    ("[orders, users, crm.users]", "orders", r":4: shop.tables: found 'orders', expected a list of"),
    ("servers_env: WIRES_SERVERS", "servers_env: broker:9092", r":7: wires.servers_env: found a value that is no name"),
    ("topic: wires", "topic: 'my wires'", r":9: wires.topics\[0\].topic: found 'my wires', expected a topic's name"),
    (
        "topic: wires",
        "topic: 7",
        r":9: wires.topics\[0\].topic: found the value 7, .*in quotes, as it reads as a number",
    ),
    ("topic: wires", "topic_env: WIRES_TOPIC", r":9: wires.topics\[0\]: the key 'topic' is missing"),
    ("table: wires", "table: Wires", r":10: wires.topics\[0\].table: found 'Wires', expected a table's name"),
    ("table: wires", "table: wires\n      format: avro", r":11: .*.format: found 'avro', .*can be read: json"),
    ("id: string", "id: strng", r":12: wires.topics\[0\].fields.id: found 'strng', .*; did you mean string\?"),
    (
        "id: string",
        "id: {type: string, pth: a}",
        r":12: .*fields.id.pth: unknown key, .*type, path; did you mean path\?",
    ),
    ("id: string", "id: {path: a}", r":12: wires.topics\[0\].fields.id: the key 'type' is missing, expected one of"),
    ("id: string", "id: {type: string, name: x}", r":12: wires.topics\[0\].fields.id.name: unknown key"),
    ("id: string", "id: {type: string, path: a..b}", r":12: .*fields.id.path: found 'a..b', expected keys separated"),
    ("id: string", "id: string\n        ID: string", r":13: .*fields.ID: the name differs from 'id' only by case"),
    ("id: string", "id: string\n        _id: string", r":13: .*fields._id: found '_id', expected a column's name"),
    ("id: string", "id: string\n        2: string", r":13: .*fields: found a key that is no text"),
    ('"decimal(18, 2)"', '"decimal(39,2)"', r":14: .*fields.amt: found 'decimal\(39,2\)', .*p from 1 to 38"),
    ('"decimal(18, 2)"', '"decimal(3,4)"', r":14: .*fields.amt: found 'decimal\(3,4\)', .*s from 0 to p"),
    ('"decimal(18, 2)"', "decimal", r':14: .*fields.amt: found \'decimal\', expected "decimal\(p,s\)"'),
    ("type: kafka", "type: kafka\n  update_delay: -1", r":7: wires.update_delay: found the value -1, expected seconds"),
    ("type: kafka", "type: kafka\n  update_delay: 1 year", r":7: wires.update_delay: found '1 year', .*30 minutes"),
    ("type: kafka", "type: kafka\n  update_delay: .inf", r":7: wires.update_delay: found '.inf', expected seconds"),
]
STREAM_MISTAKES = [
    ("from: orders", "from: order", r":2: orders.from: found 'order', expected a declared table: .*mean orders\?"),
    ("from: orders", "from: []", r":2: orders.from: found an empty list, expected the name of a bronze table"),
    ("from: orders", "from: ORDERS", r":2: orders.from: found 'ORDERS', .*; did you mean orders\?"),
    ("kind: changes", "kind: events", r":2: orders.from: found 'orders', expected the table of a topic.*: wires"),
    ("kind: changes", "kind: change", r":3: orders.kind: found 'change', .*; did you mean changes\?"),
    ("  amount: total\n", "", r":1: orders: the key 'amount' is missing, expected the name of a column"),
    ("orders:", "my-orders:", r":1: my-orders: found 'my-orders', expected a name"),
    ("{user: user_id}", "{User: user_id}", r":7: orders.entities.User: found 'User', expected a name"),
    ("{user: user_id}", "{user: []}", r":7: orders.entities.user: found an empty list, expected a column"),
    ("{user: user_id}", "{user: 5}", r":7: orders.entities.user: found the value 5, expected a column"),
    ("{user: user_id}", "{user: [a, a]}", r":7: orders.entities.user: found a column twice"),
    ("{user: user_id}", "{user: {key: a, name: b}}", r":7: orders.entities.user.name: unknown key"),
    ("{user: user_id}", "{user: {key: a, partitions: big}}", r":7: .*.partitions: found 'big', .*small, large"),
    (
        "{user: user_id}",
        "{user: {key: a, exists_in: {table: users}}}",
        r":7: .*.exists_in: the key 'column' is missing",
    ),
    ("{user: user_id}", "{user: {key: a, exists_in: {table: usr, column: a}}}", r":7: .*.table: .*mean users\?"),
    ("{user: user_id}", "{user: {key: a, exists_in: {table: wires, column: idd}}}", r":7: .*.column: .*mean id\?"),
    ("{user: user_id}", "{}", r":7: orders.entities: found an empty mapping, expected a mapping of entities"),
    ("{user: user_id}", "user_id", r":7: orders.entities: found 'user_id', expected a mapping of entities"),
    (
        "from: wires",
        "from: wire",
        r":9: wires.from: found 'wire', expected the table of a topic.*; did you mean wires\?",
    ),
    (
        "time: at",
        "time: att",
        r":12: wires.time: found 'att', expected a field of 'wires': id, at, .*; did you mean at\?",
    ),
    (
        "time: at",
        "time: amt",
        r":12: wires.time: found 'amt' of type decimal\(18,2\), .*timestamp, timestamptz or string",
    ),
    ("amount: amt", "amount: cur", r":13: wires.amount: found 'cur' of type string, .*int32, int64, double or decimal"),
    ("label: fraud", "label: cur", r":14: wires.label: found 'cur' of type string, .*int32, int64 or boolean"),
    ("[sender_id, cur]", "[sender_id, curr]", r":17: wires.entities.pair\[1\]: found 'curr', .*; did you mean cur\?"),
    (
        "time: at",
        "time: at\n  timezone: Europe/Pari",
        r":13: wires.timezone: found 'Europe/Pari', .*mean Europe/Paris\?",
    ),
    ("time: at", "time: at\n  timezone: ../UTC", r":13: wires.timezone: found '../UTC'"),
    ("time: at", "time: at\n  currency: usd", r":13: wires.currency: found 'usd', expected a code of three capital"),
    ("time: at", "time: at\n  currency: {column: cur}", r":13: wires.currency: the key 'rates' is missing"),
    ("time: at", "time: at\n  currency: {column: cu, rates: orders}", r":13: wires.currency.column: .*mean cur\?"),
    ("time: at", "time: at\n  currency: {column: fraud, rates: orders}", r":13: .*'fraud' of type boolean, .*string"),
    ("time: at", "time: at\n  currency: {column: cur, rates: rate}", r":13: wires.currency.rates: found 'rate'"),
    ("time: at", "time: at\n  max_amount: 0", r":13: wires.max_amount: found the value 0, expected a number above 0"),
    ("time: at", "time: at\n  max_amount: 1e999", r":13: wires.max_amount: found the value inf, expected a number"),
    ("time: at", "time: at\n  max_amount: true", r":13: wires.max_amount: found the value true, expected a number"),
    ("time: at", "time: at\n  lateness: soon", r":13: wires.lateness: found 'soon', expected seconds"),
    ("time: at", "time: at\n  max_future: [1]", r":13: wires.max_future: found a list, expected seconds"),
    ("time: at", "time: at\n  label_delay: 1:30", r":13: wires.label_delay: found '1:30', expected seconds"),
    ("time: at", "time: at\n  event: ''", r":13: wires.event: found '', expected the word for one row"),
]


@pytest.mark.parametrize("old, new, expected", SOURCE_MISTAKES, ids=[one[2][:60] for one in SOURCE_MISTAKES])
def test_mistake_in_a_source(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert mistakes(tmp_path) == []
    found = mistakes(tmp_path, SOURCES.replace(old, new, 1))
    assert [one for one in found if re.match("sources.yml" + expected, one)] == found != [], found


@pytest.mark.parametrize("old, new, expected", STREAM_MISTAKES, ids=[one[2][:60] for one in STREAM_MISTAKES])
def test_mistake_in_a_stream(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = mistakes(tmp_path, streams=STREAMS.replace(old, new, 1))
    assert [one for one in found if re.match("streams.yml" + expected, one)] == found != [], found


def test_a_misspelt_key_that_is_required_is_unknown_and_missing(tmp_path: Path) -> None:
    missing, unknown = mistakes(tmp_path, changed(SOURCES, "dsn_env:", "dsn_evn:"))
    assert missing.startswith("sources.yml:1: shop: the key 'dsn_env' is missing")
    assert re.match(r"sources.yml:3: shop.dsn_evn: unknown key, .*; did you mean dsn_env\?", unknown)
    missing, unknown = mistakes(tmp_path, streams=changed(STREAMS, "from: orders", "from_: orders"))
    assert missing.startswith("streams.yml:1: orders: the key 'from' is missing")
    assert re.match(r"streams.yml:2: orders.from_: unknown key, .*; did you mean from\?", unknown)


def test_records_are_no_changes(tmp_path: Path) -> None:
    wires = STREAMS[STREAMS.index("wires:") :]
    assert mistakes(tmp_path, streams=changed(wires, "kind: events", "kind: changes")) == [
        "streams.yml:3: wires.kind: found 'changes', expected events: records of format json are never changed"
    ]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "1: the file is empty, expected a mapping with sources by name"),
        ("# nothing\n", "1: the file is empty"),
        ("\n- shop\n", "2: found a list, expected a mapping with sources by name"),
        ("shop\n", "1: found 'shop', expected a mapping"),
        ("shop: 5\n", "1: shop: found the value 5, expected a mapping with type: postgres or kafka"),
        ("shop:\n\ttype: kafka\n", "2: not YAML: a tab; YAML is indented with spaces"),
        ("a: 1\nb: 'x\n", "2: not YAML: found unexpected end of stream"),
        ("a: 1\n---\nb: 1\n", "2: not YAML: expected a single document in the stream, but found another document"),
        ("a: *b\n", "1: not YAML: found undefined alias 'b'"),
        (b"a: 1\nb: \xff\n", "2: not UTF-8: invalid start byte"),
        ("a: 1\nb: \0\n", "2: not YAML: a character that YAML does not allow, U+0000"),
        ('a: "\\ud800"\n', "1: a: found a control character or half of a surrogate pair, expected a text"),
        ("a: &a\n  b: *a\n", "2: a.b: an alias within what it stands for, expected an end"),
        ("a: 1\nb: " + "[" * 3000, "2: not YAML: lists and mappings nested too deeply"),
        ("a: 1\n2024-01-01: 1\n? [b]\n: 1\n", "3: found a key that is no text"),
        ("a: !!python/object/apply:os.getcwd []\n", "1: a: found a YAML tag, expected a value without one"),
        ("a: !!bool [x]\n", "1: a: found a YAML tag"),
        ("a: !!int x\n", "1: a: found a YAML tag"),
        (
            BOMB,
            "1: not YAML: too many values",
        ),
    ],
)
def test_a_file_that_is_no_mapping_of_entries(tmp_path: Path, content: str | bytes, expected: str) -> None:
    found = mistakes(tmp_path, content, "{}\n")
    assert any(one.startswith("sources.yml:" + expected) for one in found), found


def test_a_missing_file_is_reported_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("{}\n")
    [found] = find_mistakes(tmp_path, {})
    assert (found.file, found.line) == ("streams.yml", 1)
    assert str(tmp_path) in found.problem
    assert [one.file for one in find_mistakes(tmp_path / "none", {})] == ["sources.yml", "streams.yml"]


def test_streams_are_not_compared_with_sources_that_cannot_be_read(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "- x\n") == ["sources.yml:1: found a list, expected a mapping with sources by name"]


@pytest.mark.parametrize(
    "value", ["postgresql://u:s3cret@h/db", "host=h password=s3cret", "s3cret here", "s3cret:5432"]
)
@pytest.mark.parametrize("key", ["dsn_env", "tables_env"])
def test_a_connection_string_is_refused_and_never_repeated(tmp_path: Path, key: str, value: str) -> None:
    values = {"dsn_env": "A", "tables_env": "B", key: f"'{value}'"}
    entry = ", ".join(f"{name}: {one}" for name, one in values.items())
    [found] = mistakes(tmp_path, f"a: {{type: postgres, {entry}}}\n", "{}\n")
    assert found.startswith(f"sources.yml:1: a.{key}: found ")
    assert ("connection string" in found) == (value != "s3cret:5432")
    assert "s3cret" not in found


@pytest.mark.parametrize(
    "sources",
    [
        "a: {type: 'postgresql://u:s3cret@h'}\n",
        "a: {type: postgres, dsn_env: A, slot: 'password=s3cret', tables: ['password=s3cret,x'], prefix: 'x=s3cret'}\n",
        "a: {type: postgres, dsn_env: A, 'password=s3cret': 1}\n'postgresql://u:s3cret@h': {type: postgres}\n",
        "a: 'postgresql://u:s3cret@h'\n",
        "'a=s3cret': {type: kafka, servers_env: A, topics: [{topic: 'x=s3cret', fields: {'x=s3cret': date}}]}\n",
    ],
)
def test_a_text_that_may_be_a_secret_is_never_repeated(tmp_path: Path, sources: str) -> None:
    with pytest.raises(PipelineError) as raised:
        load(tmp_path, sources, "{}\n")
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_two_sources_with_one_slot(tmp_path: Path) -> None:
    two = "a: {type: postgres, dsn_env: FRAUD_POSTGRES_DSN}\nb: {type: postgres, dsn_env: FRAUD_POSTGRES_DSN}\n"
    [found] = mistakes(tmp_path, two, "{}\n")
    assert found.startswith("sources.yml:2: b.slot: the replication slot fraud_lakehouse of FRAUD_POSTGRES_DSN is also")
    assert mistakes(tmp_path, two.replace("DSN}\nb", "DSN, slot: other}\nb"), "{}\n") == []


def test_one_topic_declared_twice(tmp_path: Path) -> None:
    topic = "{type: kafka, servers_env: S, topics: [{topic: %s, topic_env: %s, table: %s, fields: {x: int64}}]}\n"
    two = "a: " + topic % ("t", "A", "x") + "b: " + topic % ("u", "B", "y")
    assert mistakes(tmp_path, two, "{}\n") == []
    [found] = mistakes(tmp_path, two, "{}\n", {"B": "t"})
    assert found.startswith("sources.yml:2: b.topics[0]: the topic 't' is also that of a.topics[0]")


def test_two_databases_with_the_same_tables_need_a_prefix(tmp_path: Path) -> None:
    two = "a: {type: postgres, dsn_env: A, tables: [users]}\nb: {type: postgres, dsn_env: B, tables: [users]}\n"
    [found] = mistakes(tmp_path, two, "{}\n")
    assert re.match(r"sources.yml:2: b.tables\[0\]: the bronze table 'users' is also that of a.tables\[0\]", found)
    sources, streams = two.replace("B,", "B, prefix: b_,"), changed(STREAMS, "from: orders", "from: b_users")
    assert load(tmp_path, sources, streams[: streams.index("wires:")]).streams["orders"].from_ == "b_users"


def test_a_table_of_a_database_with_a_prefix_begins_with_it(tmp_path: Path) -> None:
    sources = "a: {type: postgres, dsn_env: A, prefix: a_}\n"
    orders = STREAMS[: STREAMS.index("wires:")]
    [found] = mistakes(tmp_path, sources, orders)
    assert found.startswith("streams.yml:2: orders.from: found 'orders'")
    assert mistakes(tmp_path, sources, changed(orders, "from: orders", "from: a_orders")) == []


def test_two_streams_of_events_of_one_table(tmp_path: Path) -> None:
    again = STREAMS[STREAMS.index("wires:") :].replace("wires:", "again:", 1)
    [found] = mistakes(tmp_path, streams=STREAMS + again)
    assert found.startswith("streams.yml:19: again.from: the table is also that of wires")


@pytest.mark.parametrize(
    "variable, value, line, problem",
    [
        ("FRAUD_POSTGRES_SLOT", "My Slot", "bank:", "bank: found 'My Slot', expected a slot name"),
        ("FRAUD_POSTGRES_TABLES", '"a', "tables_env:", "bank.tables_env: found '\"a', expected a comma list"),
        ("FRAUD_KAFKA_TOPIC", "a b", "topic_env:", "cards.topics[0].topic_env: found 'a b' in FRAUD_KAFKA_TOPIC"),
    ],
)
def test_a_wrong_value_of_a_variable(variable: str, value: str, line: str, problem: str) -> None:
    [found] = find_mistakes(SHIPPED, {variable: value})
    assert found.problem.startswith(problem)
    assert (SHIPPED / "sources.yml").read_text().splitlines()[found.line - 1].strip().startswith(line)


# --- where the folder is, and the command -----------------------------------------------------------------------------


def test_the_folder_is_named_or_here_or_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder({"FRAUD_PIPELINE": "elsewhere"}) == Path("elsewhere")
    (tmp_path / "pipeline").mkdir()
    assert default_folder({"FRAUD_PIPELINE": ""}) == SHIPPED
    write(tmp_path / "pipeline")
    assert default_folder({}).resolve() == tmp_path / "pipeline"


def test_no_folder_anywhere_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fraud_lakehouse.pipeline.load.__file__", str(tmp_path / "a" / "b" / "load.py"))
    with pytest.raises(SettingsError, match="FRAUD_PIPELINE"):
        default_folder({})


def check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fraud-lakehouse", "pipeline", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_counts_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAUD_PIPELINE", str(write(tmp_path)))
    assert check(monkeypatch) == 0
    assert capsys.readouterr().out == "2 sources, 2 streams: no mistakes\n"


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
