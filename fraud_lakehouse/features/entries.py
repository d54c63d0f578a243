"""What the catalogue's file holds, as written. What its entries spell out to is in catalogue.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fraud_lakehouse.features.streams import Measure, Strict, Table

STEPPED = ("hop", "cumulate")
"""Kinds of windows that have a step besides their size."""
WINDOWED = ("tumble", *STEPPED, "session")
"""Kinds whose features are told of windows, once these have ended."""
DELAYS = {"label_delay": "FRAUD_LABEL_DELAY"}
"""Delays a measure may have: the setting each comes from; models read the var <delay>_seconds."""
ALL = "all"
"""Of an entry's streams and entities: every one. Of measures: those of every stream."""
FIRST = "first"
"""Of an entry's entities: the stream's first one."""
FAST_PATH = "fast_path"
"""Of an entry's table and past: those of the stream's features that rules read."""
AMOUNT = "amount"
"""The measure that every stream has, whatever the column is called."""


EntryPast = Literal["strict", "closed", "tumble", "hop", "cumulate", "session", "arrived", "committed", "fast_path"]


class Entry(Strict):
    """An entry of the file: one feature, or a family of one for each combination of its lists."""

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
