"""History replayed row by row gives the numbers of the batch build: stored vectors, features of labels, brute force."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from fraud_lakehouse.errors import LakeError
from fraud_lakehouse.features import as_of
from fraud_lakehouse.features.catalogue import FILE, Catalogue, load_catalogue
from fraud_lakehouse.transform.project import shipped_project
from tests.dbt import as_of_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.vectors_oracle import is_same

START = datetime(2024, 3, 1, 5)  # noqa: DTZ001 event times have no zone
TABLE = "card_feature_vectors"
KEYS = ("user_id", "cc_num", "merchant", "category", "amt")
COUNT = 24


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(shipped_project() / FILE)


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("replay") / "lake")
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
            | {"trans_date_trans_time": str(moment), "_topic": "transaction", "_partition": 0, "_offset": number}
        )
    return rows


def build(lake: SmallLake, *options: str) -> None:
    tables = ["--select", "silver.card_transactions", "silver.card_transactions_late", TABLE]
    lake.transformer.build([*tables, *options], tests=False).raise_for_errors()


def labels_of(rows: list[Row]) -> pl.DataFrame:
    schema = {"trans_num": pl.String(), "user_id": pl.Int64(), "cc_num": pl.Int64(), "merchant": pl.String()}
    schema |= {"category": pl.String(), "amt": pl.Float64(), "event_time": pl.Datetime("us")}
    return pl.DataFrame([{**row, "event_time": row["t"]} for row in rows], schema=schema)


def newest(lake: SmallLake) -> dict[str, Row]:
    rows = lake.rows("gold", TABLE) if lake.lake.exists("gold", TABLE) else []
    return {row["trans_num"]: row for row in sorted(rows, key=lambda row: row["version"])}


def test_row_by_row_gives_what_one_build_gives(lake: SmallLake, catalogue: Catalogue) -> None:
    rows = payments(3)
    names = [feature.name for feature in catalogue.of_table(TABLE)]
    live: list[Row] = []
    for row in rows:
        lake.land("card_transactions", [row])
        build(lake)
        label = labels_of([row])
        live += as_of(label, stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()

    landed = {row["trans_num"]: row["_ingested_at"] for row in lake.rows("silver", "card_transactions")}
    everything = labels_of(rows).with_columns(known_by=pl.Series([landed[row["trans_num"]] for row in rows]))
    backtest = as_of(everything, stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()
    counted = [{**row, "known_from": landed[row["trans_num"]], "known_to": None, "is_fraud": None} for row in rows]
    for row, then, later in zip(rows, live, backtest, strict=True):
        assert [then[name] for name in names] == [later[name] for name in names], "live and backtest, to the last digit"
        label = {**row, "known_by": landed[row["trans_num"]]}
        assert is_same(then, oracle.features_of(label, counted, catalogue, "cards")) is None

    settled = as_of(labels_of(rows), stored=False, settings=lake.settings, transformer=lake.transformer).to_dicts()
    step_by_step = newest(lake)
    assert len(step_by_step) > COUNT // 2
    build(lake, "--full-refresh")
    at_once = newest(lake)
    assert at_once.keys() == step_by_step.keys()
    for row, training in zip(rows, settled, strict=True):
        assert is_same(training, oracle.features_of(row, counted, catalogue, "cards")) is None
        if (number := row["trans_num"]) in at_once:
            for name in names:
                assert step_by_step[number][name] == at_once[number][name] == training[name], (number, name)


def test_stored_vectors_are_the_newest_version_known_by_then(lake: SmallLake) -> None:
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    vectors = pl.DataFrame(
        {"trans_num": ["a", "a", "b"], "version": [1, 2, 1], "known_at": [*moments, moments[0]]}
        | {"user_amt_count_1h": [5, 6, 7]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )
    vectors.write_delta(lake.lake.uri("gold", TABLE))
    labels = pl.DataFrame({"trans_num": ["b", "a", None, "a", "unknown"], "note": [1, 2, 3, 4, 5]})

    def ask(labels: pl.DataFrame, known_by: datetime | None = None) -> list[int | None]:
        told = as_of(
            labels,
            features=["user_amt_count_1h"],
            known_by=known_by,
            settings=lake.settings,
            transformer=lake.transformer,
        )
        assert told.select(labels.columns).equals(labels), "no row dropped, none moved"
        return told["user_amt_count_1h"].to_list()

    assert ask(labels) == [7, 6, None, 6, None]
    assert ask(labels, moments[0]) == [7, 5, None, 5, None]
    assert ask(labels, moments[0] - timedelta(microseconds=1)) == [None] * 5
    each = labels.with_columns(
        known_by=pl.Series([None, moments[1], None, moments[0], None], dtype=pl.Datetime("us", "UTC"))
    )
    assert ask(each) == [7, 6, None, 5, None], "a row's own moment goes before the call's"
    assert ask(each, moments[0]) == [7, 6, None, 5, None]


def test_stored_vectors_of_the_bank_end_with_a_delete(lake: SmallLake) -> None:
    labels = pl.DataFrame({"transaction_id": [1, 2]})
    with pytest.raises(LakeError, match="there is no gold/transaction_feature_vectors"):
        as_of(labels, "bank", settings=lake.settings, transformer=lake.transformer)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    pl.DataFrame(
        {"transaction_id": [1, 2, 2], "version": [1, 1, 2], "known_at": [moment, moment, moment + timedelta(days=1)]}
        | {"is_deleted": [False, False, True], "user_amount_count_1h": [5, 6, None]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    ).write_delta(lake.lake.uri("gold", "transaction_feature_vectors"))

    def ask(known_by: datetime | None) -> list[int | None]:
        told = as_of(
            labels,
            "bank",
            features=["user_amount_count_1h"],
            known_by=known_by,
            settings=lake.settings,
            transformer=lake.transformer,
        )
        return told["user_amount_count_1h"].to_list()

    assert ask(None) == [5, None]
    assert ask(moment) == [5, 6]
