"""Catalogues of features for tests: the shipped one, changed ones, and small ones of an invented stream."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fraud_lakehouse.features.catalogue import FILE, Catalogue, load_catalogue
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.project import shipped_project
from fraud_lakehouse.transform.streams import project_streams
from tests.declared import bank_and_cards

PIPELINE = Path(__file__).parents[1] / "pipeline"
CARDS, BANK = "card_payments", "bank_payments"
_FAST_PATH: dict[str, Any] = {
    "stream": "all", "table": "fast_path", "past": "fast_path", "entity": "first", "owner": "fast path"
}  # fmt: skip
FAST_PATH: list[dict[str, Any]] = [
    _FAST_PATH | {"name": "prior_{aggregate}", "measure": "amount", "aggregate": ["mean", "count"]},
    _FAST_PATH | {"name": "count_10min", "aggregate": "count", "window": "10 minutes"},
    _FAST_PATH | {"name": "sum_10min", "measure": "amount", "aggregate": "sum", "window": "10 minutes"},
]
"""The features that rules rely on, which every stream has to have."""


@functools.cache
def shipped_streams() -> Mapping[str, PaymentStream]:
    """The streams that have models in the project."""
    found = project_streams(shipped_project(), PIPELINE)
    return {name: stream for name, stream in found.streams.items() if name in found.own}


def loaded(path: Path) -> Catalogue:
    """A catalogue of the shipped streams."""
    return load_catalogue(path, shipped_streams(), is_own=False)


def shipped_content() -> dict[str, Any]:
    """The shipped file, of the streams that have models in the project, to be changed."""
    content: dict[str, Any] = yaml.safe_load((bank_and_cards() / FILE).read_text())
    return content


def shipped_catalogue() -> Catalogue:
    return loaded(PIPELINE / FILE)


def written(folder: Path, content: dict[str, Any]) -> Catalogue:
    """A catalogue of the shipped streams with this content."""
    (folder / FILE).write_text(yaml.safe_dump(content))
    return loaded(folder / FILE)


def stream(**changes: Any) -> PaymentStream:
    """A stream `cards` of events."""
    entities = {"user": {"key": ["user_id"], "about": "the user"}, "card": {"key": ["card"], "about": "the card"}}
    reported = {
        "name": "cards", "kind": "events", "table": "payments", "rows": "payments", "late": "payments_late",
        "features": "fast", "vectors": "vectors", "source_text": "cards.", "id": "id", "time": "at", "amount": "amt",
        "entity": "user", "entities": entities,
    }  # fmt: skip
    return PaymentStream.model_validate(reported | changes)


def small(
    folder: Path, stream: PaymentStream, *entries: dict[str, Any], measures: Any = None, tables: Any = None
) -> Catalogue:
    """A catalogue of one stream: these features alone, though it has those of the fast path as well."""
    content = {
        "measures": {stream.name: measures or {}},
        "tables": {stream.name: tables or {}},
        "features": [*copy.deepcopy(list(entries)), *FAST_PATH],
    }
    (folder / FILE).write_text(yaml.safe_dump(content))
    catalogue = load_catalogue(folder / FILE, {stream.name: stream})
    return Catalogue(catalogue.streams, [one for one in catalogue.features if one.owner != "fast path"])
