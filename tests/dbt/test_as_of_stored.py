"""Stored vectors told of labels: the version decided on, or known by a moment; corrected ones only where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from fraud_lakehouse.cli import app
from fraud_lakehouse.detection import as_of
from fraud_lakehouse.errors import LabelsError, LakeError
from tests.dbt.small_lake import SmallLake
from tests.dbt.test_bank_vectors import START, build, commit, committed_at, payment

CARDS, BANK = "card_feature_vectors", "transaction_feature_vectors"
MOMENTS = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("stored") / "lake")
    yield lake
    lake.transformer.close()


def ask(lake: SmallLake, labels: pl.DataFrame, source: str, feature: str, **options: Any) -> list[Any]:
    """One feature of the labels."""
    told = as_of(labels, source, features=[feature], settings=lake.settings, transformer=lake.transformer, **options)
    assert told.select(labels.columns).equals(labels), "no row dropped, none moved"
    return told[feature].to_list()


def store_cards(lake: SmallLake) -> None:
    """Payment a with a correction, b without."""
    pl.DataFrame(
        {"trans_num": ["a", "a", "b"], "version": [1, 2, 1], "known_at": [*MOMENTS, MOMENTS[0]]}
        | {"user_amt_count_1h": [5, 6, 7]},
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    ).write_delta(lake.lake.uri("gold", CARDS))


def test_cards_are_told_the_version_decided_on_or_known_by_then(lake: SmallLake) -> None:
    store_cards(lake)
    labels = pl.DataFrame({"trans_num": ["b", "a", None, "a", "unknown"], "note": [1, 2, 3, 4, 5]})

    def told(labels: pl.DataFrame, **options: Any) -> list[Any]:
        return ask(lake, labels, "cards", "user_amt_count_1h", **options)

    assert told(labels) == [7, 5, None, 5, None], "a correction does not leak in"
    assert told(labels, corrected=True) == [7, 6, None, 6, None]
    assert told(labels, known_by=MOMENTS[1]) == [7, 6, None, 6, None]
    assert told(labels, known_by=MOMENTS[0]) == [7, 5, None, 5, None]
    assert told(labels, known_by=MOMENTS[0] - timedelta(microseconds=1)) == [None] * 5
    each = labels.with_columns(
        known_by=pl.Series([None, MOMENTS[1], None, MOMENTS[0], None], dtype=pl.Datetime("us", "UTC"))
    )
    assert told(each) == [7, 6, None, 5, None], "a row's own moment; the version decided on where it has none"
    assert told(each, known_by=MOMENTS[0]) == [7, 6, None, 5, None], "it goes before the call's"
    assert told(each.with_columns(trans_num=pl.lit("a")), corrected=True) == [6, 6, 6, 5, 6]
    decided = pl.Series([datetime(2019, 1, 1, tzinfo=UTC), *MOMENTS, MOMENTS[0], None])
    decided_at = labels.with_columns(trans_num=pl.lit("a"), event_time=decided)
    assert told(decided_at) == [5, 5, 6, 5, 5], "decided later: what had been corrected by then"


def warnings_of_labels(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Not that of the table, which the test wrote without telling by which definitions."""
    output = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [one for one in output if "labels name" in one]


def test_what_is_null_is_told_by_its_reason(lake: SmallLake, caplog: pytest.LogCaptureFixture) -> None:
    store_cards(lake)
    labels = pl.DataFrame({"trans_num": ["b", "a", None, "a", "unknown"]})
    ask(lake, labels, "cards", "user_amt_count_1h", known_by=MOMENTS[0] - timedelta(days=1))
    later, without = warnings_of_labels(caplog)
    assert later.startswith(f"3 labels name payments whose vectors in gold/{CARDS} became known only later")
    assert "--computed" in later and "--corrected" in later
    assert without == f"2 labels name no trans_num of which gold/{CARDS} has features: null"
    caplog.clear()
    ask(lake, labels, "cards", "user_amt_count_1h")
    assert warnings_of_labels(caplog) == [without]


def test_a_moment_and_corrections_exclude_each_other(lake: SmallLake, tmp_path: Path) -> None:
    labels = pl.DataFrame({"trans_num": ["a"]})
    with pytest.raises(LabelsError, match="exclude each other"):
        ask(lake, labels, "cards", "user_amt_count_1h", known_by=MOMENTS[0], corrected=True)
    labels.write_csv(tmp_path / "labels.csv")
    command = ["features", "as-of", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "out.csv")]
    with pytest.raises(LabelsError, match="exclude each other"):
        CliRunner().invoke(app, [*command, "--known-by", "2026-01-01", "--corrected"], catch_exceptions=False)


def test_later_changes_of_the_bank_do_not_leak_into_what_was_decided(
    lake: SmallLake, caplog: pytest.LogCaptureFixture
) -> None:
    """An update of an earlier transaction, one dated back, and the delete of the label's own."""
    commit(lake, payment("c", 10, 1, 1, 0, amount=10))
    commit(lake, payment("c", 20, 2, 1, 1, amount=5))
    commit(lake, payment("u", 30, 1, 1, 0, amount=99))
    commit(lake, payment("c", 40, 3, 1, 0.5, amount=1))
    lake.transformer.build(["transactions_history"], tests=False).raise_for_errors()
    labels = pl.DataFrame({"transaction_id": [2]})
    keys = {"user_id": [1], "event_time": [START + timedelta(days=1)]}

    def told(labels: pl.DataFrame = labels, **options: Any) -> Any:
        (value,) = ask(lake, labels, "bank", "user_amount_sum_30d", **options)
        return value

    assert told() == 10
    assert told(known_by=committed_at(30)) == 99
    assert told(corrected=True) == 100
    for decided_at, amount in ((keys["event_time"][0], 10), (committed_at(35), 99)):  # before its commit; later
        assert told(labels.with_columns(event_time=pl.lit(decided_at))) == amount, "what was committed by the decision"
    assert told(pl.DataFrame(keys), known_by=committed_at(20)) == 10
    assert told(pl.DataFrame(keys), corrected=True) == 100
    assert told(pl.DataFrame(keys)) is None, "nothing was committed by that date"

    build(lake, full_refresh=True)
    caplog.clear()
    assert told() is None, "the version decided on is not there any more, and no later one stands in for it"
    assert "1 labels name payments whose vectors" in caplog.text
    assert told(corrected=True) == 100

    commit(lake, {"_op": "d", "_lsn": 50, "_seq": 1, "transaction_id": 3})
    commit(lake, payment("c", 60, 4, 1, 2))
    commit(lake, {"_op": "d", "_lsn": 70, "_seq": 1, "transaction_id": 4})
    deleted = pl.DataFrame({"transaction_id": [4]})
    assert told(deleted) == 104, "deleted later"
    assert told(deleted, corrected=True) is None
    assert told(deleted, known_by=committed_at(69)) == 104


def test_labels_want_vectors_that_are_not_there(lake: SmallLake) -> None:
    with pytest.raises(LakeError, match="there is no gold/transaction_feature_vectors"):
        as_of(pl.DataFrame({"transaction_id": [1]}), "bank", settings=lake.settings, transformer=lake.transformer)
