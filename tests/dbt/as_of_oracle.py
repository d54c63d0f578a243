"""What features of labels must say, by brute force: which rows count for a label, then the catalogue over these."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from fraud_lakehouse.features.catalogue import Catalogue, Feature
from tests.dbt import windows_oracle
from tests.dbt.vectors_oracle import holds

Row = dict[str, Any]
STREAMS = {"cards": "card_payments", "bank": "bank_payments"}
_AGAINST = re.compile(r"(\w+)_(amt|amount)_(to_mean|to_max|to_median|z|robust_z)_30d")
_PARTS = {
    "to_mean": (None, "mean"),
    "to_max": (None, "max"),
    "to_median": (None, "median"),
    "z": ("mean", "stddev"),
    "robust_z": ("median", "mad"),
}


def features_of(
    label: Row, rows: list[Row], catalogue: Catalogue, source: str, label_delay: timedelta = timedelta()
) -> Row:
    """Every feature of the source's table.

    Args:
        label: `t` (None: none), the keys, the amount, `known_by` (UTC; None: of cards all that is not `is_late`
            whenever, of the bank t).
        rows: each with `t`, keys, measures, `known_from` and `known_to` (UTC; None: still known).
        label_delay: how long after its payment a fraud label is known.
    """
    stream = catalogue.streams[STREAMS.get(source, source)]
    features = catalogue.of_table(stream.vectors)
    if label["t"] is None:
        return {feature.name: None for feature in features}
    known_by = label.get("known_by")
    if known_by is None and stream.kind == "changes":
        known_by = label["t"].replace(tzinfo=UTC)
    counted = [row for row in rows if _counts(row, label["t"], known_by)]
    told: Row = {}
    for feature in features:
        if feature.expression is None:
            key = stream.entities[feature.entity].key
            told[feature.name] = _measured(feature, label, counted, key, known_by, label_delay)
    amount = label.get("amt" if source == "cards" else "amount")
    derived = [feature.name for feature in features if feature.expression is not None]
    return told | {name: _derived(name, amount, told) for name in derived}


def _counts(row: Row, at: datetime, known_by: datetime | None) -> bool:
    if row["t"] is None or row["t"] >= at:
        return False
    if known_by is None:
        return not row.get("is_late", False)
    return row["known_from"] <= known_by and (row["known_to"] is None or known_by < row["known_to"])


def _measured(
    feature: Feature, label: Row, counted: list[Row], key: list[str], known_by: datetime | None, label_delay: timedelta
) -> Any:
    if any(label[name] is None for name in key):
        return None
    delay = label_delay if feature.measure == "fraud" else timedelta()
    inside = [row for row in counted if all(row[name] == label[name] for name in key)]
    if feature.seconds is not None:
        begin = label["t"] - timedelta(seconds=feature.seconds)
        inside = [row for row in inside if begin <= row["t"] + delay < label["t"]]
    if delay and known_by is not None:
        inside = [row for row in inside if (row["t"] + delay).replace(tzinfo=UTC) <= known_by]
    events = [{"t": row["t"], "x": _value(feature.measure, row)} for row in inside if holds(feature, row)]
    return windows_oracle.aggregate(str(feature.aggregate), events, label["t"])


def _value(measure: str | None, row: Row) -> Any:
    if measure == "night":
        return int(row["t"].hour < 6)
    if measure == "weekend":
        return int(row["t"].isoweekday() >= 6)
    if measure == "fraud":
        return row["is_fraud"] if row["is_fraud"] in (0, 1) else None
    value = row[measure] if measure else 1
    return float(value) if measure in ("amt", "amount", "total") and value is not None else value


def _derived(name: str, amount: Any, told: Row) -> float | None:
    if name == "category_fraud_risk_30d":
        return _drawn(told["category_frauds_30d"], told["category_labels_30d"], 100, 0.005)
    if name == "merchant_fraud_risk_30d":
        usual = told["category_fraud_share_30d"]
        return _drawn(told["merchant_frauds_30d"], told["merchant_labels_30d"], 20, 0.005 if usual is None else usual)
    if name.endswith("_to_usual"):
        recent = told[name.removesuffix("_to_usual")]
        long = told[re.sub("_(24h|1h)_to_usual$", "_30d", name)]
        parts = 30 if "_24h_" in name else 720
        return None if recent is None or not long else recent / (long / parts)
    if name.endswith("_to_last"):
        last = told[f"{name.removesuffix('_to_last')}_last_7d"]
        return None if amount is None or last is None else float(amount) - float(last)
    found = _AGAINST.fullmatch(name)
    assert found, f"the oracle does not know {name}"
    entity, measure, kind = found.groups()
    low, high = _PARTS[kind]
    minus = told[f"{entity}_{measure}_{low}_30d"] if low else 0.0
    divisor = told[f"{entity}_{measure}_{high}_30d"]
    if amount is None or minus is None or not divisor:
        return None
    return float((float(amount) - minus) / (divisor * 1.4826 if kind == "robust_z" else divisor))


def _drawn(frauds: float | None, labels: int | None, more: int, share: float) -> float | None:
    return None if labels is None else ((frauds or 0) + more * share) / (labels + more)
