"""The sensors that see new data, over real ticks: the cursor is carried from tick to tick, runs are executed."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from fraud_lakehouse.defs.positions import NewData, lsn_range, offset_range
from fraud_lakehouse.defs.sensors import RANGE_TAG, SOURCE_TAG
from fraud_lakehouse.errors import GapError, SourceError
from tests.definitions.ticks import Ticks

FIRST = NewData("bank", "0/16B3748-0/16B5F10")


def test_no_data_is_a_skip_with_a_sentence(ticks: Callable[..., Ticks]) -> None:
    assert ticks("new_data_bank").tick() == ([], "Nothing new in bank.")


def test_data_is_one_run_named_by_its_range(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = FIRST
    (request,), _ = postgres.tick()
    assert request.run_key == "bank:0/16B3748-0/16B5F10"
    keys = {key.to_user_string() for key in request.asset_selection or []}
    assert {"bronze/users", "bronze/transactions", "gold/alerts"} <= keys
    assert "bronze/card_transactions" not in keys
    assert postgres.run(request).success


def test_the_same_data_twice_is_one_run(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = FIRST
    first, _ = postgres.tick()
    again, _ = postgres.tick()
    assert (len(first), len(again)) == (1, 0)


def test_a_run_under_way_is_not_requested_again(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = FIRST
    run = postgres.instance.create_run_for_job(
        postgres.stand.definitions.resolve_job_def("update"),
        tags={RANGE_TAG: FIRST.run_key, SOURCE_TAG: "bank"},
        status=dg.DagsterRunStatus.STARTED,
    )
    requests, why = postgres.tick()
    assert requests == []
    assert run.run_id[:8] in why and FIRST.run_key in why


def test_a_range_whose_run_failed_is_requested_again(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = FIRST
    (request,), _ = postgres.tick()
    postgres.stand.ingests["bank"].steps = [SourceError("the database went away")]
    assert not postgres.run(request).success
    (again,), _ = postgres.tick()
    assert again.run_key == f"{FIRST.run_key}#2"
    assert postgres.run(again).success


def test_a_source_that_is_not_configured_is_skipped(ticks: Callable[..., Ticks]) -> None:
    requests, why = ticks("new_data_cards", kafka_bootstrap_servers=None).tick()
    assert requests == []
    assert "FRAUD_KAFKA_BOOTSTRAP_SERVERS is not set" in why


def test_an_unreachable_source_is_skipped_with_the_reason(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = SourceError("no answer from db:5432", "check that it runs")
    requests, why = postgres.tick()
    assert requests == []
    assert "no answer from db:5432" in why and "check that it runs" in why and "secret" not in why


def test_a_gap_fails_the_tick_loudly(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank")
    postgres.stand.new["bank"] = GapError("the slot was dropped")
    with pytest.raises(GapError, match="the slot was dropped"):
        postgres.tick()


def test_live_mode_leaves_capturing_to_the_live_run(ticks: Callable[..., Ticks]) -> None:
    postgres = ticks("new_data_bank", update_delay=0.0)
    postgres.stand.new["bank"] = FIRST
    requests, why = postgres.tick()
    assert requests == [] and "live run" in why


def test_ranges_read_as_their_source_writes_them() -> None:
    assert lsn_range(0x16B3748, 0x1_016B5F10) == "0/16B3748-1/16B5F10"
    assert offset_range({0: (100, 250), 1: (90, 90), 2: (1, 200)}) == "0:100-250,2:1-200"
    many = offset_range(dict.fromkeys(range(50), (0, 10)))
    assert many.startswith("500-records-") and len(many) < 40
