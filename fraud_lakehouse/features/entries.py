"""What the catalogue's file holds: sources and entries as written. What they spell out to is in catalogue.py."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Past = Literal["strict", "closed", "tumble", "hop", "cumulate", "session", "arrived", "committed"]
STEPPED = ("hop", "cumulate")
"""Kinds of windows that have a step besides their size."""
WINDOWED = ("tumble", *STEPPED, "session")
"""Kinds whose features are told of windows, once these have ended."""
DELAYS = {"label_delay": "FRAUD_LABEL_DELAY"}
"""Delays a measure may have: the setting each comes from; models read the var <delay>_seconds."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entity(_Strict):
    """Whom features are about: the columns that say so. `partitions: large` means few keys with very many rows."""

    key: list[str] = Field(min_length=1)
    about: str
    partitions: Literal["small", "large"] = "small"


class Measure(_Strict):
    """What is aggregated: with `decimals` a number, without anything that can be told apart.

    Sums are exact: values are rounded to so many decimals first. With `delay` a row's value is known only that long
    after the row's event time, and counts from then on.
    """

    expression: str
    unit: str
    about: str
    decimals: int | None = Field(None, ge=0, le=6)
    delay: str | None = None


class Table(_Strict):
    """A table of its own, beside the source's: aggregates of one key over windows of one kind (arrival.py) and size.

    `step` is how far apart windows of `hop` start, and by how much those of `cumulate` grow. `model` computes its
    features (none: that of the table itself), `copies` are further models with the same columns; `must_have` are
    features that others rely on by name. `entries`: how many of the ledger a committed window looks at.
    """

    past: Literal["closed", "tumble", "hop", "cumulate", "session", "arrived", "committed"]
    step: str | None = None
    key: list[str] = Field(min_length=1)
    model: str | None = None
    copies: list[str] = []
    must_have: list[str] = []
    entries: int | None = Field(None, ge=1)


class Source(_Strict):
    """A stream of events: where its features go, which model has its rows, their id, event time and amount.

    Features lie in `table`, strictly past, unless their entry names one of `tables`. `settings` are the vars that
    decide which of the rows count.
    """

    table: str
    rows: str
    id: str
    time: str
    amount: str | None = None
    event: str
    settings: list[Literal["late_rows"]] = []
    entities: dict[str, Entity]
    measures: dict[str, Measure]
    tables: dict[str, Table] = {}

    def model_of(self, table: str) -> str:
        """The model that computes the features of one of its tables."""
        return (self.tables[table].model if table in self.tables else None) or table


class Entry(_Strict):
    """An entry of the file: one feature, or a family of one for each combination of its lists."""

    name: str
    source: str
    table: str | None = None
    entity: str | list[str]
    measure: str | list[str] | None = None
    aggregate: str | list[str] | None = None
    window: str | list[str] | None = None
    past: Past = "strict"
    expression: str | None = None
    definition: str | None = None
    unit: str | None = None
    owner: str = Field(min_length=1)


class CatalogueFile(_Strict):
    """The whole file."""

    sources: dict[str, Source]
    features: list[Entry]
