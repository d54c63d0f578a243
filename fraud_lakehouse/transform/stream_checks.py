"""Whether models can be generated of a stream: what its columns and tables may not be called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import duckdb

from fraud_lakehouse.errors import TransformError
from fraud_lakehouse.features.needs import row_columns
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.transform.stream_models import StreamModel

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OF_ROWS = {"is_amount_excluded", "is_time_excluded"}
_OF_MODELS = {
    *("arrival", "block", "changed_at", "event_time", "first_new", "first_time", "is_behind_nothing", "is_counted"),
    *("is_evaluated", "is_new", "is_touched", "known_at", "newest_time", "part", "reason", "seconds_late", "until"),
    *("version", "watermark", "window_end", "window_start"),
}
"""Columns that models have besides those of the stream."""
_OF_FEATURES = {"source", "transaction_id", "amount", "event_time", "source_committed_at", "landed_at", "op"} | {
    *("user_exists", "scored_at"),
}
"""Columns of the table that rules read, besides the key."""


def check_spelling(stream: PaymentStream) -> None:
    """Refuse a stream whose columns SQL does not read as they are.

    Raises:
        TransformError: names the column.
    """
    for role, column in _columns(stream):
        if not _is_plain(column):
            raise TransformError(
                f"streams.yml, {stream.name}: {role} names the column {column!r}, expected letters, digits and _, "
                "and no keyword of SQL",
                "give the field another name in sources.yml, with its own as path: `other_name: {path: …, type: …}`"
                if stream.kind == "events"
                else "rename the column at its source",
            )


def check_stream(stream: PaymentStream) -> None:
    """Refuse a stream whose columns no model can name.

    Raises:
        TransformError: names the column, and what to do.
    """
    check_spelling(stream)
    where = f"streams.yml, {stream.name}"
    for role, column in _columns(stream):
        reserved = _OF_ROWS | _OF_MODELS | (_OF_FEATURES if role.startswith("entity") else set())
        if column.lower() in reserved and not (role == "time" and column == "event_time"):
            raise TransformError(
                f"{where}: {role} names the column {column!r}, as models call one of their own",
                "give the field another name in sources.yml, with its own as path: `other_name: {path: …, type: …}`",
            )
    of_rows = _OF_ROWS | ({stream.original_amount.lower()} if stream.rates is not None else set())
    for column in stream.fields:
        if column.lower() in of_rows:
            raise TransformError(
                f"sources.yml, table {stream.table}: the field {column!r} is called like a column of the silver table",
                "give it another name, with its own as path: `other_name: {path: …, type: …}`",
            )
    own = {
        column.lower(): role for role, column in (("id", stream.id), ("time", stream.time), ("amount", stream.amount))
    }
    for name, entity in stream.entities.items():
        for column in entity.key:
            if column.lower() in own:
                raise TransformError(
                    f"{where}: entity {name!r} has {column!r} in its key, which is the {own[column.lower()]}",
                    "name a column that several payments share",
                )


def check_filtered(stream: PaymentStream, column: str, where: str) -> None:
    """Refuse a column of events in a filter that no model can name.

    Raises:
        TransformError: names the column, and what to do.
    """
    is_taken = not _is_plain(column) or column.lower() in _OF_MODELS
    if stream.kind == "events" and is_taken and column not in {one for _, one in _columns(stream)}:
        raise TransformError(
            f"{where}: its filter names the column {column!r}, which is a keyword of SQL or what models call a column "
            "of their own",
            "give the field another name in sources.yml, with its own as path: `other_name: {path: …, type: …}`",
        )


def check_tables(project: Path, models: Iterable[StreamModel]) -> None:
    """Refuse generated models that are called like a model of the project.

    Raises:
        TransformError: names the model.
    """
    taken = {path.stem.lower(): path for path in project.glob("models/**/*.sql")}
    for model in models:
        if model.name.lower() in taken:
            raise TransformError(
                f"the stream {model.stream} would have the table {model.layer}/{model.name}, as the model "
                f"{taken[model.name.lower()].relative_to(project)} is called",
                "give the stream another name, or its topic another table",
            )


def _columns(stream: PaymentStream) -> Iterator[tuple[str, str]]:
    yield from (("id", stream.id), ("time", stream.time), ("amount", stream.amount))
    if stream.rates is not None:
        yield "currency", stream.rates.code
    for name, entity in stream.entities.items():
        for column in entity.key:
            yield f"entity {name!r}", column
    for name in stream.measures:
        for column in row_columns(stream.time, stream.measures[name].expression):
            yield f"measure {name!r}", column


@lru_cache(maxsize=1024)
def _is_plain(column: str) -> bool:
    """Whether SQL takes the name for a column without quotes."""
    if not _NAME.fullmatch(column):
        return False
    query = f"select {column}, one.{column} from (select 7 as {column}) as one where {column} = 7 group by {column}"
    try:
        with duckdb.connect() as connection:
            return connection.execute(query).fetchone() == (7, 7)
    except duckdb.Error:
        return False
