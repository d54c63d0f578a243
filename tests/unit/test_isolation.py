"""What a failing model takes with it, against the definition of it followed path by path."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.transform.build import unbuildable
from tests.compiled import project_of

PROJECT = {
    "ledger": ["bronze.transactions"],
    "cards": ["bronze.card_transactions"],
    "late": ["cards"],
    "bank_features": ["bronze.users", "ledger"],
    "card_features": ["cards"],
    "scores": ["bank_features", "card_features"],
    "bank_scores": ["bank_features"],
    "alerts": ["scores", "bank_scores"],
}
SOURCES = ["source 0", "source 1", "source 2"]


def test_what_reads_something_else_than_the_failed_model_is_built() -> None:
    assert unbuildable(project_of(PROJECT), {"ledger"}) == {"ledger"}
    assert unbuildable(project_of(PROJECT), {"cards"}) == {"cards", "late", "card_features"}
    assert unbuildable(project_of(PROJECT), {"ledger", "bank_features"}) == {"ledger", "bank_features", "bank_scores"}
    assert unbuildable(project_of(PROJECT), {"scores"}) == {"scores"}
    assert unbuildable(project_of(PROJECT), {"scores", "bank_scores"}) == {"scores", "bank_scores", "alerts"}
    assert unbuildable(project_of(PROJECT), set()) == set()


def sources_of(model: str) -> set[str]:
    return {".".join(table) for table in project_of(PROJECT).tables_of(model)}


def test_the_sources_of_a_model_are_those_of_all_it_reads() -> None:
    assert sources_of("bank_scores") == {"bronze.transactions", "bronze.users"}
    assert sources_of("alerts") == {"bronze.transactions", "bronze.users", "bronze.card_transactions"}
    assert sources_of("late") == {"bronze.card_transactions"}


@st.composite
def projects(draw: st.DrawFn) -> dict[str, list[str]]:
    """Models that each read some of what is before them."""
    names, found = list(SOURCES), dict[str, list[str]]()
    for number in range(draw(st.integers(1, 8))):
        found[f"model {number}"] = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        names.append(f"model {number}")
    return found


def reaches_a_source(parents: Mapping[str, Sequence[str]], failed: Collection[str], model: str) -> bool:
    """Whether rows can come to a model from a source on some way without a failed model."""
    if model in failed:
        return False
    return model not in parents or any(reaches_a_source(parents, failed, one) for one in parents[model])


@given(projects(), st.data())
def test_a_model_is_built_if_rows_can_reach_it(parents: dict[str, list[str]], data: st.DataObject) -> None:
    failed = data.draw(st.sets(st.sampled_from(sorted(parents))))
    expected = {model for model in parents if not reaches_a_source(parents, failed, model)}
    assert unbuildable(project_of(parents), failed) == expected
