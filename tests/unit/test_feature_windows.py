"""Tables of windows in the catalogue: their kinds, sizes and steps are spelt out, and refused by name when wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.definitions import definitions_of
from tests.catalogues import small, stream

TABLE: dict[str, Any] = {"past": "hop", "step": "20 minutes", "key": ["user_id"], "model": "spells_versions"}
SETTINGS = {"late_rows": "drop"}


def load(folder: Path, table: dict[str, Any] | None = None, **entry: Any) -> Catalogue:
    table = TABLE | (table or {})
    measures = {"amt": {"expression": "amt", "unit": "euros", "decimals": 2, "about": "amount"}}
    spells = {name: value for name, value in table.items() if value is not None}
    feature = {"name": "amt_{aggregate}", "stream": "cards", "table": "spells", "entity": "user", "measure": "amt"}
    feature |= {"aggregate": "sum", "window": "1 hour", "past": table["past"], "owner": "somebody"} | entry
    return small(folder, stream(), feature, measures=measures, tables={"spells": spells})


def only(catalogue: Catalogue) -> Feature:
    [feature] = catalogue.features
    return feature


@pytest.mark.parametrize(
    ("table", "steps", "counted"),
    [
        ({}, 1_200, "the window of 1 hour, one of which starts every 20 minutes, aligned to the epoch, end excluded."),
        ({"past": "cumulate"}, 1_200, "the window that grows by 20 minutes up to 1 hour, aligned to the epoch"),
        ({"past": "session", "step": None}, None, "the session: a run of payments each less than 1 hour after the one"),
        ({"past": "tumble", "step": None}, None, "the window of 1 hour, aligned to the epoch, start included, end"),
    ],
)
def test_a_table_of_windows(tmp_path: Path, table: dict[str, Any], steps: int | None, counted: str) -> None:
    feature = only(load(tmp_path, table))
    assert (feature.table, feature.seconds, feature.step_seconds) == ("spells", 3_600, steps)
    assert feature.definition.startswith(f"Sum of amount, of the user; event time in {counted}")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"step": None}, r"table 'spells' of 'cards': windows of past: hop need a step\n.*such as \"1 hour\""),
        ({"past": "session"}, r"table 'spells' of 'cards': windows of past: session have no step\n.*leave it out"),
        ({"step": "often"}, r"table 'spells' of 'cards', step: window 'often' is not a size"),
        ({"step": "25 minutes"}, r"table 'spells': its step is 25 minutes, its windows are 1 hour\n.*a multiple"),
        ({"past": "jump"}, r"tables.cards.spells.past: Input should be 'closed', 'tumble', 'hop', 'cumulate'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(TransformError, match=message):
        load(tmp_path, table)


def test_a_feature_has_to_be_of_the_kind_its_table_has(tmp_path: Path) -> None:
    with pytest.raises(TransformError, match=r"past: tumble is not computed in spells\n.*use past: hop"):
        load(tmp_path, past="tumble")


def test_another_step_is_another_definition(tmp_path: Path) -> None:
    every_20, again, every_30 = (
        definitions_of(load(tmp_path, {"step": step}), SETTINGS) for step in ("20 minutes", "20 minutes", "30 minutes")
    )
    assert every_20 == again
    assert every_20["spells_versions"].keys() == every_30["spells_versions"].keys() == {"amt_sum"}
    assert every_20 != every_30
