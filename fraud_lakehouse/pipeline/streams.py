"""Streams as `streams.yml` declares them: which captured table has payments, and what its columns mean."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import BeforeValidator, Discriminator, Field, Strict, Tag, field_validator, model_validator

from fraud_lakehouse.pipeline.mistakes import nearest, one_of, shown
from fraud_lakehouse.pipeline.values import NAME, Entry, Seconds, with_names

Kind = Literal["events", "changes"]
Column = Annotated[str, Field(min_length=1, max_length=255, description="the name of a column")]
Table = Annotated[str, Field(min_length=1, max_length=255, description="the name of a bronze table")]


class ExistsIn(Entry):
    """The captured table that must know an entity, and the column in which it does."""

    table: Table
    column: Column


class Entity(Entry):
    """Whom or what features are about: the columns that identify it.

    `partitions: large` means few keys with very many rows each. With `exists_in`, one that this table does not know is
    unknown.
    """

    name: str = Field(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    key: tuple[Column, ...] = Field(min_length=1, description="a column, or a list of columns")
    about: str = Field("", min_length=1, max_length=100, description="a text such as: the card holder")
    partitions: Annotated[str, BeforeValidator(lambda value: one_of(value, ("small", "large"), "one of"))] = "small"
    exists_in: ExistsIn | None = Field(None, description="a mapping with table and column")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        about = values.get("about")
        key = [values["key"]] if isinstance(values.get("key"), str) else values.get("key")
        named = {
            **values,
            "about": f"the {str(values.get('name')).replace('_', ' ')}"[:100] if about is None else about,
        }
        return {**named, "key": key} if "key" in values else named

    @field_validator("key")
    @classmethod
    def _distinct(cls, key: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(key)) < len(key):
            raise ValueError(f"found a column twice ({', '.join(map(shown, key))}), expected each once")
        return key


class Rates(Entry):
    """The bronze table of dated rates, and its columns: a currency, from when on the rate holds (UTC), and the rate."""

    table: Table
    currency: Column = "currency"
    from_: Column = Field("valid_from", alias="from", description="the name of a column")
    rate: Column = "rate"


RATE_COLUMNS: dict[str, str] = {
    field.alias or name: field.default for name, field in Rates.model_fields.items() if name != "table"
}
"""By key: what the columns of a table of rates are called where nothing else is declared."""

Constant = Annotated[str, Field(pattern="^[A-Z]{3}$", description="a code of three capital letters")]


class CurrencyColumn(Entry):
    """The column that has each payment's currency, the dated rates, and the currency `to` which amounts are converted.

    A rate is what one unit of a currency is worth in `to`.
    """

    column: Column
    rates: Rates = Field(description="the name of a bronze table, or a mapping with table, currency, from and rate")
    to: Constant

    @field_validator("rates", mode="before")
    @classmethod
    def _named_table(cls, value: Any) -> Any:
        return {"table": value} if isinstance(value, str) else value


CURRENCY_FORMS = _CONSTANT, _COLUMN = ("<constant>", "<column>")


def _written_as(value: Any) -> str:
    return _COLUMN if isinstance(value, dict | CurrencyColumn) else _CONSTANT


Currency = Annotated[
    Annotated[Constant, Tag(_CONSTANT)] | Annotated[CurrencyColumn, Tag(_COLUMN)], Discriminator(_written_as)
]


class Stream(Entry):
    """Payments: the rows of one bronze table (`from` in the file), of a kind.

    `events` arrive once and are ordered by event time. `changes` are rows that may be updated or deleted. Times
    without a zone are in `timezone`. `max_amount`, `max_future`, `lateness` and `label_delay` (seconds) are those of
    the settings where not given. `event` is the word for one row.
    """

    name: str = Field(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    from_: Table = Field(alias="from", description="the name of a bronze table")
    kind: Kind = Field(description="events or changes")
    id: Column
    time: Column
    amount: Column
    timezone: str = "UTC"
    currency: Currency = Field(
        "USD", description="a code of three capital letters, or a mapping with column, rates and to"
    )
    label: Column | None = None
    entities: dict[str, Entity] = Field(
        min_length=1, description="a mapping of entities, each with its column, a list of columns, or a mapping"
    )
    max_amount: Annotated[float, Strict()] | None = Field(None, gt=0, description="a number above 0")
    max_future: Seconds | None = None
    lateness: Seconds | None = None
    label_delay: Seconds | None = None
    event: str = Field("payment", min_length=1, max_length=40, description="the word for one row, such as payment")

    @property
    def further_tables(self) -> list[str]:
        """The bronze tables besides its own that it is computed from: those of `exists_in` and of rates."""
        found = [entity.exists_in.table for entity in self.entities.values() if entity.exists_in is not None]
        return found if isinstance(self.currency, str) else [*found, self.currency.rates.table]

    @field_validator("kind", mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> str:
        return one_of(value, ("events", "changes"), "one of")

    @field_validator("timezone", mode="before")
    @classmethod
    def _known_timezone(cls, value: Any) -> str:
        if value == "UTC" or (isinstance(value, str) and value in _timezones()):
            return str(value)
        raise ValueError(
            f"found {shown(value)}, expected a name of the time zone database, such as UTC or Europe/Paris"
            f"{nearest(value, _timezones())}"
        )

    @field_validator("entities", mode="before")
    @classmethod
    def _named_entities(cls, values: Any) -> Any:
        return with_names(values, "key")


@lru_cache(maxsize=1)
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())
