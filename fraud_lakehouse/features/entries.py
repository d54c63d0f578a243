"""What the catalogue's file holds: sources and entries as written. What they spell out to is in catalogue.py."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Past = Literal["strict", "closed", "tumble"]
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
    """What is aggregated. With `decimals` sums are exact: values are rounded to so many decimals first.

    With `delay` a row's value is known only that long after the row's event time, and counts from then on.
    """

    expression: str
    unit: str
    about: str
    decimals: int | None = Field(None, ge=0, le=6)
    delay: str | None = None


class Source(_Strict):
    """A stream of events: where its features go, which model has its rows, their id and event time."""

    table: str
    rows: str
    id: str
    time: str
    event: str
    entities: dict[str, Entity]
    measures: dict[str, Measure]


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
