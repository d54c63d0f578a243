"""The client of the validator of transfers: its contract, its errors, one judgement of each transfer whatever fails."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fraud_lakehouse import failpoints
from fraud_lakehouse.detection.validator import Judging, pending, transfers_status
from fraud_lakehouse.detection.validator.breaker import FAILURES, Breaker, pause_after
from fraud_lakehouse.detection.validator.client import Judgement, UnavailableError, ValidatorClient
from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.settings import load_settings
from fraud_lakehouse.storage.lake import Lake
from tests.validator_service import Mode, Service, is_fraudulent, judgements, record_transfers, transfer

pytestmark = pytest.mark.usefixtures("shipped_pipeline")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


def judged(lake: Lake, url: str, steps: int = 5, timeout: float = 5.0) -> Judging:
    judging = Judging(lake, ValidatorClient(url, timeout))
    for _ in range(steps):
        judging.step()
    judging.close()
    return judging


def test_a_request_has_the_fields_of_the_contract() -> None:
    row = transfer("t1", receiver_name="Ria", receiver_website='["http://a"]', receiver_own_account="DE02")
    with Service() as service:
        found = ValidatorClient(service.url + "/", 5.0).judge(row)
        (sent,) = service.asked
    details = json.loads(sent.pop("receiver_details"))
    assert sent == {"transaction_id": "t1", "sender_bank_account": "GB01", "sender_bank": "First", "amount": 12.5}
    assert details["website"] == ["http://a"] and details["bank_account"] == "DE02" and len(details) == 13
    assert service.paths == ["/validate"]
    assert (found.is_fraudulent, json.loads(found.answer)["model"]) == (is_fraudulent("t1"), "v1")


@pytest.mark.parametrize("mode, kind", [("error", "status 500"), ("nonsense", "nonsense"), ("silent", "timeout")])
def test_without_a_usable_answer_a_transfer_waits_and_the_failure_is_counted(lake: Lake, mode: Mode, kind: str) -> None:
    record_transfers(lake, transfer("t1"))
    with Service(mode) as service:
        judging = Judging(lake, ValidatorClient(service.url, 0.2))
        assert judging.step() == 0
        assert (judgements(lake), judging.waiting, dict(judging.failures)) == ([], 1, {kind: 1})
        assert judging.problem is not None
        service.mode = "answer"
        while not judging.step():
            pass
    assert [(row["outcome"], row["attempts"] > 1) for row in judgements(lake)] == [("judged", True)]
    assert judging.problem is None
    judging.close()


def test_a_validator_that_is_not_there_is_unreachable() -> None:
    with Service() as service:
        url = service.url
    with pytest.raises(UnavailableError, match="cannot be reached") as error:
        ValidatorClient(url, 1.0).judge(transfer("t1"))
    assert error.value.kind == "unreachable"


def test_an_endless_answer_holds_up_no_other_transfer(lake: Lake) -> None:
    record_transfers(lake, transfer("t1"))
    with Service("drip") as service:
        judging = Judging(lake, ValidatorClient(service.url, 0.2), 2)
        assert judging.step() == 0
        service.mode = "answer"
        record_transfers(lake, transfer("t2"))
        while len(judgements(lake)) < 2:
            judging.step()
        judging.close()
    assert judging.failures == {"timeout": 1}


def test_a_refused_record_is_kept_with_the_reason_and_not_sent_again(lake: Lake) -> None:
    record_transfers(lake, transfer("t1"))
    with Service("refuse") as service:
        judged(lake, service.url)
        service.mode = "answer"
        judged(lake, service.url)
        assert len(service.asked) == 1
    (row,) = judgements(lake)
    assert (row["outcome"], row["is_fraudulent"], row["reason"]) == ("refused", None, "status 422: no such bank")


def test_only_unidentified_transfers_are_sent(lake: Lake) -> None:
    evaluations = {"a": "fraudulent", "b": "unidentified", "c": "normal", "d": None}
    record_transfers(lake, *(transfer(name, evaluation) for name, evaluation in evaluations.items()))
    with Service() as service:
        judged(lake, service.url)
        assert [one["transaction_id"] for one in service.asked] == ["b"]


def test_status_counts_transfers_by_what_became_of_them(lake: Lake) -> None:
    settings = load_settings(lake=lake.root)
    assert transfers_status(settings, lake) is None
    record_transfers(lake, transfer("a", "normal"), transfer("b"))
    with Service() as service:
        judged(lake, service.url)
    record_transfers(lake, transfer("c"))
    found = transfers_status(settings, lake)
    assert found is not None
    counts = {"transfers": 3, "unidentified": 2, "judged": 1, "refused": 0, "pending": 1, "validator": False}
    assert {name: found[name] for name in counts} == counts


def test_the_breaker_opens_after_failures_in_a_row_and_admits_one_request_later() -> None:
    now = 0.0
    breaker = Breaker(lambda: now)
    for _ in range(FAILURES - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed()
    assert breaker.is_closed
    breaker.failed()
    assert not breaker.is_closed and not breaker.may_try
    now = 60.0
    assert breaker.may_try and not breaker.is_closed
    breaker.failed()
    assert not breaker.may_try
    breaker.succeeded()
    assert breaker.is_closed and breaker.may_try


def test_pauses_grow_and_differ_by_chance() -> None:
    assert [pause_after(failures, lambda: 1.0) for failures in (1, 2, 3, 7, 1000)] == [1, 2, 4, 60, 60]
    assert pause_after(3, lambda: 0.0) == 2


def test_while_the_breaker_is_open_nothing_is_sent(lake: Lake) -> None:
    record_transfers(lake, *(transfer(f"t{number}") for number in range(50)))
    with Service("error") as service:
        judging = judged(lake, service.url, steps=3)
        assert not judging.breaker.is_closed
        assert FAILURES <= len(service.asked) <= FAILURES + judging.concurrency


class Unsteady:
    """A validator that fails by chance, as a client without HTTP."""

    timeout = 5.0

    def __init__(self, chance: random.Random, failing: float) -> None:
        self.chance, self.failing = chance, failing

    def judge(self, row: dict[str, Any]) -> Judgement:
        if self.chance.random() < self.failing:
            raise UnavailableError("nonsense", "by chance")
        return Judgement(is_fraudulent(row["transaction_id"]), None, "{}")


class Impatient(Breaker):
    """Admits a request at any time, so that no test waits."""

    def __init__(self) -> None:
        clock = itertools.count(0, 1000)
        super().__init__(lambda: float(next(clock)))


@given(
    events=st.lists(st.sampled_from(["arrive", "step", "rival", "restart", "rewrite", "crash"]), max_size=14),
    seed=st.integers(0, 1000),
    most=st.sampled_from([2, 5000]),
)
@examples(max_examples=25, deadline=None)
def test_each_transfer_is_judged_once_whatever_happens(events: list[str], seed: int, most: int) -> None:
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []

    def opened(failing: float = 0.3) -> Judging:
        judging = Judging(lake, Unsteady(chance, failing), 2, Impatient())  # type: ignore[arg-type]
        opens.append(judging)
        return judging

    opens: list[Judging] = []
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "MOST", most)
        lake = Lake.at(folder)
        judges = [opened(), opened()]
        for event in [*events, "arrive"]:
            if event == "arrive":
                new = [transfer(f"t{len(rows) + one}", chance.choice(["unidentified", "normal"])) for one in range(3)]
                rows += new
                record_transfers(lake, *new)
            elif event == "rewrite" and rows:
                record_transfers(lake, *rows, rewritten=True)
            elif event == "restart":
                judges[0] = opened()
            elif event == "crash":
                failpoints.arm("silver.after_commit", action=failpoints.ACTIONS["fail"])
                _step(judges[0])
                failpoints.disarm()
            else:
                _step(judges[event == "rival"])
        last = opened(failing=0.0)
        wanted = sorted(row["transaction_id"] for row in rows if row["evaluation"] == "unidentified")
        for _ in range(2 * len(rows) + 2):
            _step(last)
        assert [row["transaction_id"] for row in judgements(lake)] == wanted
        assert all(row["is_fraudulent"] == is_fraudulent(row["transaction_id"]) for row in judgements(lake))
        for judging in opens:
            judging.close()


def _step(judging: Judging) -> None:
    with suppress(LakeError, OSError):  # of the failpoint: the commit is there, and the process does not know
        judging.step()
