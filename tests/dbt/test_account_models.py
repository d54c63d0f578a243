"""The tables about accounts of a web shop, against plain Python."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest

from fraud_lakehouse.ingest.topic_table import open_topic_table
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.sources.kafka.records import schema_of
from tests.dbt.small_lake import Row, SmallLake, assert_same
from tests.declared import SHIPPED

TEN_MINUTES = timedelta(minutes=10)
START = datetime(2025, 1, 15)  # noqa: DTZ001  # the source has no zone
MODELS = ["captured_user_transaction", "captured_auth_user", "flagged_user", "fraud_attacks", "customer_fraud_overview"]


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("accounts") / "lake", pipeline=SHIPPED)
    yield lake
    lake.transformer.close()


def land(lake: SmallLake, table: str, rows: Sequence[Row]) -> None:
    """Records of a topic: inserts, or the operation that a row has."""
    topic = next(one for one in declared_topics(lake.settings) if one.table == table)
    schema = schema_of(topic)
    records = [
        {"_op": "c", "_topic": topic.topic, "_partition": 0, "_offset": number, "_lsn": number, "_seq": 0}
        | {"_committed_at": datetime.now(UTC)}
        | row
        for number, row in enumerate(rows)
    ]
    frame = pl.DataFrame([{name: one.get(name) for name in schema} for one in records], schema=schema)
    open_topic_table(lake.lake, topic).append(frame, {})


def random_payments(chance: random.Random, count: int) -> list[Row]:
    """Payments of a few accounts, some in bursts, some at the same moment or exactly ten minutes apart."""
    rows: list[Row] = []
    at = START
    for number in range(count):
        at += chance.choice([timedelta(0), timedelta(microseconds=1), *[timedelta(seconds=20)] * 6, TEN_MINUTES])
        rows.append(
            {
                "id": number,
                "amount": Decimal(chance.choice([2_500, 20_000, 60_000])) / 100,
                "received_at": at,
                "ip_address": "23.0.0.1",
                "account_id": chance.choice([1, 1, 1, 2, 3, None]),
            }
        )
    return rows


def flagged(payments: Sequence[Row]) -> dict[int, list[tuple[Row, Decimal, int]]]:
    """By account, each payment that flags it, with the total and the number of the ten minutes before it."""
    found = defaultdict(list)
    by_account = defaultdict(list)
    for row in payments:
        if row["account_id"] is not None:
            by_account[row["account_id"]].append(row)
    for account, rows in by_account.items():
        for row in sorted(rows, key=lambda row: (row["received_at"], row["id"])):
            window = [
                one for one in rows if row["received_at"] - TEN_MINUTES <= one["received_at"] <= row["received_at"]
            ]
            total = sum((one["amount"] for one in window), Decimal(0))
            if total > 1000 or len(window) > 10:
                found[account].append((row, total, len(window)))
    return found


def attacks(payments: Sequence[Row]) -> list[Row]:
    """Moments whose ten minutes overlap are one attack; each payment in them counts once."""
    found: list[Row] = []
    for account, moments in flagged(payments).items():
        groups: list[list[datetime]] = []
        for row, _, _ in moments:
            if groups and row["received_at"] - TEN_MINUTES <= groups[-1][-1]:
                groups[-1].append(row["received_at"])
            else:
                groups.append([row["received_at"]])
        for number, group in enumerate(groups, start=1):
            inside = [
                row
                for row in payments
                if row["account_id"] == account and group[0] - TEN_MINUTES <= row["received_at"] <= group[-1]
            ]
            found.append(
                {
                    "account_id": account,
                    "attack_number": number,
                    "total_amount": sum((row["amount"] for row in inside), Decimal(0)),
                    "transaction_count": len(inside),
                    "occurred_at": min(row["received_at"] for row in inside),
                    "detected_at": group[0],
                    "ended_at": group[-1],
                }
            )
    return found


def check(lake: SmallLake, payments: Sequence[Row], users: Sequence[Row]) -> None:
    """Build, and compare with the oracle."""
    lake.build("hot")
    lake.build_only(*MODELS)
    names = {user["id"]: (user["username"], user["email"]) for user in users}
    expected = []
    for account, moments in flagged(payments).items():
        row, total, count = moments[-1]
        name, email = names.get(account, (None, None))
        expected.append(
            {"account_id": account, "user_name": name, "email": email, "total_amount": total}
            | {"transaction_count": count, "updated_at": row["received_at"]}
        )
    assert_same(lake.rows("gold", "flagged_user"), expected, "account_id")
    found = attacks(payments)
    assert_same(lake.rows("gold", "fraud_attacks"), found, "account_id", "attack_number")
    overview = lake.rows("gold", "customer_fraud_overview")
    assert sum(row["transaction_count"] for row in overview) == sum(row["transaction_count"] for row in found)
    assert {row["account_id"]: row["attack_count"] for row in overview} == {
        account: sum(row["account_id"] == account for row in found) for account in flagged(payments)
    }


def users_of(ids: Sequence[int]) -> list[Row]:
    return [{"id": number, "username": f"user {number}", "email": f"{number}@example.org"} for number in ids]


@pytest.mark.parametrize("seed", range(2))
def test_flags_and_attacks_follow_inserts_updates_and_deletes(lake: SmallLake, seed: int) -> None:
    chance = random.Random(seed)
    payments, users = random_payments(chance, 80), users_of([1, 2])
    land(lake, "auth_user", users)
    land(lake, "user_transaction", payments)
    check(lake, payments, users)
    assert len(attacks(payments)) > 1

    deleted, changed = chance.sample(payments, 20), chance.sample(payments, 20)
    removed = {row["id"] for row in deleted}
    updates = [row | {"amount": Decimal("999.99"), "account_id": 2} for row in changed if row["id"] not in removed]
    events = [row | {"_op": "d"} for row in deleted] + [row | {"_op": "u"} for row in updates]
    land(lake, "user_transaction", [row | {"_lsn": 1_000 + place} for place, row in enumerate(events)])
    current = {row["id"]: row for row in payments if row["id"] not in removed} | {row["id"]: row for row in updates}
    check(lake, list(current.values()), users)
