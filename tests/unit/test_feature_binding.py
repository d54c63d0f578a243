"""The catalogue against the models it names: what they cannot compute is refused by name, before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.catalogue import FILE, load_catalogue
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.binding import check_models
from fraud_lakehouse.transform.project import shipped_project
from tests.catalogues import BANK, CARDS, shipped_content, shipped_streams, written

RATIO = {"name": "ratio", "stream": CARDS, "entity": "user", "owner": "o", "unit": "u", "definition": "d"}


def check(folder: Path, *, cards: dict[str, Any] | None = None, measure: Any = None, entry: Any = None) -> None:
    """The shipped catalogue with parts of the stream, a measure `x` or an entry of its own, against the models."""
    content = shipped_content()
    if measure:
        content["measures"][CARDS]["x"] = {"unit": "u", "about": "x", **measure}
    content["features"] += [entry] if entry else []
    (folder / FILE).write_text(yaml.safe_dump(content))
    streams = dict(shipped_streams())
    streams[CARDS] = PaymentStream.model_validate(streams[CARDS].model_dump() | (cards or {}))
    check_models(shipped_project(), load_catalogue(folder / FILE, streams, is_own=False), {})


def test_the_shipped_catalogue_fits_its_models(tmp_path: Path) -> None:
    check(tmp_path)


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"measure": {"expression": "colour"}}, "measure 'x' of 'card_payments': 'colour' cannot be computed.*colour"),
        (
            {"measure": {"expression": "merchant", "decimals": 2}},
            "measure 'x' of 'card_payments': its expression is VARCHAR, and only numbers have decimals",
        ),
        ({"measure": {"expression": "no_such(amt)"}}, "measure 'x' of 'card_payments': .*no_such"),
        ({"cards": {"rows": "payments"}}, "stream 'card_payments': rows: there is no model 'payments'"),
        (
            {"cards": {"id": "number"}},
            "stream 'card_payments': id names the column 'number', which card_transactions does not have",
        ),
        (
            {"cards": {"vectors": "card_vectors"}},
            "feature 'user_amt_count_10min': the table card_vectors: there is no model 'card_vectors'",
        ),
        ({"entry": {**RATIO, "expression": "no_such({amt})"}}, "feature 'ratio': .*no_such"),
        ({"entry": {**RATIO, "expression": "{amt} / {merchant}"}}, "feature 'ratio': .*cannot be computed"),
    ],
)
def test_what_the_models_cannot_compute_is_named(tmp_path: Path, change: dict[str, Any], reported: str) -> None:
    with pytest.raises(TransformError, match=reported):
        check(tmp_path, **change)


def test_a_key_that_the_rows_have_not_is_named(tmp_path: Path) -> None:
    entities = shipped_streams()[CARDS].model_dump()["entities"] | {"shop": {"key": ["shop"], "about": "the shop"}}
    with pytest.raises(TransformError, match="stream 'card_payments': entity 'shop' names the column 'shop'"):
        check(tmp_path, cards={"entities": entities})


def test_a_stream_without_features_is_named(tmp_path: Path) -> None:
    content = shipped_content()
    content["features"] = [one for one in content["features"] if one["stream"] != BANK or "table" in one]
    with pytest.raises(TransformError, match="stream 'bank_payments': transaction_feature_vectors has no feature"):
        check_models(shipped_project(), written(tmp_path, content), {})
