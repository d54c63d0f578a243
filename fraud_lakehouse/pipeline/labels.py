"""Tables of labels as `labels.yml` declares them: which captured tables say afterwards that a payment was a fraud."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from fraud_lakehouse.pipeline.mistakes import one_of, shown
from fraud_lakehouse.pipeline.streams import CURRENCY_FORMS, Column, Table
from fraud_lakehouse.pipeline.values import NAME, Entry

ORIGINS = ("source", "chargeback", "analyst")
"""Where a label may come from."""
_CONSTANT, _COLUMN = CURRENCY_FORMS


class StreamColumn(Entry):
    """The column that has the name of each label's stream."""

    column: Column


def _written_as(value: Any) -> str:
    return _COLUMN if isinstance(value, dict | StreamColumn) else _CONSTANT


_Name = Annotated[str, Field(min_length=1, max_length=40, description="the name of a stream, or a mapping with column")]
StreamName = Annotated[
    Annotated[_Name, Tag(_CONSTANT)] | Annotated[StreamColumn, Tag(_COLUMN)], Discriminator(_written_as)
]


def _column_or_constant(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and value):
        return value
    raise ValueError(f"found {shown(value)}, expected the name of a column, or true or false for every row")


class LabelTable(Entry):
    """A bronze table (`from` in the file) with a label in each row.

    `stream` is a constant or a column, `is_fraud` a column or one value for every row. `known_at` is the column with
    the time the label became known; without it, that is the time of the row's commit or record.
    """

    name: str = Field(pattern=NAME, max_length=40, description="a name of a-z, 0-9 and _ (at most 40), a letter first")
    from_: Table = Field(alias="from", description="the name of a bronze table")
    stream: StreamName = Field(description="the name of a stream, or a mapping with column")
    transaction_id: Column
    is_fraud: Annotated[str | bool, BeforeValidator(_column_or_constant)] = Field(
        description="the name of a column, or true or false for every row"
    )
    known_at: Column | None = None
    origin: Annotated[
        Literal["source", "chargeback", "analyst"], BeforeValidator(lambda value: one_of(value, ORIGINS, "one of"))
    ] = "chargeback"
    author: Column | None = None
    note: Column | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The columns it names, by key."""
        named = {
            "stream": self.stream.column if isinstance(self.stream, StreamColumn) else None,
            "transaction_id": self.transaction_id,
            "is_fraud": self.is_fraud if isinstance(self.is_fraud, str) else None,
            "known_at": self.known_at,
            "author": self.author,
            "note": self.note,
        }
        return {key: column for key, column in named.items() if column is not None}
