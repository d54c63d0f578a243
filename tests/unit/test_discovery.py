"""Proposals for databases and topics that nobody here designed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fraud_lakehouse.discovery.facts import Cluster
from fraud_lakehouse.discovery.folder import ProposalError, file_texts, write_folder
from fraud_lakehouse.discovery.inspection import servers_of
from fraud_lakehouse.discovery.proposal import propose
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.pipeline import KafkaSource, PipelineError, PostgresSource, load_pipeline
from tests.unit.discovered import cluster, database, declared, entry, proposed, table

PAGILA = (
    table("customer", "customer_id int key", "email text null", "last_update timestamptz null"),
    table("staff", "staff_id int key", "first_name text", "password text null", "last_update timestamptz"),
    table("film", "film_id int key", "rental_rate numeric", "replacement_cost numeric", "last_update timestamptz"),
    table("inventory", "inventory_id int key", "film_id int -> film.film_id", "last_update timestamptz"),
    table(
        "rental",
        "rental_id int key",
        "rental_date timestamptz",
        "inventory_id int -> inventory.inventory_id",
        "customer_id int -> customer.customer_id",
        "return_date timestamptz null",
    ),
    table(
        "payment",
        "payment_id int key",
        "customer_id int -> customer.customer_id 150/200",
        "staff_id int -> staff.staff_id 2/200",
        "rental_id int -> rental.rental_id 200/200",
        "amount numeric",
        "payment_date timestamptz",
    ),
)
NO_KEY = "it has no primary key -> ALTER TABLE ..."
BENCH = (
    table("pgbench_accounts", "aid int key", "bid int null", "abalance int null", "filler text null"),
    table("pgbench_branches", "bid int key", "bbalance int null", "filler text null"),
    table("pgbench_tellers", "tid int key", "bid int null", "tbalance int null", "filler text null"),
)
HISTORY = ("tid int null", "bid int null", "aid int null", "delta int null", "mtime timestamp null", "filler text null")
SHOP = (
    table("auth_user", "id int key", "password text", "username text", "email text", "date_joined timestamptz"),
    table("django_content_type", "id int key", "app_label text", "model text"),
    table("django_session", "session_key text key", "session_data text", "expire_date timestamptz"),
    table("shop_product", "id int key", "name text", "price numeric", "created_at timestamptz", "category_id int"),
    table(
        "shop_order",
        "id int key",
        "user_id int -> auth_user.id 20/200",
        "total numeric",
        "currency text",
        "created_at timestamptz",
        "updated_at timestamptz",
        "is_fraud boolean null",
    ),
    table("shop_orderitem", "id int key", "order_id int -> shop_order.id", "quantity int", "price numeric"),
    table(
        "shop_payment",
        "id int key",
        "order_id int -> shop_order.id 200/200",
        "amount numeric",
        "card_last4 text null 50/200",
        "paid_at timestamp null",
        "created timestamp",
    ),
)


def person(number: int) -> dict[str, object]:
    names = "name address birthdate phone_number job company ssn website username".split()
    return {"id": f"P{number}", "bank_account": f"IBAN{number}", "email": "a@b.example"} | dict.fromkeys(names, "x")


TRANSFERS = [
    {
        "transaction_id": f"T{number:06}",
        "sender_bank_account": f"IBAN{number % 30}",
        "sender_details": person(number % 30),
        "receiver_bank_account": f"IBAN{number % 17}",
        "receiver_details": person(number % 17),
        "amount": number / 100,
        "status": "done",
        "evaluation": "unidentified",
        "transfer_date": f"2024-01-01T00:{number % 60:02}:00",
        "sender_bank": f"bank{number % 4}",
        "tags": ["a"],
    }
    for number in range(1, 101)
]


def text_of(*facts: object) -> dict[str, str]:
    databases = [one for one in facts if not isinstance(one, Cluster)]
    clusters = [one for one in facts if isinstance(one, Cluster)]
    return file_texts(propose(databases, clusters), None, {})  # type: ignore[arg-type]


def test_the_payments_of_a_rental_shop(tmp_path: Path) -> None:
    pipeline = proposed(tmp_path, database(*PAGILA))
    [source], [stream] = pipeline.sources.values(), pipeline.streams.values()
    assert isinstance(source, PostgresSource)
    assert (source.name, source.dsn_env) == ("bank", "BANK_DSN")
    assert set(source.tables) == {"payment", "customer", "rental"}
    assert (stream.name, stream.from_, stream.kind) == ("bank_payments", "payment", "changes")
    assert (stream.id, stream.time, stream.amount) == ("payment_id", "payment_date", "amount")
    assert {name: one.key for name, one in stream.entities.items()} == {
        "customer": ("customer_id",),
        "staff": ("staff_id",),
    }
    assert next(iter(stream.entities)) == "customer"


def test_a_table_with_a_password_is_left_out_though_payments_refer_to_it() -> None:
    sources = text_of(database(*PAGILA))["sources.yml"]
    assert re.search(r"^    # - staff # payment\.staff_id refers to it; its column password would be", sources, re.M)


def test_a_table_without_a_key_is_a_commented_choice_with_its_remedy(tmp_path: Path) -> None:
    texts = text_of(database(*BENCH, table("pgbench_history", *HISTORY, problem=NO_KEY)))
    assert f"    # - pgbench_history # {NO_KEY}" in texts["sources.yml"]
    found = entry(texts["streams.yml"], "bank_payments")
    assert f"  from: pgbench_history # not a stream yet: {NO_KEY}" in found
    assert "  time: mtime" in found
    pipeline = proposed(tmp_path, database(*BENCH, table("pgbench_history", *HISTORY, problem=NO_KEY)))
    assert pipeline.streams == {}


def test_a_table_with_a_key_of_two_columns_is_a_commented_choice() -> None:
    columns = ("payment_date timestamptz key", "payment_id int key", "customer_id int", "amount numeric")
    found = entry(text_of(database(table("payment", *columns)))["streams.yml"], "bank_payments")
    assert (
        "not a stream yet: its key has 2 columns (payment_date, payment_id), and a stream needs a key of one" in found
    )


def test_keys_of_other_tables_are_known_by_their_names(tmp_path: Path) -> None:
    history = table("pgbench_history", *HISTORY, "history_id int key")
    [stream] = proposed(tmp_path, database(*BENCH, history)).streams.values()
    assert (stream.id, stream.time, stream.amount) == ("history_id", "mtime", "delta")
    assert {name: one.key for name, one in stream.entities.items()} == {
        "account": ("aid",),
        "teller": ("tid",),
        "branch": ("bid",),
    }
    assert next(iter(stream.entities)) == "account"
    assert stream.entities["account"].exists_in is None  # no row was sampled, so nothing shows that it must be known


def test_orders_and_payments_of_a_web_shop(tmp_path: Path) -> None:
    pipeline = proposed(tmp_path, database(*SHOP))
    [source] = pipeline.sources.values()
    assert isinstance(source, PostgresSource)
    assert set(source.tables) == {"shop_order", "shop_payment", "shop_product"}
    assert set(pipeline.streams) == {"shop_order_payments", "shop_payments"}
    orders, payments = pipeline.streams["shop_order_payments"], pipeline.streams["shop_payments"]
    assert (orders.time, orders.amount, orders.label) == ("created_at", "total", "is_fraud")
    assert list(orders.entities) == ["user"]
    assert (payments.time, payments.amount) == ("created", "amount")
    assert list(payments.entities) == ["card"]  # every payment has an order of its own, which has no past
    streams = (tmp_path / "streams.yml").read_text()
    assert "  # currency: {column: currency, rates: THE_TABLE, to: USD}" in entry(streams, "shop_order_payments")
    assert "  # time: paid_at" in entry(streams, "shop_payments")
    assert "  timezone: UTC # created has no zone" in entry(streams, "shop_payments")
    assert "# shop_product_payments:" in streams


def test_a_topic_of_nested_records(tmp_path: Path) -> None:
    pipeline = proposed(tmp_path, cluster(bank__transactions=TRANSFERS))
    [source], [stream] = pipeline.sources.values(), pipeline.streams.values()
    assert isinstance(source, KafkaSource)
    [topic] = source.topics
    assert (source.name, source.servers_env) == ("wires", "WIRES_SERVERS")
    assert (topic.topic, topic.table) == ("bank-transactions", "bank_transactions")
    fields = {name: (one.path, one.type) for name, one in topic.fields.items()}
    assert fields["sender_id"] == ("sender_details.id", "string")
    assert fields["sender_details_bank_account"] == ("sender_details.bank_account", "string")
    assert fields["sender_bank_account"] == ("sender_bank_account", "string")
    assert fields["amount"] == ("amount", "double")
    assert fields["transfer_date"] == ("transfer_date", "timestamp")
    assert "tags" not in fields
    assert (stream.from_, stream.kind, stream.id) == ("bank_transactions", "events", "transaction_id")
    assert (stream.time, stream.amount) == ("transfer_date", "amount")
    assert next(iter(stream.entities)) == "sender"
    assert {"sender", "receiver", "sender_bank_account", "receiver_bank_account"} <= set(stream.entities)


def test_a_record_that_was_sent_twice_does_not_hide_the_id(tmp_path: Path) -> None:
    [stream] = proposed(tmp_path, cluster(t=[*TRANSFERS, *TRANSFERS[:3]])).streams.values()
    assert stream.id == "transaction_id"
    assert proposed(tmp_path / "twice", cluster(t=[*TRANSFERS, *TRANSFERS])).streams == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([{"before": None, "after": {"id": 1}, "op": "c"}], "change envelopes (Debezium)"),
        ([{"schema": {}, "payload": {"before": None, "after": {"id": 1}, "op": "c"}}], "change envelopes (Debezium)"),
        ([b"\0\0\0\0\x07abc"], "schema registry (Avro)"),
        ([b"id,amount"], "not JSON objects"),
        ([b"[1, 2]"], "not JSON objects"),
        ([None], "no records"),
        ([{}], "no field of its records"),
    ],
)
def test_a_topic_that_cannot_be_read_is_commented_out_with_the_reason(values: list[object], reason: str) -> None:
    texts = text_of(cluster(things=values))  # type: ignore[arg-type]
    found = entry(texts["sources.yml"], "wires")
    assert re.search(rf"^    # - topic: things # .*{re.escape(reason)}", found, re.M)
    assert "\n{} # nothing is proposed" in texts["sources.yml"]


def test_every_line_of_a_stream_says_why() -> None:
    streams = text_of(database(*PAGILA, *BENCH), database(*SHOP, variable="SHOP_DSN"), cluster(t=TRANSFERS))
    lines = [line for line in streams["streams.yml"].splitlines() if line.strip() and not line.startswith("#")]
    silent = [line for line in lines if " # " not in line.replace("  # currency", "")]
    assert [line for line in silent if not re.fullmatch(r"\w+:|  # currency: .*", line)] == []


def test_second_databases_have_a_prefix(tmp_path: Path) -> None:
    pipeline = proposed(tmp_path, database(*PAGILA), database(*PAGILA, variable="OTHER_DSN"))
    assert [one.prefix for one in pipeline.sources.values() if isinstance(one, PostgresSource)] == ["", "other_"]
    assert {one.from_ for one in pipeline.streams.values()} == {"payment", "other_payment"}


def test_what_keeps_a_database_from_being_captured_is_in_its_entry() -> None:
    proposal = propose([database(*PAGILA, problems=["wal_level is replica -> ALTER SYSTEM ..."])], [])
    assert "  # before it can be captured: wal_level is replica -> ALTER SYSTEM ...\n" in str(proposal.sources[0])


def test_entries_of_a_folder_stay_and_new_ones_come_behind_them(tmp_path: Path) -> None:
    proposed(tmp_path, database(*PAGILA))
    before = {name: (tmp_path / name).read_text() for name in ("sources.yml", "streams.yml")}
    present = load_pipeline(tmp_path, {})
    sources, streams = tuple(present.sources.values()), tuple(present.streams.values())
    again = propose([database(*PAGILA)], [], sources, streams)
    assert (again.sources, again.streams) == ([], [])
    more = propose([database(*PAGILA)], [cluster(t=TRANSFERS)], sources, streams)
    pipeline = declared(tmp_path, more)
    assert list(pipeline.sources) == ["bank", "wires"]
    assert list(pipeline.streams) == ["bank_payments", "wires_payments"]
    for name, text in before.items():
        assert (tmp_path / name).read_text().startswith(text.rstrip("\n"))


def test_entries_take_the_place_of_an_empty_file(tmp_path: Path) -> None:
    for name in ("sources.yml", "streams.yml"):
        (tmp_path / name).write_text("# nothing yet\n{} # none\n")
    pipeline = proposed(tmp_path, database(*PAGILA))
    assert list(pipeline.streams) == ["bank_payments"]
    assert (tmp_path / "streams.yml").read_text().startswith("# nothing yet\n")


def test_a_file_that_entries_cannot_be_appended_to_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("{bank: {type: postgres, dsn_env: X_DSN}}\n")
    (tmp_path / "streams.yml").write_text("{}\n")
    present = load_pipeline(tmp_path, {})
    proposal = propose([database(*PAGILA)], [], tuple(present.sources.values()))
    with pytest.raises(ProposalError, match=r"new folder"):
        file_texts(proposal, tmp_path, {})


def test_a_stream_of_a_declared_source_is_added_only_if_its_table_is_captured(tmp_path: Path) -> None:
    source = PostgresSource(name="old", dsn_env="BANK_DSN", tables=("customer",))
    proposal = propose([database(*PAGILA)], [], [source])
    assert (proposal.sources, proposal.streams) == ([], [])
    assert proposal.notes == ["old has no payment in its tables, which may be payments: add them"]
    open_source = PostgresSource(name="old", dsn_env="BANK_DSN", prefix="b_")
    [stream] = propose([database(*PAGILA)], [], [open_source]).streams
    assert "  from: b_payment #" in str(stream)


def test_names_of_the_project_are_not_given_again() -> None:
    facts = [database(*PAGILA)], [cluster(transactions=TRANSFERS)]
    proposal = propose(*facts, shipped={"bank_payments", "transactions", "wires_payments_features"})
    assert [one.name for one in proposal.streams] == ["wires_payments_2", "bank_payments_2"]
    assert "      table: transactions_2\n" in str(proposal.sources[0])


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    texts = file_texts(propose([database(*PAGILA)], []), None, {})
    assert len(write_folder(tmp_path, texts)) == 2
    assert write_folder(tmp_path, texts) == []


def test_connections_that_are_inspected() -> None:
    environment = {"FRAUD_POSTGRES_DSN": "x", "SHOP_DSN": "y", "WIRES_SERVERS": "z", "WIRES_CONFIG_FILE": "f"}
    assert servers_of((), (), None, environment).databases == ("FRAUD_POSTGRES_DSN",)
    named = servers_of(("SHOP_DSN",), ("WIRES_SERVERS",), None, environment)
    assert (named.databases, named.clusters) == (("SHOP_DSN",), {"WIRES_SERVERS": "WIRES_CONFIG_FILE"})
    for postgres, kafka in (((), ()), (("OTHER_DSN",), ()), (("postgresql://u:secret@h/d",), ())):
        with pytest.raises(SettingsError) as raised:
            servers_of(postgres, kafka, None, {"WIRES_CONFIG_FILE": "f"})
        assert "secret" not in str(raised.value)


def test_a_folder_with_mistakes_is_not_added_to(tmp_path: Path) -> None:
    from fraud_lakehouse.discovery import present_entries

    assert present_entries(tmp_path, {}) is None
    (tmp_path / "sources.yml").write_text("bank: {type: postgres}\n")
    with pytest.raises(PipelineError, match="dsn_env"):
        present_entries(tmp_path, {})
