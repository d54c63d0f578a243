"""What feature vectors of bank transactions must say: the catalogue by brute force over the table's current state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fraud_lakehouse.features.catalogue import Catalogue, Feature
from tests.dbt import windows_oracle
from tests.dbt.vectors_oracle import holds

Row = dict[str, Any]


def vectors(state: dict[int, Row], catalogue: Catalogue) -> dict[int, Row]:
    """User, event time and features of each transaction there is, by its id."""
    return vectors_of(state, catalogue.of_table("transaction_feature_vectors"))


def vectors_of(state: dict[int, Row], features: list[Feature]) -> dict[int, Row]:
    """The same with these features."""
    return {identity: _vector(row, list(state.values()), features) for identity, row in state.items()}


def _vector(row: Row, rows: list[Row], features: list[Feature]) -> Row:
    told: Row = {"user_id": row["user_id"], "event_time": row["transaction_date"]}
    if row["user_id"] is None or row["transaction_date"] is None:
        return told | {feature.name: None for feature in features}
    earlier = [
        other
        for other in rows
        if other["user_id"] == row["user_id"]
        and other["transaction_date"] is not None
        and other["transaction_date"] < row["transaction_date"]
    ]
    for feature in features:
        if feature.expression is None:
            told[feature.name] = _measured(feature, row, earlier)
    derived = [feature.name for feature in features if feature.expression]
    return told | {name: _derived(name, row["amount"], told) for name in derived}


def _measured(feature: Feature, row: Row, earlier: list[Row]) -> Any:
    at = row["transaction_date"]
    if feature.seconds is not None:
        earlier = [other for other in earlier if other["transaction_date"] >= at - timedelta(seconds=feature.seconds)]
    earlier = [other for other in earlier if holds(feature, other)]
    events = [{"t": other["transaction_date"], "x": _value(feature.measure, other)} for other in earlier]
    return windows_oracle.aggregate(str(feature.aggregate), events, at)


def _value(measure: str | None, row: Row) -> Any:
    if measure == "night":
        return int(row["transaction_date"].hour < 6)
    if measure == "weekend":
        return int(row["transaction_date"].isoweekday() >= 6)
    if measure is None:
        return 1
    return float(row["amount"]) if measure == "amount" and row["amount"] is not None else None


def _derived(name: str, amount: Any, told: Row) -> float | None:
    if name == "user_amount_sum_24h_to_usual":
        usual = told["user_amount_sum_30d"]
        return told["user_amount_sum_24h"] / (usual / 30) if usual and told["user_amount_sum_24h"] is not None else None
    low, high = {
        "user_amount_to_mean_30d": (None, "mean"), "user_amount_to_max_30d": (None, "max"),
        "user_amount_to_median_30d": (None, "median"), "user_amount_z_30d": ("mean", "stddev"),
        "user_amount_robust_z_30d": ("median", "mad"),
    }[name]  # fmt: skip
    minus = told[f"user_amount_{low}_30d"] if low else 0.0
    divisor = told[f"user_amount_{high}_30d"]
    if amount is None or minus is None or not divisor:
        return None
    return (float(amount) - minus) / (divisor * 1.4826 if high == "mad" else divisor)
