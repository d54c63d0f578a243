"""A model that fails on a value stops nothing that does not read it; what it missed is alerted once when it works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fraud_lakehouse.definitions import build_definitions
from fraud_lakehouse.defs.resources import Parts
from fraud_lakehouse.defs.transform import load_manifest
from fraud_lakehouse.transform.build_result import BuildResult
from tests.dbt.cards_oracle import START
from tests.dbt.small_lake import SmallLake
from tests.dbt.transactions_oracle import committed_at
from tests.faulty_project import BAD, MODELS, FaultyProject

Alert = tuple[str, str]  # rule, transaction


class FaultyLake(SmallLake):
    """A lake over a project whose models fail on `BAD` while they have a fault; knows which alerts are due."""

    def __init__(self, folder: Path) -> None:
        self.project = FaultyProject(folder)
        super().__init__(folder / "lake", self.project.path)
        self.begin()

    def begin(self) -> None:
        """An empty lake without faults, where a user came before any payment, for what is like a new process."""
        self.transformer.close()
        self.clear()
        for name in MODELS:
            self.project.mend(name)
        self.number = 0
        self.due: set[Alert] = set()
        user = {"user_id": 1, "name": "n", "_op": "c", "_lsn": 1, "_seq": 1, "_committed_at": committed_at(1)}
        self.land("users", [user])

    def pay(self, *amounts: float) -> None:
        """Payments of the bank, each by a user of its own that does not exist."""
        rows = []
        for amount in amounts:
            self.number += 1
            position = {"_op": "c", "_lsn": 10 + self.number, "_seq": 1, "_committed_at": committed_at(self.number)}
            payment = {"transaction_id": self.number, "user_id": 100 + self.number, "amount": Decimal(str(amount))}
            rows.append({**position, **payment, "transaction_date": START + timedelta(hours=self.number)})
            self._expect("unknown_user", f"{self.number}")
            self._expect("velocity", f"{self.number}", amount)
        self.land("transactions", rows)

    def swipe(self, *amounts: float) -> None:
        """Card transactions, each of a user of its own."""
        rows = []
        for amount in amounts:
            self.number += 1
            moment = START + timedelta(hours=self.number)
            position = {"_topic": "transaction", "_partition": 0, "_offset": self.number, "_timestamp": committed_at(1)}
            record = {"trans_num": f"card {self.number}", "user_id": 100 + self.number, "amt": amount}
            rows.append({**position, **record, "trans_date_trans_time": moment.isoformat(" ")})
            self._expect("velocity", f"card {self.number}", amount)
        self.land("card_transactions", rows)

    def _expect(self, rule: str, transaction: str, amount: float = 1001.0) -> None:
        if amount > 1000.0:
            self.due.add((rule, transaction))

    @property
    def recorded(self) -> Counter[Alert]:
        if not self.lake.exists("gold", "alerts"):
            return Counter()
        return Counter((row["rule"], row["transaction_id"]) for row in self.rows("gold", "alerts"))

    def owed(self) -> set[Alert]:
        """The alerts that are due and not recorded; none is recorded twice, or without being due."""
        recorded = self.recorded
        assert recorded.keys() <= self.due and set(recorded.values()) <= {1}, recorded
        return self.due - recorded.keys()

    def warm(self) -> None:
        """Cycles of both sources that fill what is kept in memory."""
        for _ in range(3):
            self.pay(50.0)
            self.swipe(5000.0)
            assert not self.cycle().failed
        assert not self.owed()

    def cycle(self, without: list[str] | None = None) -> BuildResult:
        return self.transformer.build_tier("alerts", without=without or [])


@pytest.fixture(scope="module")
def one_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyLake]:
    lake = FaultyLake(tmp_path_factory.mktemp("faulty"))
    yield lake
    lake.transformer.close()


@pytest.fixture
def lake(one_lake: FaultyLake) -> FaultyLake:
    one_lake.begin()
    return one_lake


def failed(result: BuildResult) -> dict[str, list[str]]:
    """Of each model that failed, the bronze tables whose rows wait for it."""
    return {node.name: list(node.sources) for node in result.failed_models}


def error_ids(result: BuildResult) -> list[str]:
    return [node.unique_id for node in result.failed_models if node.status == "error"]


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "first build"])
def test_a_ledger_that_fails_stops_no_card_alert(lake: FaultyLake, *, is_warm: bool) -> None:
    if is_warm:
        lake.warm()
    lake.project.fail("transactions_ledger")
    lake.pay(BAD, 50.0)
    bank = lake.owed()
    lake.swipe(5000.0)
    result = lake.cycle()

    assert failed(result) == {"transactions_ledger": ["transactions"]}
    assert "met its value" in result.failed_models[0].reason
    assert lake.owed() == bank
    for _ in range(4):  # the pause before the failed model is tried again
        lake.swipe(5000.0, 20.0)
        lake.pay(60.0)
        bank |= {("unknown_user", f"{lake.number}")}
        assert not lake.cycle(without=error_ids(result)).failed
        assert lake.owed() == bank
    assert failed(lake.cycle()) == {"transactions_ledger": ["transactions"]}, "it still fails"
    assert lake.owed() == bank
    lake.project.mend("transactions_ledger")
    assert not lake.cycle().failed
    assert lake.owed() == set()
    lake.warm()


def test_card_transactions_that_fail_stop_no_alert_of_the_bank(lake: FaultyLake) -> None:
    lake.warm()
    lake.project.fail("card_transactions")
    lake.swipe(BAD)
    cards = lake.owed()
    lake.pay(5000.0)
    result = lake.cycle()

    assert failed(result)["card_transactions"] == ["card_transactions"]
    assert {table for tables in failed(result).values() for table in tables} == {"card_transactions"}
    assert lake.owed() == cards
    lake.project.mend("card_transactions")
    assert not lake.cycle().failed
    assert lake.owed() == set()


def test_a_table_of_one_source_that_fails_stops_no_replica_of_the_other(lake: FaultyLake) -> None:
    lake.pay(BAD)
    lake.swipe(5000.0)
    assert not lake.transformer.build_tier("hot").failed
    lake.project.fail("user_avg")
    result = lake.transformer.build_tier("replica")
    assert failed(result) == {"user_avg": ["transactions"], "transaction_anomalies": ["transactions", "users"]}
    for table in ("user_trans_amt_last_360min", "daily_report"):
        assert lake.rows("gold", table), table
    assert lake.rows("silver", "transactions")
    lake.project.mend("user_avg")
    assert not lake.transformer.build_tier("replica").failed
    assert lake.rows("gold", "user_avg")[0]["avg_amount"] == BAD


def test_a_dagster_run_records_and_reports_what_does_not_read_the_failed_model(lake: FaultyLake) -> None:
    lake.project.fail("transactions_ledger")
    lake.pay(BAD)
    bank = lake.owed()
    lake.swipe(5000.0)
    manifest = load_manifest(lake.transformer.project.manifest_path)
    parts = Parts(builder=lambda _settings: _Shared(lake))
    definitions = build_definitions(lake.settings, parts=parts, manifest=manifest)

    def run(*tables: str) -> dg.ExecuteInProcessResult:
        keys = [dg.AssetKey(table.split("/")) for table in tables]
        job = definitions.resolve_job_def("update")
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(instance=instance, raise_on_error=False, asset_selection=keys or None)

    def built(result: dg.ExecuteInProcessResult) -> set[str]:
        return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}

    result = run()
    assert not result.success and lake.owed() == bank
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data: Any = failure.step_failure_data.user_failure_data
    assert "transactions_ledger" in data.description and "rows of transactions wait for it" in data.description
    assert {"gold/alerts", "gold/card_transaction_features", "silver/users"} <= built(result)
    assert "silver/transactions_ledger" not in built(result)
    hot = [f"gold/{name}" for name in ("alerts", "transaction_features", "card_transaction_features")]
    hot += ["silver/transactions_ledger", "silver/card_transactions"]
    lake.swipe(5000.0)
    assert "gold/alerts" in built(run(*hot)) and lake.owed() == bank, "some models, chosen by hand"
    lake.project.mend("transactions_ledger")
    assert run(*hot).success and lake.owed() == set()


class _Shared:
    """The module's transformer, which the run does not close."""

    def __init__(self, lake: SmallLake) -> None:
        transformer = lake.transformer
        self.names, self.warm_up = transformer.names, transformer.warm_up
        self.build, self.test = transformer.build, transformer.test
