"""Bank transfers through the models, in batches, against what plain Python finds; judgements come in between."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.demo.transfers import SEED, Transfer, encode, transfers
from fraud_lakehouse.detection.validator.judging import COLUMNS as JUDGEMENT
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.sources.kafka.records import RawRecords, RecordDecoder
from fraud_lakehouse.storage.appender import Appender
from tests.dbt.small_lake import SmallLake, assert_same
from tests.declared import SHIPPED
from tests.validator_service import is_fraudulent

(TOPIC,) = [one for one in declared_topics(Settings(pipeline=SHIPPED)) if one.table == "bank_transfers"]
BATCH = 140
MODELS = ("fraudulent_transactions_result", "fraud_users", "fraud_report", "transfer_routes", "transfer_circles")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
REPORT = (
    *("TRANSACTION_ID", "SENDER_BANK_ACCOUNT", "RECEIVER_BANK_ACCOUNT", "AMOUNT", "STATUS", "EVALUATION"),
    *("TRANSFER_DATE", "SENDER_BANK", "SOURCE_PROCESS", "SENDER_NAME", "SENDER_ADDRESS", "SENDER_EMAIL"),
    *("RECEIVER_NAME", "RECEIVER_ADDRESS", "RECEIVER_EMAIL"),
)


def land(lake: SmallLake, made: list[Transfer], first: int) -> None:
    count = len(made)
    records = RawRecords(
        topic=TOPIC.topic,
        partitions=[0] * count,
        offsets=[*range(first, first + count)],
        timestamps=[int(NOW.timestamp() * 1000)] * count,
        values=[encode(one) for one in made],
        keys=[None] * count,
        headers=[None] * count,
    )
    frame = RecordDecoder(TOPIC).decode(records)
    lake.land("bank_transfers", frame.to_dicts(), dict(frame.schema))


def judge(lake: SmallLake, made: list[Transfer], chance: random.Random) -> dict[str, bool | None]:
    """Judge most of the unidentified transfers; their results by id, None for those that the validator refuses."""
    rows = []
    for one in made:
        if one.record["evaluation"] == "unidentified" and chance.random() < 0.8:
            name = one.transaction_id
            result = None if chance.random() < 0.1 else is_fraudulent(name)
            outcome = "refused" if result is None else "judged"
            rows.append({"transaction_id": name, "outcome": outcome, "is_fraudulent": result, "judged_at": NOW})
    frame = pl.DataFrame([{name: row.get(name) for name in JUDGEMENT} for row in rows], schema=JUDGEMENT)
    Appender.open(lake.lake, "silver", "transfer_judgements", JUDGEMENT).append(frame, {})
    return {row["transaction_id"]: row["is_fraudulent"] for row in rows}


def circles(made: list[Transfer]) -> set[str]:
    """The transfers that close a circle of three or four, by trying every path."""
    by_sender: dict[str, list[Transfer]] = {}
    for one in made:
        by_sender.setdefault(one.record["sender_details"]["id"], []).append(one)
    found: set[str] = set()

    def follow(path: list[Transfer]) -> None:
        last, first = path[-1].record, path[0].record
        for one in by_sender.get(last["receiver_details"]["id"], []):
            new = one.record
            start, before, at = (datetime.fromisoformat(r["transfer_date"]) for r in (first, last, new))
            is_near = before <= at and round(0.8 * last["amount"], 6) <= new["amount"] <= last["amount"]
            if not is_near or at > start + timedelta(days=1):
                continue
            senders = [leg.record["sender_details"]["id"] for leg in path]
            if new["sender_details"]["id"] in senders:
                continue
            if new["receiver_details"]["id"] == senders[0] and len(path) >= 2:
                found.add(one.transaction_id)
            if len(path) < 3:
                follow([*path, one])

    for one in made:
        follow([one])
    return found


@dataclass(frozen=True)
class Built:
    """A lake with transfers, and their results by id."""

    lake: SmallLake
    made: list[Transfer]
    judged: dict[str, bool | None]

    @property
    def routes(self) -> dict[str, str]:
        """The way of each transfer, by id."""
        return {one.transaction_id: self._route(one) for one in self.made}

    @property
    def fraudulent(self) -> list[tuple[dict[str, Any], str]]:
        """The records found fraudulent, with what found them; oldest first."""
        routes = self.routes
        found = [(one.record, routes[one.transaction_id]) for one in self.made]
        found = [(record, route) for record, route in found if route in ("rule", "validator")]
        return sorted(found, key=lambda one: (one[0]["transfer_date"], one[0]["transaction_id"]))

    @property
    def users(self) -> dict[str, dict[str, Any]]:
        """The people of fraudulent transfers by id, as the newest describes them."""
        users: dict[str, dict[str, Any]] = {}
        for record, process in self.fraudulent:
            for role in ("receiver", "sender"):
                person = record[f"{role}_details"]
                users[person["id"]] = {**person, "source_process": process}
        return users

    def _route(self, one: Transfer) -> str:
        evaluation = one.record["evaluation"]
        if evaluation != "unidentified":
            return "rule" if evaluation == "fraudulent" else "other"
        if one.transaction_id not in self.judged:
            return "pending"
        return {True: "validator", False: "cleared", None: "refused"}[self.judged[one.transaction_id]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Five batches of transfers that arrive in any order, and judgements between them."""
    chance = random.Random(3)
    made = list(islice(transfers(SEED), 5 * BATCH))
    arrived = chance.sample(made, len(made))
    lake = SmallLake(tmp_path_factory.mktemp("transfers") / "lake", pipeline=SHIPPED, max_future=0.0)
    judged: dict[str, bool | None] = {}
    for start in range(0, len(made), BATCH):
        batch = arrived[start : start + BATCH]
        land(lake, batch, start)
        lake.build_only("bank_transfers", "transfer_payments_features")
        lake.build_only(*MODELS)
        judged |= judge(lake, batch, chance)
    lake.build_only(*MODELS, "alerts")
    yield Built(lake, made, judged)
    lake.transformer.close()


def test_circles_are_found_whichever_transfer_arrives_last_and_raise_alerts(built: Built) -> None:
    closing = circles(built.made)
    rows = built.lake.rows("gold", "transfer_circles")
    assert {row["transaction_id"] for row in rows} == closing != set()
    alerts = [row for row in built.lake.rows("gold", "alerts") if row["rule"] == "transfer_circle"]
    assert sorted(row["transaction_id"] for row in alerts) == sorted(closing)
    assert {row["stream"] for row in alerts} == {"transfer_payments"}


def test_every_transfer_takes_one_way(built: Built) -> None:
    found: Counter[str] = Counter()
    for row in built.lake.rows("gold", "transfer_routes"):
        found[row["route"]] += row["transfers"]
    assert found == Counter(built.routes.values())
    assert found.keys() == {"rule", "other", "pending", "validator", "cleared", "refused"}


def test_each_fraudulent_transfer_is_there_once_with_what_found_it(built: Built) -> None:
    rows = built.lake.rows("gold", "fraudulent_transactions_result")
    expected = {record["transaction_id"]: process for record, process in built.fraudulent}
    assert {row["transaction_id"]: row["source_process"] for row in rows} == expected
    assert len(rows) == len(expected)


def test_each_person_is_there_once_as_the_newest_transfer_says(built: Built) -> None:
    rows = built.lake.rows("gold", "fraud_users")
    expected = [
        {**user, "website": json.dumps(user["website"], separators=(",", ":"))} for user in built.users.values()
    ]
    assert_same(rows, expected, "id")


def test_the_report_has_a_row_of_fifteen_columns_for_each_fraudulent_transfer(built: Built) -> None:
    users = built.users
    expected = []
    for record, process in built.fraudulent:
        row = {name: record[name.lower()] for name in REPORT[:4]} | {"SOURCE_PROCESS": process}
        for role in ("sender", "receiver"):
            person = users[record[f"{role}_details"]["id"]]
            row |= {f"{role}_{name}".upper(): person[name] for name in ("name", "address", "email")}
        expected.append({**row, "AMOUNT": Decimal(str(record["amount"]))})
    rows = built.lake.rows("gold", "fraud_report")
    assert_same(rows, expected, "TRANSACTION_ID")
    assert tuple(rows[0])[:15] == REPORT
