"""Mistakes in a pipeline folder: the file, the line and the words of each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from fraud_lakehouse.pipeline import PipelineError, find_mistakes, load_pipeline
from tests.declared import SHIPPED, SOURCES, STREAMS, changed, write

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join(10 * [f'*a{level - 1}'])}]\n" for level in range(1, 10)
)


def mistakes(
    folder: Path,
    sources: str | bytes = SOURCES,
    streams: str | bytes = STREAMS,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    return [str(one) for one in find_mistakes(write(folder, sources, streams), environment or {})]


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
    ("[orders, users, crm.users]", "[orders, 'a,b']", r":4: shop.tables\[1\]: found 'a,b', expected \[schema"),
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
    (
        "table: wires",
        "table: wires\n      format: avr",
        r":11: .*.format: found 'avr', .*avro.*; did you mean avro\?",
    ),
    (
        "table: wires",
        "table: wires\n      format: avro",
        r":8: wires.topics: the topic 'wires' is Avro, .* registry_env",
    ),
    ("table: wires", "table: wires\n      format: debezum", r":11: .*.format: .*; did you mean debezium\?"),
    (
        "table: wires",
        "table: wires\n      key: [id]",
        r":11: .*.key: found it with format: json, expected it only with",
    ),
    ("id: string", "id: strng", r":12: wires.topics\[0\].fields.id: found 'strng', .*; did you mean string\?"),
    (
        "id: string",
        "id: {type: string, pth: a}",
        r":12: .*fields.id.pth: unknown key, .*type, path, optional.*; did you mean path\?",
    ),
    ("id: string", "id: {path: a}", r":12: wires.topics\[0\].fields.id: the key 'type' is missing, expected one of"),
    ("id: string", "id: {type: string, name: x}", r":12: wires.topics\[0\].fields.id.name: unknown key"),
    ("id: string", "id: {type: string, path: a..b}", r":12: .*fields.id.path: found 'a..b', expected keys separated"),
    (
        "id: string",
        "id: {type: string, path: sender}",
        r":1[12]: .*fields: the path 'sender.id' of 'sender_id' lies inside",
    ),
    (
        "id: string",
        "id: {type: string, path: sender.id.x}",
        r":1[12]: .*fields: the path 'sender.id' of .* has inside it",
    ),
    ("id: string", "id: {type: string, path: at}", r":1[12]: .*fields: the path 'at' of 'at' is also that of 'id'"),
    (
        "id: string",
        "id: {type: string, path: sender.0}",
        r":1[12]: .*fields: found the number 0 where another path has",
    ),
    ("id: string", "id: {type: string, path: '0.id'}", r":1[12]: .*fields: found the number 0 at the beginning"),
    ("id: string", "id: {type: string, path: 'a\"b'}", r":1[12]: .*fields: the path .* has a quote"),
    (
        "id: string",
        "id: {type: string, optional: maybe}",
        r":12: .*fields.id.optional: found 'maybe', expected true or",
    ),
    ("id: string", "id: {type: string, unit: ms}", r":12: .*fields.id.unit: .*of type string, expected it only for"),
    ("id: string", "id: {type: timestamp, unit: h}", r":12: .*fields.id.unit: found 'h', expected s, ms, us or ns"),
    ("id: string", "id: {type: int64, form: x}", r":12: .*fields.id.form: found 'x', expected the text"),
    ("id: string", "id: {type: int64, minimum: 1.5}", r":12: .*fields.id.minimum: .*expected an integer of 64 bits"),
    ("id: string", "id: {type: double, maximum: 1}", r":12: .*fields.id.maximum: .*of type double, expected it only"),
    ("id: string", "id: string\n        ID: string", r":13: .*fields.ID: the name differs from 'id' only by case"),
    ("id: string", "id: string\n        _id: string", r":13: .*fields._id: found '_id', expected a column's name"),
    ("id: string", "id: string\n        2: string", r":13: .*fields: found a key that is no text"),
    ('"decimal(18, 2)"', '"decimal(39,2)"', r":14: .*fields.amt: found 'decimal\(39,2\)', .*p from 1 to 38"),
    ('"decimal(18, 2)"', '"decimal(3,4)"', r":14: .*fields.amt: found 'decimal\(3,4\)', .*s from 0 to p"),
    ('"decimal(18, 2)"', "decimal", r':14: .*fields.amt: found \'decimal\', expected "decimal\(p,s\)"'),
    ("type: kafka", "type: kafka\n  update_delay: -1", r":7: wires.update_delay: found the value -1, expected seconds"),
    (
        "type: kafka",
        "type: kafka\n  update_delay: true",
        r":7: wires.update_delay: found the value true, expected seconds",
    ),
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
    ("time: at", "time: at\n  currency: {column: cur, to: EUR}", r":13: wires.currency: the key 'rates' is missing"),
    ("time: at", "time: at\n  currency: {column: cur, rates: orders}", r":13: wires.currency: the key 'to' is missing"),
    ("time: at", "time: at\n  currency: {column: cur, rates: orders, to: eur}", r":13: .*.to: found 'eur', .*capital"),
    (
        "time: at",
        "time: at\n  currency: {column: cu, rates: orders, to: EUR}",
        r":13: wires.currency.column: .*mean cur\?",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: fraud, rates: orders, to: EUR}",
        r":13: .*'fraud' of type boolean, .*string",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: rate, to: EUR}",
        r":13: wires.currency.rates: found 'rate'",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: 5, to: EUR}",
        r":13: wires.currency.rates: found the value 5, .*, or a mapping with table, currency, from and rate",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: {table: wires, currency: cur, form: at, rate: amt}, to: EUR}",
        r":13: wires.currency.rates(.form: unknown key, .*mean from\?|: found 'valid_from', expected a field)",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: {table: wires, currency: cur, from: at, rate: am}, to: EUR}",
        r":13: wires.currency.rates.rate: found 'am', expected a field of 'wires': .*; did you mean amt\?",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: {table: wires, currency: cur, from: at, rate: cur}, to: EUR}",
        r":13: wires.currency.rates.rate: found 'cur' of type string, .*int32",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: {table: wires, currency: cur, from: at}, to: EUR}",
        r":13: wires.currency.rates: found 'rate', expected a field of 'wires'",
    ),
    (
        "time: at",
        "time: at\n  currency: {column: cur, rates: {table: wire}, to: EUR}",
        r":13: wires.currency.rates.table: found 'wire', .*; did you mean wires\?",
    ),
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


def test_a_table_of_a_topic_has_a_plain_name(tmp_path: Path) -> None:
    [found] = mistakes(tmp_path, changed(SOURCES, "table: wires", "table: Wires"), "{}\n")
    assert found.startswith("sources.yml:10: wires.topics[0].table: found 'Wires', expected a table's name of a-z")


@pytest.mark.parametrize("key", ["<column>", "<constant>", "<", "[key]", "name"])
def test_an_unknown_key_may_be_any_text(tmp_path: Path, key: str) -> None:
    sources = changed(SOURCES, "dsn_env: SHOP_DSN", f"dsn_env: SHOP_DSN\n  '{key}': 1")
    [found] = mistakes(tmp_path, sources)
    assert re.match(r"sources.yml:4: shop\S+ unknown key", found)
    currency = f"time: at\n  currency: {{column: cur, rates: orders, to: EUR, '{key}': 1}}"
    [found] = mistakes(tmp_path, streams=changed(STREAMS, "time: at", currency))
    assert re.match(r"streams.yml:13: wires.currency\S+ unknown key", found)


def test_a_name_that_is_not_plain_is_quoted_and_escaped(tmp_path: Path) -> None:
    sources = changed(SOURCES, "        at: timestamp\n", '        "\\x80\\n": timestamp\n')
    field, column = mistakes(tmp_path, sources)
    assert field.startswith(
        r"sources.yml:13: wires.topics[0].fields.'\x80\n': found '\x80\n', expected a column's name"
    )
    assert r"expected a field of 'wires': id, '\x80\n', amt" in column


def test_records_are_no_changes(tmp_path: Path) -> None:
    wires = STREAMS[STREAMS.index("wires:") :]
    assert mistakes(tmp_path, streams=changed(wires, "kind: events", "kind: changes")) == [
        "streams.yml:3: wires.kind: found 'changes', expected events: records of this format are never changed"
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
        ('"\\ud800": 1\n', "1: found a key that is no text"),
        ("a:\n  type: kafka\n  servers_env: A\n  topics:\n    -\n", "5: a.topics[0]: found nothing (null)"),
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
        "a: {type: kafka, servers_env: A, topics: [{topic: t, table: wires, fields: {'x=s3cret': string}}]}\n",
        "a: {type: postgres, dsn_env: A, tables: ['x=s3cret', \"'orders'=s3cret\"]}\n",
        "'a=s3cret': {type: kafka, servers_env: A, topics: [{topic: 'x=s3cret', fields: {'x=s3cret': date}}]}\n",
    ],
)
def test_a_text_that_may_be_a_secret_is_never_repeated(tmp_path: Path, sources: str) -> None:
    with pytest.raises(PipelineError) as raised:
        load_pipeline(write(tmp_path, sources), {})
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_source_of_an_unknown_type_may_have_any_table(tmp_path: Path) -> None:
    orders = STREAMS[: STREAMS.index("wires:")]
    [found] = mistakes(tmp_path, "shop: {type: postgers, dsn_env: A}\n", orders)
    assert found.startswith("sources.yml:1: shop.type: found 'postgers'")


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
    assert mistakes(tmp_path, sources, streams[: streams.index("wires:")]) == []


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


@pytest.mark.parametrize(
    "old, new, expected",
    [
        (
            "table: wires",
            "table: wires\n      format: debezium\n      key: [idd]",
            r":1[12]: .*.key: found 'idd', expected a declared field: .*; did you mean id\?",
        ),
        (
            "table: wires",
            "table: wires\n      format: debezium\n      key_format: jso",
            r":12: .*.key_format: found 'jso', .*; did you mean json\?",
        ),
        (
            "table: wires",
            "table: wires\n      format: debezium\n      decimals: precize",
            r":12: .*.decimals: found 'precize', .*precise, double, string; did you mean precise\?",
        ),
        (
            "table: wires",
            "table: wires\n      format: debezium\n      binaries: base46",
            r":12: .*.binaries: found 'base46', .*; did you mean base64\?",
        ),
        (
            "table: wires",
            "table: wires\n      format: debezium\n      key_format: avro",
            r":8: wires.topics: .* is Avro, expected registry_env",
        ),
    ],
)
def test_mistake_in_a_topic_of_change_events(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = mistakes(tmp_path, changed(SOURCES, old, new), STREAMS.partition("wires:")[0])
    assert len(found) == 1
    assert re.match("sources.yml" + expected, found[0]), found


def of_change_topic(tmp_path: Path, topic: str = "", stream: str = "kind: changes") -> list[str]:
    """Mistakes of a pipeline whose stream `wires` is of a topic of change events."""
    sources = changed(SOURCES, "table: wires", f"table: wires\n      format: debezium{topic}")
    return mistakes(tmp_path, sources, changed(STREAMS, "from: wires\n  kind: events", f"from: wires\n  {stream}"))


def test_a_stream_may_be_of_a_topic_of_change_events_with_a_key(tmp_path: Path) -> None:
    assert of_change_topic(tmp_path, "\n      key: [id]") == []
    (no_key,) = of_change_topic(tmp_path)
    assert re.match(r"streams.yml:9: wires.from: the topic of 'wires' declares no key, expected `key: \[id\]`", no_key)
    (wrong_kind,) = of_change_topic(tmp_path, "\n      key: [id]", "kind: events")
    assert re.match(r"streams.yml:10: wires.kind: found 'events', expected changes", wrong_kind)


LABELS = """\
chargebacks:
  from: wires
  stream: wires
  transaction_id: id
  is_fraud: fraud
"""
LABEL_MISTAKES = [
    ("from: wires", "from: wire", r":2: chargebacks.from: found 'wire', expected a declared table.*did you mean wires"),
    ("stream: wires", "stream: wire", r":3: .*found 'wire', expected a stream of streams.yml.*did you mean"),
    ("stream: wires", "stream: {column: no}", r":3: chargebacks.stream.column: found 'no', expected a field of"),
    ("stream: wires", "stream: {colum: id}", r":3: chargebacks.stream: the key 'column' is missing"),
    (
        "stream: wires\n",
        "stream: wires\n  origin: bank\n",
        r":4: .*found 'bank', expected one of: source, charge",
    ),
    ("transaction_id: id", "transaction_id: no", r":4: chargebacks.transaction_id: found 'no', expected a field of"),
    ("  transaction_id: id\n", "", r":1: chargebacks: the key 'transaction_id' is missing"),
    ("is_fraud: fraud", "is_fraud: 1", r":5: .*found the value 1, expected the name of a column, or true or false"),
    ("is_fraud: fraud", "is_fraud: at", r":5: chargebacks.is_fraud: found 'at' of type timestamp, expected a field of"),
    ("is_fraud: fraud", "is_fraud: fraud\n  known: at", r":6: chargebacks.known: unknown key, .*did you mean known_at"),
]


@pytest.mark.parametrize("old, new, expected", LABEL_MISTAKES)
def test_mistake_in_a_table_of_labels(tmp_path: Path, old: str, new: str, expected: str) -> None:
    (tmp_path / "labels.yml").write_text(changed(LABELS, old, new))
    assert any(re.match(f"labels.yml{expected}", one) for one in mistakes(tmp_path)), mistakes(tmp_path)


def test_a_table_of_labels_is_read_with_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "labels.yml").write_text(LABELS)
    (table,) = load_pipeline(write(tmp_path), {}).labels.values()
    assert (table.origin, table.known_at, table.is_fraud) == ("chargeback", None, "fraud")
