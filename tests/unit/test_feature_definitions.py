"""What a feature's stored rows were computed by: told by a number that changes with the meaning, kept in the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from fraud_lakehouse.features.definitions import definitions_of
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.transform.definitions import outdated_features, to_commit
from tests.catalogues import shipped_catalogue, shipped_content, written

SETTINGS = {"late_rows": "drop", "label_delay_seconds": 60}
CARDS = "card_feature_vectors"


def changed(folder: Path, change: Callable[[dict[str, Any]], None], **settings: Any) -> set[str]:
    """Features whose definition a change of the catalogue or of settings changes: `table.name`."""
    content = shipped_content()
    before = definitions_of(shipped_catalogue(), SETTINGS)
    change(content)
    after = definitions_of(written(folder, content), SETTINGS | settings)
    assert before.keys() == after.keys()
    return {
        f"{table}.{name}"
        for table, numbers in after.items()
        for name, number in numbers.items()
        if before[table].get(name) != number
    }


def unchanged(_: dict[str, Any]) -> None:
    pass


def test_words_and_owners_decide_nothing(tmp_path: Path) -> None:
    def reworded(content: dict[str, Any]) -> None:
        for entry in content["features"]:
            entry["owner"] = "somebody else"
        content["measures"]["card_payments"]["fraud"] |= {"about": "what was said", "unit": "parts"}

    assert changed(tmp_path, reworded) == set()


def test_a_measure_decides_the_features_it_is_part_of(tmp_path: Path) -> None:
    def night_is_longer(content: dict[str, Any]) -> None:
        measure = content["measures"]["all"]["night"]
        measure["expression"] = measure["expression"].replace("< 6", "< 7")

    shares = {f"{CARDS}.user_night_share_30d", f"{CARDS}.card_night_share_30d"}
    assert changed(tmp_path, night_is_longer) == shares | {"transaction_feature_vectors.user_night_share_30d"}


def test_a_feature_decides_those_computed_from_it(tmp_path: Path) -> None:
    def counted_otherwise(content: dict[str, Any]) -> None:
        (entry,) = [one for one in content["features"] if one["name"] == "{entity}_frauds_{window}"]
        entry["aggregate"] = "mean"

    frauds = {f"{entity}_frauds_{window}" for entity in ("merchant", "category") for window in ("7d", "30d")}
    risks = {"merchant_fraud_risk_30d", "category_fraud_risk_30d"}
    assert changed(tmp_path, counted_otherwise) == {f"{CARDS}.{name}" for name in frauds | risks}


def test_settings_decide_what_heeds_them(tmp_path: Path) -> None:
    assert {name for name in changed(tmp_path, unchanged, label_delay_seconds=61) if "fraud" not in name} == {
        f"{CARDS}.{entity}_labels_{window}" for entity in ("merchant", "category") for window in ("7d", "30d")
    }
    tables = {name.partition(".")[0] for name in changed(tmp_path, unchanged, late_rows="correct")}
    over = "user_trans_amt_last_360min"
    windows = {f"{over}_{kind}_versions" for kind in ("windowed", "hop", "cumulate")} | {"user_card_sessions_versions"}
    assert tables == {CARDS} | windows, "neither the bank's nor OVER"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


def build(lake: Lake, definitions: dict[str, int], *, all_rows: bool = False, rows: int = 1) -> None:
    """A commit of rows computed by these definitions, as a build makes it."""
    uri = lake.uri("gold", "vectors")
    target = DeltaTable(uri) if lake.exists("gold", "vectors") else None
    columns = {"id": pa.array([1] * rows, pa.int64())}
    columns |= {name: pa.array([0.5] * rows, pa.float64()) for name in definitions}
    output = CommitProperties(app_transactions=to_commit(target, definitions, all_rows=all_rows))
    if target is None or all_rows:
        write_deltalake(uri, pa.table(columns), mode="overwrite", schema_mode="overwrite", commit_properties=output)
    else:
        write_deltalake(target, pa.table(columns), mode="append", schema_mode="merge", commit_properties=output)


def outdated(lake: Lake, definitions: dict[str, int]) -> tuple[str, ...]:
    found = list(outdated_features(lake, {"vectors": definitions}))
    return found[0].features if found else ()


def test_rows_of_one_definition_are_not_outdated(lake: Lake) -> None:
    assert outdated(lake, {"a": 1}) == (), "there is no table"
    for _ in range(2):
        build(lake, {"a": 1, "b": 2})
    assert outdated(lake, {"a": 1, "b": 2}) == ()


def test_a_changed_and_a_new_feature_stay_outdated_until_all_rows_are_built(lake: Lake) -> None:
    build(lake, {"a": 1, "b": 2})
    now = {"a": 7, "b": 2, "c": 3}
    assert outdated(lake, now) == ("a", "c"), "before a row is built"
    for _ in range(2):
        build(lake, now)
        assert outdated(lake, now) == ("a", "c")
    (reported,) = outdated_features(lake, {"vectors": now})
    assert "gold/vectors has rows in which a, c were computed by another definition, or not at all" in str(reported)
    assert "`fraud-lakehouse rebuild vectors`" in str(reported)

    build(lake, now, all_rows=True)
    assert outdated(lake, now) == ()


def test_a_definition_taken_back_is_outdated_only_if_rows_were_built_by_the_other(lake: Lake) -> None:
    build(lake, {"a": 1})
    assert outdated(lake, {"a": 7}) == ("a",)
    build(lake, {"a": 1})
    assert outdated(lake, {"a": 1}) == ()
    build(lake, {"a": 7})
    build(lake, {"a": 1})
    assert outdated(lake, {"a": 1}) == ("a",), "rows in the middle say something else"


@pytest.mark.parametrize("all_rows", [False, True])
def test_a_feature_that_was_away_is_outdated(lake: Lake, all_rows: bool) -> None:
    build(lake, {"a": 1, "b": 2})
    build(lake, {"b": 2}, all_rows=all_rows)
    assert outdated(lake, {"b": 2}) == ()
    build(lake, {"a": 1, "b": 2})
    assert outdated(lake, {"a": 1, "b": 2}) == ("a",)


def test_a_table_without_rows_has_nothing_outdated(lake: Lake) -> None:
    build(lake, {"a": 1}, rows=0)
    assert outdated(lake, {"a": 7}) == ()
    build(lake, {"a": 7})
    assert outdated(lake, {"a": 7}) == ()


def test_rows_of_before_definitions_were_kept_are_all_outdated(lake: Lake) -> None:
    write_deltalake(lake.uri("gold", "vectors"), pa.table({"id": [1], "a": [0.5]}))
    (reported,) = outdated_features(lake, {"vectors": {"a": 1}})
    assert "in which all features were computed" in str(reported)
