"""The demo's web shop: the same from anywhere, readable as declared, with the fraud it should have."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice

import polars as pl
import pytest

from fraud_lakehouse.demo.accounts import BLOCK, SEED, USERS, Change, changes, encode, users
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.sources.kafka.records import RawRecords, RecordDecoder

pytestmark = pytest.mark.usefixtures("shipped_pipeline")

MADE = list(islice(changes(SEED), 4 * BLOCK))


def read(table: str, made: list[Change]) -> pl.DataFrame:
    """The events as bronze has them."""
    (topic,) = [one for one in declared_topics(Settings()) if one.table == table]
    count = len(made)
    records = RawRecords(topic.topic, [0] * count, range(count), [None] * count, [encode(one) for one in made])
    return RecordDecoder(topic).decode(records)


@pytest.mark.parametrize("begin", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 17])
def test_a_stream_goes_on_from_anywhere(begin: int) -> None:
    assert list(islice(changes(SEED, begin), BLOCK)) == MADE[begin : begin + BLOCK]


def test_every_change_can_be_read_as_declared_in_the_order_of_the_source() -> None:
    found = read("user_transaction", MADE)
    assert found["_error"].null_count() == len(MADE)
    assert found["_lsn"].is_sorted() and found["_lsn"].n_unique() == len(MADE)
    assert found["received_at"].null_count() == 0
    assert Counter(found["_op"].to_list()).keys() == {"c", "u", "d"}
    created: set[int] = set()
    for op, key in found.select("_op", "id").iter_rows():
        assert (key in created) is (op != "c"), "a payment is corrected or deleted once it is there"
        created.add(key)


def test_the_users_come_without_their_passwords() -> None:
    found = read("auth_user", list(users(SEED)))
    assert (found.height, found["_error"].null_count(), found["id"].n_unique()) == (USERS, USERS, USERS)
    assert "password" not in found.columns
    assert "pbkdf2" not in repr(found.rows())


def test_each_kind_of_fraud_is_in_each_block_and_is_what_its_name_says() -> None:
    for start in range(0, len(MADE), BLOCK):
        cases: dict[str, list[Change]] = defaultdict(list)
        for one in MADE[start : start + BLOCK]:
            if one.case:
                cases[one.case].append(one)
        assert Counter(payments[0].kind for payments in cases.values()) == dict.fromkeys(
            ["too_many_count", "too_many_amount", "too_large", "too_far"], 2
        )
        for payments in cases.values():
            rows = [one.envelope["after"] for one in payments]
            assert len({row["ACCOUNT_ID"] for row in rows}) == 1
            total = sum(row["AMOUNT"] for row in rows)
            if payments[0].kind == "too_many_count":
                assert len(rows) == 11 and total < 1000
            elif payments[0].kind == "too_far":
                assert len(rows) == 1 and total <= 50
            else:
                assert total >= 1000
