"""Features of labels equal brute force: ties, bounds to the microsecond, nulls, refunds, late rows, known_by."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_lakehouse.detection import as_of
from tests.catalogues import shipped_catalogue
from tests.dbt import as_of_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.transactions_oracle import START as BANK_START
from tests.dbt.transactions_oracle import Change, Replayed, committed_at, random_log
from tests.dbt.vectors_oracle import is_same

START = datetime(2024, 3, 1, 5)  # noqa: DTZ001 event times have no zone
DELAY = 86_400  # seconds until a fraud label is known, here
SIZES = [0, 600, 3600, 21_600, DELAY, 7 * 86_400, 30 * 86_400, 30 * 86_400 + DELAY]
TIMES = st.builds(
    lambda size, background: START + timedelta(seconds=size, microseconds=background),
    st.sampled_from(SIZES),
    st.sampled_from([-1, 0, 0, 0, 1]),
)
KNOWN = st.builds(lambda moment: moment.replace(tzinfo=UTC), TIMES)
KEYS: dict[str, Any] = {
    "user_id": st.sampled_from([1, 1, 1, 2, None]),
    "cc_num": st.sampled_from([7, 7, 8, None]),
    "merchant": st.sampled_from(["one", "one", "two", None]),
    "category": st.sampled_from(["food", "food", "travel", None]),
}
AMOUNT = st.sampled_from([None, 0.0, -5.25, 10.0, 10.0, 3.3333, 1e3])
PAYMENT = st.fixed_dictionaries(
    {
        **KEYS,
        "amt": AMOUNT,
        "t": TIMES | st.none(),
        "known_from": KNOWN,
        "is_late": st.sampled_from([False] * 5 + [True]),
    }
    | {"is_fraud": st.sampled_from([0, 1, 1, None, 2])}
)
LABEL = st.fixed_dictionaries({**KEYS, "amt": AMOUNT, "t": TIMES | st.none(), "known_by": KNOWN | st.none()})
KINDS = {"user_id": pl.Int64(), "cc_num": pl.Int64(), "merchant": pl.String(), "category": pl.String()}


CATALOGUE = shipped_catalogue()  # no fixture: hypothesis would print it


@pytest.fixture(scope="module", params=["drop", "correct"])
def shared_lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    root = tmp_path_factory.mktemp("as_of") / "lake"
    # Here event times and the moments at which rows became known have nothing to do with each other: no limit.
    lake = SmallLake(root, late_rows=request.param, label_delay=DELAY, max_future=0.0)
    yield lake
    lake.transformer.close()


def store(lake: SmallLake, table: str, rows: list[Row], schema: dict[str, Any]) -> None:
    frame = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    write_deltalake(lake.lake.uri("silver", table), frame.to_arrow(), mode="overwrite", schema_mode="overwrite")


def store_payments(lake: SmallLake, payments: list[Row]) -> None:
    """Silver as it would be."""
    rows = [
        {**row, "trans_num": f"t{number}", "trans_date_trans_time": row["t"], "_ingested_at": row["known_from"]}
        for number, row in enumerate(payments)
    ]
    schema = {"trans_num": pl.String(), **KINDS, "amt": pl.Float64(), "is_fraud": pl.Int64()}
    times = {"trans_date_trans_time": pl.Datetime("us"), "_ingested_at": pl.Datetime("us", "UTC")}
    store(lake, "card_transactions", rows, schema | times)
    store(lake, "card_transactions_late", [row for row in rows if row["is_late"]], {"trans_num": pl.String()})


def ask(lake: SmallLake, labels: list[Row], source: str, kinds: dict[str, Any], **options: Any) -> list[Row]:
    """as_of over the lake; `t` of the labels is event_time."""
    rows = [{name: row.get(name) for name in kinds} | {"event_time": row["t"]} for row in labels]
    frame = pl.DataFrame(rows, schema={**kinds, "event_time": pl.Datetime("us")})
    told = as_of(frame, source, settings=lake.settings, transformer=lake.transformer, **options)
    assert told.select(frame.columns).equals(frame)
    return told.to_dicts()


def check(told: list[Row], labels: list[Row], rows: list[Row], source: str) -> None:
    assert len(told) == len(labels)
    for label, found in zip(labels, told, strict=True):
        wanted = oracle.features_of(label, rows, CATALOGUE, source, timedelta(seconds=DELAY))
        differs = is_same(found, wanted)
        assert differs is None, (label, differs)


@settings(max_examples=15, deadline=None)
@given(
    payments=st.lists(PAYMENT, max_size=14),
    labels=st.lists(LABEL, min_size=1, max_size=6),
    each=st.booleans(),
    corrected=st.booleans(),
)
def test_cards_equal_brute_force(
    shared_lake: SmallLake, payments: list[Row], labels: list[Row], each: bool, corrected: bool
) -> None:
    store_payments(shared_lake, payments)
    rows = [{**row, "known_to": None} for row in payments if not row["is_late"] or shared_lake.late_rows == "correct"]
    kinds = {**KINDS, "amt": pl.Float64()}
    moment = None if each else labels[0]["known_by"]
    corrected = corrected and moment is None
    if each:
        kinds["known_by"] = pl.Datetime("us", "UTC")
    else:
        labels = [{**label, "known_by": moment} for label in labels]
    told = ask(shared_lake, labels, "cards", kinds, known_by=moment, corrected=corrected)
    check(told, labels, [{**row, "is_late": row["is_late"] and not corrected} for row in rows], "cards")


NOW = datetime(2100, 1, 1, tzinfo=UTC)
"""After everything that is known here."""
BANK = st.fixed_dictionaries(
    {
        "user_id": KEYS["user_id"],
        "amount": AMOUNT,
        "t": TIMES | st.none(),
        "known_from": KNOWN,
        "known_to": KNOWN | st.none(),
    }
)
BANK_LABEL = st.fixed_dictionaries(
    {"user_id": KEYS["user_id"], "amount": AMOUNT, "t": TIMES | st.none(), "known_by": KNOWN | st.none()}
)


@settings(max_examples=15, deadline=None)
@given(
    versions=st.lists(BANK, max_size=14),
    labels=st.lists(BANK_LABEL, min_size=1, max_size=6),
    each=st.booleans(),
    corrected=st.booleans(),
)
def test_bank_equals_brute_force(
    shared_lake: SmallLake, versions: list[Row], labels: list[Row], each: bool, corrected: bool
) -> None:
    rows = [
        {**row, "transaction_id": number, "transaction_date": row["t"], "valid_from": row["known_from"]}
        | {"valid_to": row["known_to"]}
        for number, row in enumerate(versions)
    ]
    schema: dict[str, Any] = {
        "transaction_id": pl.Int32(),
        "user_id": pl.Int32(),
        "transaction_date": pl.Datetime("us"),
    }
    times = {"amount": pl.Float64(), "valid_from": pl.Datetime("us", "UTC"), "valid_to": pl.Datetime("us", "UTC")}
    store(shared_lake, "transactions_history", rows, schema | times)
    kinds: dict[str, Any] = {"user_id": pl.Int64(), "amount": pl.Float64()}
    moment = None if each else labels[0]["known_by"]
    if each:
        kinds["known_by"] = pl.Datetime("us", "UTC")
    else:
        labels = [{**label, "known_by": moment} for label in labels]
    corrected = corrected and moment is None
    told = ask(shared_lake, labels, "bank", kinds, known_by=moment, corrected=corrected)
    if corrected:
        labels = [{**label, "known_by": label["known_by"] or NOW} for label in labels]
    check(told, labels, versions, "bank")


@pytest.mark.parametrize("seed", range(2))
def test_bank_as_known_then_is_the_table_as_it_was_then(lake: SmallLake, seed: int) -> None:
    """Updates, moves, deletes and truncates: what counts at a moment is the source's table at that moment."""
    log, rng = random_log(seed, transactions=120), random.Random(seed)
    changes: list[Change] = [change for commit in log for change in commit]
    lake.land("transactions", [row for table, row in changes if table == "transactions"])
    lake.transformer.build(["transactions_history"]).raise_for_errors()
    labels, wanted = [], []
    for _ in range(60):
        lsn = rng.choice(changes)[1]["_lsn"]
        before = rng.random() < 0.5  # a microsecond before that commit, or exactly at it
        known_by = committed_at(lsn) - timedelta(microseconds=int(before))
        at = BANK_START + timedelta(minutes=rng.randrange(90), microseconds=rng.choice([0, 0, 1]))
        labels.append({"user_id": rng.randrange(1, 7), "amount": 12.5, "t": at, "known_by": known_by})
        until = [commit for commit in log if commit and commit[0][1]["_lsn"] < lsn + (not before)]
        state = Replayed().replay(until).transactions.values()
        rows = [{**row, "t": row["transaction_date"], "known_from": known_by, "known_to": None} for row in state]
        wanted.append(oracle.features_of(labels[-1], rows, CATALOGUE, "bank"))
    kinds = {"user_id": pl.Int64(), "amount": pl.Float64(), "known_by": pl.Datetime("us", "UTC")}
    found = ask(lake, labels, "bank", kinds)
    assert any(row["user_amount_count_30d"] for row in found)
    for label, row, expected in zip(labels, found, wanted, strict=True):
        assert (differs := is_same(row, expected)) is None, (label, differs)


def test_a_labels_own_payment_and_its_ties_do_not_count(lake: SmallLake) -> None:
    payment = {"user_id": 1, "cc_num": 7, "merchant": "one", "category": "food", "amt": 5.0, "t": START, "is_fraud": 1}
    payment |= {"known_from": START.replace(tzinfo=UTC), "is_late": False}
    store_payments(lake, [payment, payment, {**payment, "t": START - timedelta(microseconds=1), "amt": -2.0}])
    (told,) = ask(lake, [payment], "cards", {**KINDS, "amt": pl.Float64()})
    assert (told["user_amt_count_10min"], told["user_amt_sum_10min"]) == (1, -2.0), "a refund is an amount like another"
    assert (told["user_seconds_since_last"], told["user_merchant_is_first"]) == (1e-6, False)


def test_amounts_of_more_decimals_than_declared_are_rounded_where_they_are_added_up(lake: SmallLake) -> None:
    """Count, sum, mean and deviation are of whole ten-thousandths; median, maximum and MAD of what came."""

    def told(*amounts: float) -> Row:
        payment = {"user_id": 1, "cc_num": 7, "merchant": "one", "category": "food", "is_fraud": None}
        payment |= {"known_from": START.replace(tzinfo=UTC), "is_late": False}
        store_payments(lake, [{**payment, "amt": amount, "t": START} for amount in amounts])
        label = {**payment, "amt": 3.0, "t": START + timedelta(minutes=1)}
        return ask(lake, [label], "cards", {**KINDS, "amt": pl.Float64()})[0]

    some = told(0.00004, 1.00006, 1.00008)
    assert (some["user_amt_count_30d"], some["user_amt_sum_30d"]) == (3, 2.0002)
    assert some["user_amt_mean_30d"] == 2.0002 / 3
    assert some["user_amt_stddev_30d"] == pytest.approx(statistics.stdev([0.0, 1.0001, 1.0001]), rel=1e-12)
    assert (some["user_amt_median_30d"], some["user_amt_max_30d"]) == (1.00006, 1.00008)
    assert some["user_amt_mad_30d"] == 1.00008 - 1.00006
    assert some["user_amt_to_median_30d"] == 3.0 / 1.00006
    tiny = told(0.00004, 0.00004)
    assert (tiny["user_amt_count_30d"], tiny["user_amt_sum_30d"], tiny["user_amt_mean_30d"]) == (2, 0.0, 0.0)
    assert (tiny["user_amt_to_mean_30d"], tiny["user_amt_median_30d"]) == (None, 0.00004)


def test_the_bank_knows_nothing_before_its_first_commit(lake: SmallLake, caplog: pytest.LogCaptureFixture) -> None:
    lake.land("transactions", [row for table, row in random_log(0, 3)[0] if table == "transactions"])
    lake.transformer.build(["transactions_history"]).raise_for_errors()
    label = {"user_id": 1, "t": BANK_START}
    (told,) = ask(lake, [label], "bank", {"user_id": pl.Int64()}, features=["user_amount_count_30d"])
    assert told["user_amount_count_30d"] == 0
    assert "1 labels were decided before 2026-01-01T00:00:10+00:00" in caplog.text
