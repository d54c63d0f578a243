"""History replayed row by row gives the numbers of the batch build: stored vectors, features of labels, brute force."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from fraud_lakehouse.detection import as_of
from fraud_lakehouse.features.catalogue import Catalogue
from tests.catalogues import shipped_catalogue
from tests.dbt import as_of_oracle as oracle
from tests.dbt import test_bank_vectors as bank_vectors
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.vectors_oracle import is_same

START = datetime(2024, 3, 1, 5)  # noqa: DTZ001 event times have no zone
TABLE = "card_feature_vectors"
KEYS = ("user_id", "cc_num", "merchant", "category", "amt")
COUNT = 24
LABEL_DELAY = 1200
"""Seconds until a fraud label is known: a quarter of what the payments span."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return shipped_catalogue()


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("replay") / "lake", label_delay=LABEL_DELAY)
    yield lake
    lake.transformer.close()


def payments(seed: int) -> list[Row]:
    """In order of arrival, by at most the lateness out of order of event time, ties among them."""
    rng = random.Random(seed)
    rows = []
    for number in range(COUNT):
        moment = START + timedelta(minutes=7 * (number // 2)) - timedelta(seconds=rng.choice([0, 0, 5, 14]))
        user = rng.choice([1, 1, 2, None])
        rows.append(
            {"trans_num": f"t{number}", "user_id": user, "cc_num": 7, "merchant": rng.choice(["one", "two"])}
            | {"category": "food", "amt": rng.choice([None, 10.0, 12.5, -3.0]), "t": moment}
            | {"is_fraud": rng.choice([None, 0, 0, 1, 2])}
            | {"trans_date_trans_time": str(moment), "_topic": "transaction", "_partition": 0, "_offset": number}
        )
    return rows


def build(lake: SmallLake, *, full_refresh: bool = False) -> None:
    tables = ["card_transactions", "card_transactions_late", TABLE]
    lake.transformer.build(tables, full_refresh=full_refresh, tests=False).raise_for_errors()


def labels_of(rows: list[Row]) -> pl.DataFrame:
    schema = {"trans_num": pl.String(), "user_id": pl.Int64(), "cc_num": pl.Int64(), "merchant": pl.String()}
    schema |= {"category": pl.String(), "amt": pl.Float64(), "event_time": pl.Datetime("us")}
    return pl.DataFrame([{**row, "event_time": row["t"]} for row in rows], schema=schema)


def newest(lake: SmallLake) -> dict[str, Row]:
    rows = lake.rows("gold", TABLE) if lake.lake.exists("gold", TABLE) else []
    return {row["trans_num"]: row for row in sorted(rows, key=lambda row: row["version"])}


def test_row_by_row_gives_what_one_build_gives(lake: SmallLake, catalogue: Catalogue) -> None:
    rows, delay = payments(3), timedelta(seconds=LABEL_DELAY)
    names = [feature.name for feature in catalogue.of_table(TABLE)]
    live: list[Row] = []
    for row in rows:
        lake.land("card_transactions", [row])
        build(lake)
        label = labels_of([row])
        live += as_of(label, stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()

    ingested = {row["trans_num"]: row["_ingested_at"] for row in lake.rows("silver", "card_transactions")}
    everything = labels_of(rows).with_columns(known_by=pl.Series([ingested[row["trans_num"]] for row in rows]))
    backtest = as_of(everything, stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()
    counted = [{**row, "known_from": ingested[row["trans_num"]], "known_to": None} for row in rows]
    for row, then, later in zip(rows, live, backtest, strict=True):
        assert [then[name] for name in names] == [later[name] for name in names], "live and backtest, to the last digit"
        label = {**row, "known_by": ingested[row["trans_num"]]}
        assert is_same(then, oracle.features_of(label, counted, catalogue, "cards", delay)) is None
    assert any(reported["merchant_frauds_7d"] for reported in live), "no label was known"

    settled = as_of(labels_of(rows), stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()
    step_by_step = newest(lake)
    assert len(step_by_step) > COUNT // 2
    build(lake, full_refresh=True)
    at_once = newest(lake)
    assert at_once.keys() == step_by_step.keys()
    for row, training in zip(rows, settled, strict=True):
        assert is_same(training, oracle.features_of(row, counted, catalogue, "cards", delay)) is None
        if (number := row["trans_num"]) in at_once:
            for name in names:
                assert step_by_step[number][name] == at_once[number][name] == training[name], (number, name)

    for row in rows:  # a table built anew tells of each vector when what it counts had landed
        if (vector := at_once.get(row["trans_num"])) is not None:
            assert vector["known_at"] == max(ingested[other["trans_num"]] for other in rows if other["t"] <= row["t"])
    then = sorted(vector["known_at"] for vector in at_once.values())[COUNT // 4]
    of_then = as_of(labels_of(rows), known_by=then, settings=lake.settings, transformer=lake.transformer).to_dicts()
    is_reported = [row["card_amt_count_30d"] is not None for row in of_then]
    assert is_reported == [
        row["trans_num"] in at_once and at_once[row["trans_num"]]["known_at"] <= then for row in rows
    ]
    assert 0 < sum(is_reported) < len(at_once)


def build_bank(lake: SmallLake, *, full_refresh: bool = False) -> dict[int, list[Row]]:
    """The versions of each transaction that is in the lake, oldest first."""
    bank_vectors.build(lake, full_refresh=full_refresh)
    found: dict[int, list[Row]] = {}
    for row in sorted(lake.rows("gold", bank_vectors.TABLE), key=lambda row: row["version"]):
        found.setdefault(row["transaction_id"], []).append(row)
    return found


def ask_bank(lake: SmallLake, labels: list[Row], schema: dict[str, Any], *, stored: bool) -> list[Row]:
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in labels], schema=schema)
    reported = as_of(frame, "bank", stored=stored, settings=lake.settings, transformer=lake.transformer)
    return reported.drop(schema).to_dicts()


@settings(max_examples=5, deadline=None)
@given(batches=bank_vectors.BATCHES)
def test_the_banks_versions_are_what_was_known_at_their_moments(
    shared_lake: SmallLake, batches: bank_vectors.Batches
) -> None:
    """Each stored version, however changes fall into builds; by default that of the payment's own commit, or none."""
    lake, bank = shared_lake, bank_vectors.Bank()
    lake.clear()
    first: dict[int, Row] = {}  # the event that brought each transaction
    for batch in batches:
        events = [event for operation in batch if (event := bank.change(*operation)) is not None]
        if events:
            lake.land("transactions", events)
            bank_vectors.build(lake)
        for event in events:
            if event["_op"] == "c":
                first.setdefault(event["transaction_id"], event)
    if not first:
        return
    lake.transformer.build(["transactions_history"], tests=False).raise_for_errors()
    history = lake.rows("silver", "transactions_history")
    versions = build_bank(lake)

    def then(identity: int, at: datetime) -> Row:
        """A label: the transaction as it was at a moment."""
        (state,) = (
            row
            for row in history
            if row["transaction_id"] == identity
            and row["valid_from"] <= at
            and (row["valid_to"] is None or at < row["valid_to"])
        )
        amount = None if state["amount"] is None else float(state["amount"])
        return {**state, "amount": amount, "event_time": state["transaction_date"], "known_by": at}

    computed: dict[str, Any] = {"user_id": pl.Int64(), "amount": pl.Float64(), "event_time": pl.Datetime("us")}
    computed["known_by"] = pl.Datetime("us", "UTC")
    alive = [row for rows in versions.values() for row in rows if not row["is_deleted"]]
    labels = [then(row["transaction_id"], row["known_at"]) for row in alive]
    for row, reported in zip(alive, ask_bank(lake, labels, computed, stored=False) if alive else [], strict=True):
        assert {name: row[name] for name in reported} == reported, "to the last digit"

    labels = [then(identity, event["_committed_at"]) for identity, event in first.items()]
    decided = ask_bank(lake, labels, computed, stored=False)

    def check_decided(versions: dict[int, list[Row]]) -> None:
        stored = ask_bank(lake, labels, {"transaction_id": pl.Int64()}, stored=True)
        for label, reported, wanted in zip(labels, stored, decided, strict=True):
            of_then = [row for row in versions.get(label["transaction_id"], []) if row["known_at"] <= label["known_by"]]
            assert reported == (wanted if of_then else dict.fromkeys(wanted)), label

    check_decided(versions)
    check_decided(build_bank(lake, full_refresh=True))
