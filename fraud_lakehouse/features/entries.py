"""The catalogue's file as written. catalogue.py expands its entries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fraud_lakehouse.features.streams import Measure, Strict, Table

STEPPED = ("hop", "cumulate")
"""Windows that have a step in addition to their size."""
WINDOWED = ("tumble", *STEPPED, "session")
"""Windows whose features are computed once they end."""
DELAYS = {"label_delay": "FRAUD_LABEL_DELAY"}
"""Delays a measure may have: the setting each comes from; models read the var <delay>_seconds."""
ALL = "all"
"""For an entry's streams and entities: every one. For measures: those of every stream."""
FIRST = "first"
"""For an entry's entities: the stream's first one."""
FAST_PATH = "fast_path"
"""For an entry's table and past: those of the stream's features that rules read."""
AMOUNT = "amount"
"""The amount measure of every stream, whatever its column's name."""


EntryPast = Literal["strict", "closed", "tumble", "hop", "cumulate", "session", "arrived", "committed", "fast_path"]


class Entry(Strict):
    """An entry of the file: one feature, or a family with one for each combination of its lists."""

    name: str
    stream: str | list[str]
    except_: list[str] = Field([], alias="except")
    table: str | None = None
    entity: str | list[str]
    measure: str | list[str] | None = None
    filter: str | None = None
    aggregate: str | list[str] | None = None
    window: str | list[str] | None = None
    past: EntryPast = "strict"
    expression: str | None = None
    definition: str | None = None
    unit: str | None = None
    owner: str = Field(min_length=1)


class CatalogueFile(Strict):
    """The whole file: measures and tables by stream."""

    measures: dict[str, dict[str, Measure]] = Field(default_factory=dict)
    tables: dict[str, dict[str, Table]] = Field(default_factory=dict)
    features: list[Entry]
