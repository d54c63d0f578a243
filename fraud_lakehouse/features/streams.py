"""Streams as models compute them: the declaration in `streams.yml`, with the stream's models.

catalogue.py has the features of a stream, transform/stream_models.py the files of its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fraud_lakehouse.pipeline import CurrencyColumn, KafkaSource, Pipeline, Stream
from fraud_lakehouse.pipeline import Entity as DeclaredEntity
from fraud_lakehouse.sources.configured import source_of

Past = Literal["strict", "closed", "tumble", "hop", "cumulate", "session", "arrived", "committed"]
LATE_WINDOW = 21_600
"""Default window size that decides which events are late, if a stream has no table of tumbling windows (seconds)."""


class Strict(BaseModel):
    """A file's or var's content; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entity(Strict):
    """The subject of features: the columns that identify it. `partitions: large` means few keys with very many rows."""

    key: list[str] = Field(min_length=1)
    about: str
    partitions: Literal["small", "large"] = "small"
    exists_in: dict[str, str] | None = None


class Measure(Strict):
    """What is aggregated: a number if `decimals` is set, otherwise any value that can be compared for equality.

    Sums are exact: values are first rounded to so many decimals. With `delay` a row's value is known, and counts, only
    that long after the row's event time.
    """

    expression: str
    unit: str
    about: str
    decimals: int | None = Field(None, ge=0, le=6)
    delay: str | None = None


class Table(Strict):
    """A table in addition to the stream's vectors: aggregates of one key over windows of one kind (arrival.py).

    `step` is the distance between starts of `hop` windows, and the growth of `cumulate` windows. `model` computes its
    features (default: the table's own); `copies` are further models with the same columns; `must_have` are features
    that others rely on by name.
    """

    past: Literal["closed", "tumble", "hop", "cumulate", "session", "arrived", "committed"]
    step: str | None = None
    key: list[str] = Field(min_length=1)
    model: str | None = None
    copies: list[str] = []
    must_have: list[str] = []


class Rates(Strict):
    """The dated exchange rates that convert amounts of several currencies.

    Args:
        code: the stream's column with a payment's currency.
        table: the bronze table of the rates; currency, valid_from and rate are its columns.
        fields: the DuckDB types of these columns, once the table is captured.
        key: its key columns, once it is captured; empty for a topic.
    """

    code: str
    table: str
    currency: str
    valid_from: str
    rate: str
    fields: dict[str, str] = {}
    key: list[str] = []

    @property
    def columns(self) -> list[str]:
        """The columns of the table that are read."""
        return [self.currency, self.valid_from, self.rate]


class PaymentStream(Strict):
    """A stream: one entry of the var `streams`, by name.

    Args:
        table: its bronze table.
        rows: the model with its rows: for events `silver/<table>`, for changes the replica.
        late: for events, the model with those that came too late.
        ledger: for changes, the model with the states before and after each change.
        features: the model with the features of the fast path, which rules read.
        vectors: the model with all other features, strictly past.
        source_text: the value of the column `source` in its features; for events, followed by the topic.
        entity: the subject of the fast path: the first of `entities`.
        currency: the currency of amounts; if the source has several, after conversion by `rates`.
        fields: name and DuckDB type of columns of the bronze table: for events all declared ones, for changes those
            that the stream names, once the table is captured.
        max_amount: like the next three, for this stream alone; None: that of the settings.
        late_window_seconds: the size of the windows that decide which events are late.
        measures: what its features aggregate.
        tables: its feature tables other than `vectors`; `features` is one of them.
        is_declared: whether the pipeline folder declares it; else it has models but no rows.
    """

    name: str
    kind: Literal["events", "changes"]
    table: str
    rows: str
    late: str | None = None
    ledger: str | None = None
    features: str
    vectors: str
    source_text: str
    id: str
    time: str
    amount: str
    label: str | None = None
    timezone: str = "UTC"
    currency: str = "USD"
    rates: Rates | None = None
    event: str = "payment"
    entity: str
    entities: dict[str, Entity]
    fields: dict[str, str] = {}
    max_amount: float | None = None
    max_future_seconds: float | None = None
    allowed_lateness_seconds: float | None = None
    label_delay_seconds: int | None = None
    late_window_seconds: int = LATE_WINDOW
    measures: dict[str, Measure] = {}
    tables: dict[str, Table] = {}
    is_declared: bool = True

    @property
    def models(self) -> list[str]:
        """Its models, without a replica that has its rows."""
        return [name for name in (self.rows if self.late else None, self.late, self.ledger) if name] + [
            self.features,
            self.vectors,
        ]

    @property
    def original_amount(self) -> str:
        """The column with an amount as it was sent, if amounts are converted."""
        return f"{self.amount}_original"

    def model_of(self, table: str) -> str:
        """The model that computes the features of one of its tables."""
        return (self.tables[table].model if table in self.tables else None) or table


_TYPES = {
    "string": "varchar",
    "int32": "integer",
    "int64": "bigint",
    "double": "double",
    "boolean": "boolean",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "date": "date",
    "binary": "blob",
}


def payment_streams(pipeline: Pipeline, models: Mapping[str, Mapping[str, str]]) -> dict[str, PaymentStream]:
    """The streams of a pipeline by name, without measures and tables.

    Args:
        models: for streams with model files in the dbt project: the models' names, and `source_text`, keyed like the
            fields of PaymentStream.
    """
    return {name: payment_stream(stream, pipeline, models.get(name, {})) for name, stream in pipeline.streams.items()}


def payment_stream(stream: Stream, pipeline: Pipeline, models: Mapping[str, str]) -> PaymentStream:
    """One stream."""
    table, name, currency = stream.from_, stream.name, stream.currency
    source = source_of(table, pipeline) or ""
    if stream.kind == "events":
        parts = {"late": f"{table}_late", "source_text": f"{source}."}
    else:
        parts = {"ledger": f"{name}_ledger", "source_text": f"{source}.{table}"}
    named = {"rows": table, "features": f"{name}_features", "vectors": f"{name}_vectors"} | parts | dict(models)
    return PaymentStream(
        name=name,
        kind=stream.kind,
        table=table,
        id=stream.id,
        time=stream.time,
        amount=stream.amount,
        label=stream.label,
        timezone=stream.timezone,
        currency=currency if isinstance(currency, str) else currency.to,
        rates=None if isinstance(currency, str) else _rates(currency),
        event=stream.event,
        entity=next(iter(stream.entities)),
        entities={entity: _entity(declared) for entity, declared in stream.entities.items()},
        fields=_fields(pipeline, stream),
        max_amount=stream.max_amount,
        max_future_seconds=stream.max_future,
        allowed_lateness_seconds=stream.lateness,
        label_delay_seconds=int(stream.label_delay) if stream.label_delay is not None else None,
        **named,
    )


def _rates(declared: CurrencyColumn) -> Rates:
    rates = declared.rates
    return Rates(
        code=declared.column, table=rates.table, currency=rates.currency, valid_from=rates.from_, rate=rates.rate
    )


def _entity(declared: DeclaredEntity) -> Entity:
    known = declared.exists_in.model_dump() if declared.exists_in is not None else None
    return Entity(
        key=list(declared.key),
        about=declared.about,
        partitions="large" if declared.partitions == "large" else "small",
        exists_in=known,
    )


def _fields(pipeline: Pipeline, stream: Stream) -> dict[str, str]:
    for source in pipeline.sources.values():
        for topic in source.topics if isinstance(source, KafkaSource) else ():
            if topic.table == stream.from_:
                return {name: _TYPES.get(kind, kind) for name, kind in topic.stored_types.items()}
    return {}
