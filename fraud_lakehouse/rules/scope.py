"""What a rule can see of one stream, and what it requests of the feature engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FACTS = {
    "max_amount": "double",
    "user_exists": "boolean",
    "is_amount_excluded": "boolean",
    "is_time_excluded": "boolean",
}
"""Columns that every stream has besides `amount` and `event_time`, with their types. Parameters may be called so."""


@dataclass(frozen=True)
class Scope:
    """One stream, as rules see it.

    Args:
        kind: events or changes.
        entities: the key columns of each entity; the first is that of the stream.
        columns: own columns and the facts of every stream (`amount`, `event_time`, `user_exists`, …), with their DuckDB
            types; a type that is not known is an empty text.
        features: those of the catalogue that exist when a payment arrives, with their types.
        vectors: those of the stream's vectors, with their types.
        delayed: features of the vectors that wait for labels.
        measures: what features may aggregate, and whether it is a number.
        delayed_measures: those of them that wait for labels.
        amount: the measure that is the amount, as the catalogue calls it.
        label: the column with the stream's label; None: it has none.
    """

    name: str
    kind: str
    entities: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, str]
    features: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, str] = field(default_factory=dict)
    delayed: frozenset[str] = frozenset()
    measures: Mapping[str, bool] = field(default_factory=dict)
    delayed_measures: frozenset[str] = frozenset()
    amount: str = "amount"
    label: str | None = None

    @property
    def entity(self) -> str:
        """The stream's own entity: the first."""
        return next(iter(self.entities))
