"""Schemas of the control tables, and how a frame is made to fit its table.

Capture decides the types of a source's own columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl
import polars.selectors as cs  # pl.col("^.*$") would be every column: a source's names may be anything
from deltalake import Schema

from fraud_lakehouse.storage.retype import fitted

FrameSchema = Mapping[str, pl.DataType]
INGESTED_AT = "_ingested_at"
COMMIT = "_commit"
UTC_MICROSECONDS = pl.Datetime("us", "UTC")

BATCHES: dict[str, pl.DataType] = {
    "source": pl.String(),
    "app_id": pl.String(),
    "table": pl.String(),
    "from_position": pl.Int64(),
    "to_position": pl.Int64(),
    "rows": pl.Int64(),
    "newest_committed_at": UTC_MICROSECONDS,
    "landed_at": UTC_MICROSECONDS,
    "seconds": pl.Float64(),
}

IDLE_PARTITIONS: dict[str, pl.DataType] = {
    "source": pl.String(),
    "app_id": pl.String(),
    "topic": pl.String(),
    "partition": pl.Int32(),
    "position": pl.Int64(),
    "observed_at": UTC_MICROSECONDS,
}

AUDIT: dict[str, pl.DataType] = {
    "at": UTC_MICROSECONDS,
    "source": pl.String(),
    "event": pl.String(),
    "detail": pl.String(),
}


def delta_schema(schema: FrameSchema) -> Schema:
    """The Delta schema of polars columns, every one nullable."""
    return Schema.from_arrow(pl.Schema(schema))


def delta_types(schema: FrameSchema) -> dict[str, str]:
    """Delta's type name of each column."""
    return {field["name"]: str(field["type"]) for field in json.loads(delta_schema(schema).to_json())["fields"]}


def frame_schema(schema: Schema) -> dict[str, pl.DataType]:
    """The polars columns of a Delta schema (the types the lake writes)."""
    fields = json.loads(schema.to_json())["fields"]
    return {field["name"]: _polars_type(str(field["type"])) for field in fields}


_POLARS_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "integer": pl.Int32(),
    "short": pl.Int16(),
    "byte": pl.Int8(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "binary": pl.Binary(),
    "date": pl.Date(),
    "timestamp": UTC_MICROSECONDS,
    "timestamp_ntz": pl.Datetime("us"),
}


def _polars_type(delta_type: str) -> pl.DataType:
    if delta_type.startswith("decimal("):
        precision, scale = delta_type.removeprefix("decimal(").removesuffix(")").split(",")
        return pl.Decimal(int(precision), int(scale))
    return _POLARS_TYPES[delta_type]


def with_ingestion(schema: FrameSchema) -> dict[str, pl.DataType]:
    """The schema with `_ingested_at` and `_commit` after the source's own time (`_committed_at`, `_timestamp`)."""
    added: dict[str, pl.DataType] = {INGESTED_AT: UTC_MICROSECONDS, COMMIT: pl.Int64()}
    result: dict[str, pl.DataType] = {}
    for name, kind in schema.items():
        result[name] = pl.String() if kind == pl.Null else kind
        if name in ("_committed_at", "_timestamp"):
            result |= {own: kind for own, kind in added.items() if own not in schema}
    return result | {own: kind for own, kind in added.items() if own not in result}


def fit(frame: pl.DataFrame, schema: FrameSchema) -> pl.DataFrame:
    """The frame with exactly the columns and types of `schema`; missing columns are null.

    Values of a column whose type in the source has changed are cast. A value that does not fit the table's type is null
    and kept as text in `_text`, so nothing is lost.

    Raises:
        ValueError: the frame has a column that the schema lacks.
    """
    if unknown := [name for name in frame.columns if name not in schema]:
        raise ValueError(f"columns not in the table: {', '.join(unknown)}")
    return frame if frame.schema == pl.Schema(schema) else fitted(frame, schema)


def statistics(frame: pl.DataFrame) -> str:
    """Delta file statistics: row count, null counts, and minimum and maximum of integers, dates and timestamps."""
    ranged = [name for name, kind in frame.schema.items() if kind.is_integer() or kind.is_temporal()]
    found = frame.select(
        *(cs.by_name(name).null_count().alias(f"nulls {name}") for name in frame.columns),
        *(_stated(frame.schema[name], cs.by_name(name).min()).alias(f"least {name}") for name in ranged),
        *(_stated(frame.schema[name], cs.by_name(name).max()).alias(f"greatest {name}") for name in ranged),
    ).row(0, named=True)

    def of(kind: str) -> dict[str, int | str]:
        prefix = f"{kind} "
        return {
            name.removeprefix(prefix): value
            for name, value in found.items()
            if name.startswith(prefix) and value is not None
        }

    return json.dumps(
        {
            "numRecords": frame.height,
            "minValues": of("least"),
            "maxValues": of("greatest"),
            "nullCount": of("nulls"),
        },
        ensure_ascii=False,
    )


def _stated(kind: pl.DataType, value: pl.Expr) -> pl.Expr:
    """A bound in the Delta protocol's form: timestamps and dates as ISO text."""
    if isinstance(kind, pl.Datetime):
        return value.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f" + ("Z" if kind.time_zone else ""))
    return value.cast(pl.String) if kind.is_temporal() else value
