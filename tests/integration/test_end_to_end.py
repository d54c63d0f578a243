"""PostgreSQL and Kafka to gold, through the same cycle every way of running uses; the source itself is the oracle."""

from __future__ import annotations

import json
import random
import shutil
import threading
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import psycopg
import pytest
from deltalake import DeltaTable

from fraud_lakehouse.demo.card_record import encode
from fraud_lakehouse.live import Cycle
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sources.postgres.names import bronze_name
from tests.fixtures_kafka import Broker, card

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

NUMERIC = 1700
"""Oid of the type."""

REFERENCE = """
    with avg_amount as (select user_id, avg(amount) as average from transactions group by user_id)
    select t.transaction_id, t.user_id, t.amount, t.transaction_date, u.name, u.email, u.registration_date,
        coalesce(t.amount > 3 * a.average, false) as is_anomaly, t.amount - a.average as amount_diff
    from transactions t join users u on u.user_id = t.user_id join avg_amount a on a.user_id = t.user_id
    order by t.transaction_id
"""


def create_bank(dsn: str, users: int, transactions: int) -> None:
    """The reference system's tables with their first rows."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "create table users (user_id serial primary key, name varchar(100), email varchar(100),"
            " registration_date timestamp default now())"
        )
        connection.execute(
            "create table transactions (transaction_id serial primary key, user_id int,"
            " transaction_date timestamp default now(), amount decimal(10,2))"
        )
        connection.execute(
            "insert into users (name, email) select 'U' || i, 'u' || i || '@x' from generate_series(1, %s) i", [users]
        )
        connection.execute(
            "insert into transactions (user_id, transaction_date, amount) select 1 + i %% %s,"
            " timestamp '2026-01-01' + i * interval '7 minutes', 10 + i %% 990 from generate_series(1, %s) i",
            [users, transactions],
        )


def operate(dsn: str, seed: int, operations: int) -> None:
    """A writer: random inserts, updates (also of user and key), deletes, some rolled back, some in one transaction."""
    dice = random.Random(seed)
    with psycopg.connect(dsn) as connection:
        for _ in range(operations):
            for _ in range(dice.choice([1, 1, 1, 4])):
                kind = dice.random()
                some = "(select transaction_id from transactions order by md5(transaction_id::text || %s) limit 1)"
                if kind < 0.5:
                    connection.execute(
                        "insert into transactions (user_id, transaction_date, amount) values (%s, %s, %s)",
                        [dice.randint(1, 25), f"2026-0{dice.randint(1, 9)}-11", round(dice.uniform(0.01, 9999), 2)],
                    )
                elif kind < 0.75:
                    connection.execute(
                        f"update transactions set user_id = %s, amount = %s where transaction_id = {some}",
                        [dice.randint(1, 25), dice.choice([None, 12.5, 900]), str(dice.random())],
                    )
                elif kind < 0.8:
                    connection.execute(
                        "update transactions set transaction_id = transaction_id + 1000000"
                        f" where transaction_id = {some} and transaction_id < 1000000",
                        [str(dice.random())],
                    )
                else:
                    connection.execute(f"delete from transactions where transaction_id = {some}", [str(dice.random())])
            if dice.random() < 0.1:
                connection.rollback()
            else:
                connection.commit()


def source_rows(dsn: str, table: str, key: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"select * from {table} order by {key}").fetchall()


def lake_rows(settings: Settings, table: str, key: str) -> list[tuple[object, ...]]:
    return pl.read_delta(f"{settings.lake}/silver/{table}").sort(key).rows()


def content(settings: Settings, layer: str, table: str) -> pl.DataFrame:
    """A table's rows in a fixed order, without the times at which they were computed; the newest version of each."""
    frame = pl.read_delta(f"{settings.lake}/{layer}/{table}")
    if table == "transaction_feature_vectors":  # how many versions there are depends on the builds
        frame = (
            frame.sort("version").unique("transaction_id", keep="last").filter(~pl.col("is_deleted")).drop("version")
        )
    return frame.drop(
        "scored_at", "fired_at", "known_at", "recorded_at", "time_to_detect_ms", "_commit", strict=False
    ).sort(pl.all(), nulls_last=True)


def test_silver_equals_the_source_under_concurrent_writers(database: str, tmp_path: Path) -> None:
    create_bank(database, users=20, transactions=300)
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database, batch_rows=200)
    writers = [threading.Thread(target=operate, args=(database, seed, 60)) for seed in (1, 2, 3)]
    with Cycle(settings) as cycle:
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            cycle.follow(cycle.run(cycle.capture()))
        for writer in writers:
            writer.join()
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("update users set name = 'renamed' where user_id = 3")
            connection.execute("delete from users where user_id = 4")
        cycle.catch_up()
    assert lake_rows(settings, "transactions", "transaction_id") == source_rows(
        database, "transactions", "transaction_id"
    )
    assert lake_rows(settings, "users", "user_id") == source_rows(database, "users", "user_id")


def test_gold_anomalies_equal_the_reference_query_run_inside_postgresql(database: str, tmp_path: Path) -> None:
    create_bank(database, users=20, transactions=400)
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        operate(database, seed=7, operations=80)
        cycle.catch_up()
    with psycopg.connect(database) as connection:
        expected = connection.execute(REFERENCE).fetchall()
        averages = connection.execute(
            "select user_id, avg(amount)::float8, count(*) from transactions group by user_id order by user_id"
        ).fetchall()
    got = pl.read_delta(f"{settings.lake}/gold/transaction_anomalies").sort("transaction_id")
    assert [row[:8] for row in got.rows()] == [row[:8] for row in expected]
    assert [float(row[8]) if row[8] is not None else None for row in got.rows()] == [
        pytest.approx(float(row[8]), abs=1e-6) if row[8] is not None else None for row in expected
    ]
    per_user = (
        pl.read_delta(f"{settings.lake}/gold/user_avg")
        .sort("user_id")
        .select("user_id", "avg_amount", "transaction_count")
    )
    assert [(u, pytest.approx(a) if a is not None else None, n) for u, a, n in averages] == per_user.rows()


def test_silver_and_gold_rebuilt_from_bronze_are_the_same(database: str, kafka: Broker, tmp_path: Path) -> None:
    create_bank(database, users=10, transactions=200)
    topic = kafka.new_topic(2)
    kafka.publish(
        topic,
        [
            encode(card(number * 40, user_id=number % 5, amt=900.0 if number % 40 == 39 else 20.0 + number % 7))
            for number in range(200)
        ],
    )
    settings = load_settings(
        lake=str(tmp_path / "lake"), postgres_dsn=database, kafka_bootstrap_servers=kafka.bootstrap, kafka_topic=topic
    )
    with Cycle(settings) as cycle:
        cycle.catch_up()
        operate(database, seed=11, operations=60)
        cycle.catch_up()
    tables = [("silver", name) for name in cycle.lake.tables("silver")] + [
        ("gold", name) for name in cycle.lake.tables("gold") if name not in ("alert_deliveries", "time_to_detect")
    ]
    before = {key: content(settings, *key) for key in tables}
    assert before["gold", "alerts"].height > 0
    shutil.rmtree(tmp_path / "lake/silver")
    shutil.rmtree(tmp_path / "lake/gold")
    with Cycle(settings) as cycle:
        cycle.catch_up()
    for key, rows in before.items():
        again = content(settings, *key)
        assert again.schema == rows.schema, key
        compare_within_rounding(again, rows, key)


def compare_within_rounding(got: pl.DataFrame, expected: pl.DataFrame, key: object) -> None:
    """Same rows; sums of floats may differ in their last bits with the order of addition."""
    from polars.testing import assert_frame_equal

    evidence = [name for name in ("evidence", "score") if name in got.columns]
    assert_frame_equal(got.drop(evidence), expected.drop(evidence), check_row_order=False, rel_tol=1e-9, abs_tol=1e-9)


def test_over_and_tumble_equal_brute_force_with_ties_and_exact_bounds(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    dice = random.Random(5)
    minutes = sorted(dice.choice([0, 1, 359, 360, 361, 720, 1080, dice.randint(0, 1439)]) for _ in range(300))
    records = [
        card(
            number,
            trans_date_trans_time=f"2024-01-{1 + minute // 1440:02} {minute % 1440 // 60:02}:{minute % 60:02}:00",
            user_id=dice.randint(1, 4),
            amt=round(dice.uniform(1, 100), 2),
        )
        for number, minute in enumerate(minutes)
    ]
    kafka.publish(topic, [encode(record) for record in records])
    kafka.publish(topic, [encode(card(9_999, trans_date_trans_time="2024-01-09 00:00:00", user_id=99))])
    settings = load_settings(
        lake=str(tmp_path / "lake"), kafka_bootstrap_servers=kafka.bootstrap, kafka_topic=topic, batch_rows=90
    )
    with Cycle(settings) as cycle:
        cycle.catch_up()
    at = dict(zip((record.trans_num for record in records), minutes, strict=True))
    over = pl.read_delta(f"{settings.lake}/gold/user_trans_amt_last_360min").filter(pl.col("user_id") != 99)
    assert over.height == len(records)
    computed = ["trans_num", "user_id", "user_mean_trans_amt_last_360min", "user_trans_count_last_360min"]
    for trans_num, user, mean, count in over.select(computed).iter_rows():
        window = [
            r.amt for r in records if r.user_id == user and at[trans_num] - 360 <= at[r.trans_num] <= at[trans_num]
        ]
        assert count == len(window)
        assert mean == pytest.approx(sum(window) / len(window))
    tumble = pl.read_delta(f"{settings.lake}/gold/user_trans_amt_last_360min_windowed").filter(pl.col("user_id") != 99)
    expected: dict[tuple[int, int], list[float]] = {}
    for record, minute in zip(records, minutes, strict=True):
        expected.setdefault((minute // 360, record.user_id), []).append(record.amt)
    start = pl.datetime(2024, 1, 1)
    got = tumble.select(
        ((pl.col("window_start") - start).dt.total_minutes() // 360).alias("window"),
        "user_id",
        "user_mean_trans_amt_last_360min",
        "user_trans_count_last_360min",
        ((pl.col("window_end") - pl.col("window_start")).dt.total_minutes()).alias("minutes"),
    )
    assert got.height == len(expected)
    for window, user, mean, count, length in got.iter_rows():
        amounts = expected[window, user]
        assert (count, length) == (len(amounts), 360)
        assert mean == pytest.approx(sum(amounts) / len(amounts))


def test_unreadable_records_are_kept_and_good_ones_pass(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    kafka.publish(topic, [encode(card(1)), b"{broken", encode(card(2)), b'{"amt": "ten"}', encode(card(2))])
    settings = load_settings(lake=str(tmp_path / "lake"), kafka_bootstrap_servers=kafka.bootstrap, kafka_topic=topic)
    with Cycle(settings) as cycle:
        cycle.catch_up()
    bronze = pl.read_delta(f"{settings.lake}/bronze/card_transactions").sort("_offset")
    assert bronze["_raw"].to_list() == [None, b"{broken", None, b'{"amt": "ten"}', None]
    assert bronze["_error"].is_null().to_list() == [True, False, True, False, True]
    assert pl.read_delta(f"{settings.lake}/silver/card_transactions").height == 2


def test_a_captured_table_the_project_does_not_know_gets_its_replica_and_history(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            'create table "Order Lines" ("Order" int, line int, "what?" text, primary key ("Order", line))'
        )
        connection.execute(
            """insert into "Order Lines" select i, j, 'x' || i from generate_series(1, 5) i, generate_series(1, 3) j"""
        )
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        with psycopg.connect(database) as connection:
            connection.execute('delete from "Order Lines" where "Order" = 2')
            connection.execute("""update "Order Lines" set "what?" = 'y' where line = 3""")
        cycle.catch_up()
    with psycopg.connect(database) as connection:
        expected = connection.execute('select * from "Order Lines" order by 1, 2').fetchall()
    name = bronze_name("public", "Order Lines")
    assert pl.read_delta(f"{settings.lake}/silver/{name}").sort("Order", "line").rows() == expected
    history = pl.read_delta(f"{settings.lake}/silver/{name}_history")
    assert history.height == 15 + 4
    assert history["is_deleted"].sum() == 3


def test_values_that_no_column_holds_are_null_in_silver_and_text_in_its_history(database: str, tmp_path: Path) -> None:
    """NaN, infinity, dates before Christ, many digits; in keys too, through snapshot and log."""
    create_bank(database, users=2, transactions=2)
    with psycopg.connect(database) as connection:
        connection.execute(
            "create table periods (id int, valid_to timestamp, day date, share numeric, primary key (id, valid_to))"
        )
        connection.execute(
            "insert into periods values (1, 'infinity', '0044-03-15 BC', 'NaN'), (2, 'infinity', '2026-01-01', 1e100),"
            " (3, 'infinity', 'infinity', 1.5), (4, '2026-01-01', null, null)"
        )
        connection.execute("update transactions set amount = 'NaN', transaction_date = 'infinity' where user_id = 1")
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        with psycopg.connect(database) as connection:
            connection.execute("update periods set share = '-Infinity' where id = 1")
            connection.execute("update periods set valid_to = '-infinity' where id = 2")
            connection.execute("insert into periods values (2, 'infinity', '5874897-12-31', 0.1234567891)")
            connection.execute("delete from periods where id = 3")
            connection.execute("insert into transactions (user_id, amount) values (1, 'NaN')")
        cycle.catch_up()
    keys = {"periods": ("id", "valid_to"), "transactions": ("transaction_id",)}
    for table, key in keys.items():
        silver, expected = pl.read_delta(f"{settings.lake}/silver/{table}"), source_texts(database, table)
        assert silver.columns == expected.columns
        history = pl.read_delta(f"{settings.lake}/silver/{table}_history").filter(pl.col("valid_to").is_null())
        current = history.rename({"valid_to": "", "source_valid_to": "valid_to"}, strict=False)
        reported = [
            {**row, **json.loads(background or "{}")}
            for row, background in zip(as_texts(current, expected.columns), current["_text"], strict=True)
        ]
        assert sorted(reported, key=str) == sorted(expected.to_dicts(), key=str)
        assert sorted(as_texts(silver, silver.columns), key=str) == sorted(as_texts(current, silver.columns), key=str)
        assert sum(row[name] is None for row in as_texts(silver, silver.columns) for name in key) == (
            3 if table == "periods" else 0
        )


def source_texts(dsn: str, table: str) -> pl.DataFrame:
    """The rows of a table, each value as PostgreSQL writes it, without the last zeros of a numeric."""
    with psycopg.connect(dsn) as connection:
        columns = connection.execute(f"select * from {table} limit 0").description or ()
        names = [column.name for column in columns]
        written = [f"trim_scale({one.name})" if one.type_code == NUMERIC else one.name for one in columns]
        listed = ", ".join(f"{value}::text" for value in written)
        rows = connection.execute(f"select {listed} from {table}").fetchall()
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def as_texts(frame: pl.DataFrame, names: list[str]) -> list[dict[str, str | None]]:
    """Rows with typed values as PostgreSQL writes them."""
    return [
        {name: None if value is None else as_text(value) for name, value in row.items()}
        for row in frame.select(names).to_dicts()
    ]


def as_text(value: object) -> str:
    """Without the last zeros of numerics and of fractions of a second."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return str(value).rstrip("0") if isinstance(value, datetime) and value.microsecond else str(value)


def test_tables_named_like_the_reference_ones_but_unlike_them_are_replicated_all_the_same(
    database: str, tmp_path: Path
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table transactions (id uuid primary key, account text, cents bigint)")
        connection.execute(
            "create table users (user_id bigint primary key, name text, email text, vip bool,"
            " registration_date timestamptz default now())"
        )
        connection.execute(
            "insert into transactions select gen_random_uuid(), 'a' || i, i from generate_series(1, 9) i"
        )
        connection.execute("insert into users select 5000000000 + i, 'n', 'e', true from generate_series(1, 4) i")
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        with psycopg.connect(database) as connection:
            connection.execute("delete from users where user_id = 5000000001")
            connection.execute("update transactions set cents = 100 where cents > 5")
        cycle.catch_up()
    replica = pl.read_delta(f"{settings.lake}/silver/transactions").sort("id")
    assert replica.rows() == [(str(key), *rest) for key, *rest in source_rows(database, "transactions", "id")]
    assert lake_rows(settings, "users", "user_id") == source_rows(database, "users", "user_id")
    assert pl.read_delta(f"{settings.lake}/gold/transaction_anomalies").height == 0


def test_a_column_added_while_running_reaches_the_replica(database: str, tmp_path: Path) -> None:
    create_bank(database, users=3, transactions=20)
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        with psycopg.connect(database) as connection:
            connection.execute("alter table transactions add column channel text")
            connection.execute("update transactions set channel = 'web' where transaction_id < 4")
        cycle.catch_up()
    assert lake_rows(settings, "transactions", "transaction_id") == source_rows(
        database, "transactions", "transaction_id"
    )


def test_another_library_opens_every_layer(database: str, tmp_path: Path) -> None:
    create_bank(database, users=5, transactions=50)
    settings = load_settings(lake=str(tmp_path / "lake"), postgres_dsn=database)
    with Cycle(settings) as cycle:
        cycle.catch_up()
        for layer in ("bronze", "silver", "gold"):
            for table in cycle.lake.tables(layer):
                opened = DeltaTable(cycle.lake.uri(layer, table))
                files = opened.file_uris()
                rows = pl.scan_delta(opened).select(pl.len()).collect().item()
                seen = duckdb.sql(f"select count(*) from read_parquet({files})").fetchall()[0][0] if files else 0
                assert rows == seen == opened.to_pyarrow_dataset().count_rows(), (layer, table)
