"""The demo's bank transfers: the same from anywhere, with the fraud they should have; and a validator that knows it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import islice

import pytest

from fraud_lakehouse.demo.transfers import BLOCK, SEED, Transfer, encode, transfers
from fraud_lakehouse.demo.validator import DemoValidator
from fraud_lakehouse.detection.validator.client import ValidatorClient
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import declared_topics
from fraud_lakehouse.sources.kafka.formats.json import JsonDecoder
from tests.validator_service import transfer

pytestmark = pytest.mark.usefixtures("shipped_pipeline")

MADE = list(islice(transfers(SEED), 4 * BLOCK))


@pytest.mark.parametrize("begin", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 17])
def test_a_stream_goes_on_from_anywhere(begin: int) -> None:
    assert list(islice(transfers(SEED, begin), BLOCK)) == MADE[begin : begin + BLOCK]


def test_another_seed_is_another_stream() -> None:
    assert not {one.transaction_id for one in MADE} & {one.transaction_id for one in islice(transfers(8), BLOCK)}


def test_every_record_can_be_read_as_declared() -> None:
    (topic,) = [one for one in declared_topics(Settings()) if one.table == "bank_transfers"]
    read = JsonDecoder(topic.fields).read([encode(one) for one in MADE])
    assert (read.errors, read.extras) == ({}, {})
    assert read.frame["transaction_id"].n_unique() == len(MADE)
    assert not [name for name in read.frame.columns if read.frame[name].has_nulls()]


def test_each_kind_of_fraud_is_in_each_block_and_most_transfers_are_honest() -> None:
    for start in range(0, len(MADE), BLOCK):
        kinds = Counter(one.kind for one in MADE[start : start + BLOCK])
        assert kinds.keys() == {None, "new_beneficiary", "many_senders", "fan_out", "circle"}
        assert kinds[None] > 0.9 * BLOCK


def test_a_circle_ends_where_it_began() -> None:
    cases: dict[str, list[Transfer]] = {}
    for one in MADE:
        if one.kind == "circle":
            cases.setdefault(str(one.case), []).append(one)
    assert len(cases) == 8
    for legs in cases.values():
        ids = [(leg.record["sender_details"]["id"], leg.record["receiver_details"]["id"]) for leg in legs]
        assert [receiver for _, receiver in ids] == [sender for sender, _ in [*ids[1:], ids[0]]]


def test_records_are_hardly_out_of_order() -> None:
    times = [datetime.fromisoformat(one.record["transfer_date"]) for one in MADE]
    newest = times[0]
    for time in times:
        assert (newest - time).total_seconds() <= 11
        newest = max(newest, time)


def test_the_demo_validator_knows_the_truth_and_refuses_others() -> None:
    validator = DemoValidator(4 * BLOCK)
    client = ValidatorClient(validator.url, 5.0)
    try:
        for one in (*MADE[900:950], MADE[3]):
            found = client.judge(transfer(one.transaction_id))
            assert found.is_fraudulent is (one.kind is not None)
        assert client.judge(transfer("unknown")).is_fraudulent is None
    finally:
        validator.close()
