"""What feature vectors of card payments must say: every feature of the catalogue by brute force, one row at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.streams import Entity
from tests.dbt import cards_oracle, windows_oracle

Row = dict[str, Any]
CONDITIONS: dict[str, Callable[[Row], bool]] = {
    "category = 'travel' or amt < 50": lambda row: row["category"] == "travel" or _is_less(row["amt"], 50),
    "merchant <> 'one'": lambda row: row["merchant"] not in ("one", None),
    "amt < 50": lambda row: _is_less(row["amt"], 50),
    "amount < 10": lambda row: _is_less(row["amount"], 10),
    "total < 10": lambda row: _is_less(row["amount"], 10),
}
"""Whether a row counts, by filter."""


def random_payments(seed: int, count: int, partitions: int) -> list[Row]:
    """cards_oracle's records with cards, merchants and categories: half of them over weeks, half within hours."""
    rng = random.Random(seed)
    records = cards_oracle.random_records(seed, count, partitions)
    for number, record in enumerate(records):
        if (
            number > 3 * count // 4 and record["_partition"] == 1 and rng.random() < 0.6
        ):  # which comes later, and is behind the others
            record["_partition"] = partitions
        if "trans_date_trans_time" not in record or "merchant" in record:
            continue
        moment = datetime.fromisoformat(record["trans_date_trans_time"])
        passed, sparse = moment - cards_oracle.START, timedelta(seconds=300 * count // 8)
        spread = 600 * min(passed, sparse) + 3 * max(passed - sparse, timedelta())
        behind = timedelta(minutes=rng.choice([0, 0, 0, 10, 20, 60]))  # beyond the lateness, often in an open window
        if record["_partition"] == partitions:
            behind += timedelta(hours=5)
        record["trans_date_trans_time"] = (cards_oracle.START + spread - behind).isoformat(" ")
        record["cc_num"] = rng.choice([record["user_id"] * 10, record["user_id"] * 10, 7, None])
        record["merchant"] = rng.choice(["one", "two", "three", None])
        record["category"] = rng.choice(["food", "travel"])
        record["is_fraud"] = rng.choice([0, 0, 0, 1, 1, None, 2])
        if rng.random() < 0.05:
            record["user_id"] = None
        if rng.random() < 0.05:
            record["amt"] = None
        if rng.random() < 0.02:
            record["trans_date_trans_time"] = "no time"
    return records


def vectors(
    rows: list[Row],
    catalogue: Catalogue,
    told: set[str],
    label_delay: int,
    idle: timedelta = timedelta.max,
    observed: datetime | None = None,
    stream: str = "card_payments",
) -> dict[str, Row]:
    """The features of each row the watermark has passed, by trans_num; `rows` are those that count.

    A label is known `label_delay` seconds after its payment. A partition that was not known before, or comes back after
    it was `idle`, sets the watermark back, but not behind what has been `told`; so does a row that lands after time was
    `observed` to have gone on.
    """
    passed = cards_oracle.watermark([row for row in rows if row["t"] is not None], idle, observed)
    until = [row["t"] for row in rows if row["trans_num"] in told]
    passed = max([passed, *(moment + timedelta(microseconds=1) for moment in until)])
    counted = [row for row in rows if row["t"] is not None and row["t"] < passed]
    entities = catalogue.streams[stream].entities
    features = catalogue.of_table(catalogue.streams[stream].vectors)
    delay = timedelta(seconds=label_delay)
    return {row["trans_num"]: _vector(row, counted, features, entities, delay) for row in counted}


def _vector(
    row: Row, counted: list[Row], features: list[Feature], entities: dict[str, Entity], label_delay: timedelta
) -> Row:
    earlier = {
        name: [
            other for other in counted if other["t"] < row["t"] and all(other[key] == row[key] for key in entity.key)
        ]
        for name, entity in entities.items()
        if all(row[key] is not None for key in entity.key)
    }
    told: Row = {}
    for feature in features:
        if feature.expression is None:
            told[feature.name] = _measured(feature, row, earlier.get(feature.entity), label_delay)
    return told | {
        feature.name: _derived(feature.name, row.get("amt"), told) for feature in features if feature.expression
    }


def _measured(feature: Feature, row: Row, earlier: list[Row] | None, label_delay: timedelta) -> Any:
    if earlier is None:
        return None
    delay = label_delay if feature.measure == "fraud" else timedelta()
    if feature.seconds is not None:  # what became known within the window, strictly before
        begin = row["t"] - timedelta(seconds=feature.seconds)
        earlier = [other for other in earlier if begin <= other["t"] + delay < row["t"]]
    events = [{"t": other["t"], "x": _value(feature.measure, other)} for other in earlier if holds(feature, other)]
    return windows_oracle.aggregate(str(feature.aggregate), events, row["t"])


def holds(feature: Feature, row: Row) -> bool:
    """Whether a row counts by the feature's filter."""
    return feature.filter is None or CONDITIONS[feature.filter](row)


def _is_less(value: Any, than: int) -> bool:
    return value is not None and value < than


def _value(measure: str | None, row: Row) -> Any:
    if measure == "night":
        return int(row["t"].hour < 6)
    if measure == "weekend":
        return int(row["t"].isoweekday() >= 6)
    if measure == "fraud":
        return row["is_fraud"] if row["is_fraud"] in (0, 1) else None
    return row[measure] if measure else 1


def _derived(name: str, amount: float | None, told: Row) -> float | None:
    if name.endswith("_to_usual"):
        recent = name.removesuffix("_to_usual")
        whole, parts = told[f"{recent.rpartition('_')[0]}_30d"], 720 if recent.endswith("_1h") else 30
        return told[recent] / (whole / parts) if told[recent] is not None and whole else None
    if name == "category_fraud_risk_30d":
        return _drawn(told["category_frauds_30d"], told["category_labels_30d"], 100, 0.005)
    if name == "merchant_fraud_risk_30d":
        usual = told["category_fraud_share_30d"]
        return _drawn(told["merchant_frauds_30d"], told["merchant_labels_30d"], 20, 0.005 if usual is None else usual)
    if name.endswith("_to_last"):
        last = told[f"{name.removesuffix('_to_last')}_last_7d"]
        return None if amount is None or last is None else amount - last
    entity, _, kind = name.removesuffix("_30d").partition("_amt_")
    low, high = {
        "to_mean": (0, "mean"), "to_max": (0, "max"), "to_median": (0, "median"),
        "z": ("mean", "stddev"), "robust_z": ("median", "mad"),
    }[kind]  # fmt: skip
    minus = told[f"{entity}_amt_{low}_30d"] if low else 0.0
    divisor = told[f"{entity}_amt_{high}_30d"]
    if amount is None or minus is None or not divisor:
        return None
    return (amount - minus) / (divisor * 1.4826 if kind == "robust_z" else divisor)


def _drawn(frauds: float | None, labels: int | None, more: int, share: float) -> float | None:
    """The share of frauds, had `more` labels been of that share."""
    return None if labels is None else ((frauds or 0) + more * share) / (labels + more)


def is_same(found: Row, wanted: Row) -> str | None:
    """The name of a feature that differs, floats to 1e-9 of their size; None: all are the same."""
    for name, value in wanted.items():
        if isinstance(value, float) and found[name] is not None:
            if not math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-9):
                return f"{name}: {found[name]!r}, not {value!r}"
        elif found[name] != value:
            return f"{name}: {found[name]!r}, not {value!r}"
    return None
