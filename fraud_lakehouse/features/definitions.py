"""Fingerprints of what decides a feature's values: if one differs, stored rows have another meaning.

A feature's description, owner and unit do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fraud_lakehouse.features.arrival import ARRIVAL
from fraud_lakehouse.features.catalogue import Catalogue, Feature
from fraud_lakehouse.features.streams import PaymentStream

Definitions = Mapping[str, Mapping[str, int]]
"""By model that computes features: each feature's fingerprint, positive and below 2^62."""

UNNUMBERED: Definitions = {
    "card_transaction_features": {
        "prior_mean": 2211001847437584776,
        "prior_count": 1706088662296187663,
        "count_10min": 4564658457018061510,
        "sum_10min": 345826890573405569,
    },
    "transaction_features": {
        "prior_mean": 3524763859133086133,
        "prior_count": 989178518882944445,
        "count_10min": 3376691474912178748,
        "sum_10min": 4532281027145804780,
    },
}
"""What computed the rows of these tables before they were in the catalogue: its first entries for them."""


def definitions_of(catalogue: Catalogue, settings: Mapping[str, Any]) -> Definitions:
    """The definitions of all features under these settings.

    Args:
        settings: dbt's vars that decide which rows count, and when: `late_rows`, `<delay>_seconds` of each delay.
    """
    found: dict[str, dict[str, int]] = {}
    for table in catalogue.tables():
        features = {feature.name: feature for feature in catalogue.of_table(table)}
        for feature in features.values():
            model = catalogue.streams[feature.stream].model_of(table)
            found.setdefault(model, {})[feature.name] = number_of(_decided(catalogue, feature, features, settings))
    return found


def number_of(what: Any) -> int:
    """A number for plain values; equal values give equal numbers."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).digest()
    return 1 + (int.from_bytes(digest[:8], "big") >> 2)


def _decided(
    catalogue: Catalogue, feature: Feature, background: Mapping[str, Feature], settings: Mapping[str, Any]
) -> dict[str, Any]:
    stream = catalogue.streams[feature.stream]
    needed = catalogue.needed(feature)
    own = {name: stream.measures[name] for name in ([feature.measure] if feature.measure else needed["own"])}
    how = [feature.aggregate, feature.expression, feature.seconds if feature.aggregate else None, feature.past]
    condition = {"filter": feature.filter} if feature.filter is not None else {}
    step = {"step": feature.step_seconds} if feature.step_seconds is not None else {}
    return {
        "rows": [stream.rows, stream.time, stream.id],
        "counted": {name: settings[name] for name in _decisive(stream) if feature.past not in ("closed", *ARRIVAL)},
        "key": stream.entities[feature.entity].key,
        "measures": {
            name: [one.expression, one.decimals if feature.past not in ARRIVAL else None] for name, one in own.items()
        },
        "how": how,
        "delay": _delay(feature.delay, stream, settings) if feature.delay is not None else None,
        "uses": [_decided(catalogue, background[name], background, settings) for name in needed["uses"]],
        **condition,
        **step,
    }


def _decisive(stream: PaymentStream) -> list[str]:
    """The settings that decide which rows count."""
    return ["late_rows"] if stream.kind == "events" else []


def _delay(delay: str, stream: PaymentStream, settings: Mapping[str, Any]) -> float:
    """Seconds of a delay: the stream's own, else those of the settings."""
    own = getattr(stream, f"{delay}_seconds")
    return float(own) if own is not None else settings[f"{delay}_seconds"]
