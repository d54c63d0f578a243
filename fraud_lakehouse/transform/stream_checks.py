"""Checks that models can be generated for a stream: reserved names of columns and tables."""

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
"""Columns that models have in addition to the stream's."""
_OF_FEATURES = {"source", "transaction_id", "amount", "event_time", "source_committed_at", "landed_at", "op"} | {
    *("user_exists", "scored_at"),
}
"""Columns of the table that rules read, other than the key."""


def check_spelling(stream: PaymentStream) -> None:
    """Check that SQL can name the stream's columns without quotes.

    Raises:
        TransformError: names the column.
    """
    for role, column in _columns(stream):
        if not _is_plain(column):
            raise TransformError(
                f"streams.yml, {stream.name}: {role} names the column {column!r}, expected letters, digits and _, "
                "and not an SQL keyword",
                "give the field another name in sources.yml, with its own as path: `other_name: {path: …, type: …}`"
                if stream.kind == "events"
                else "rename the column at its source",
            )


def check_stream(stream: PaymentStream) -> None:
    """Check that the stream's columns do not collide with the models' own.

    Raises:
        TransformError: names the column, and what to do.
    """
    check_spelling(stream)
    where = f"streams.yml, {stream.name}"
    for role, column in _columns(stream):
        reserved = _OF_ROWS | _OF_MODELS | (_OF_FEATURES if role.startswith("entity") else set())
        if column.lower() in reserved and not (role == "time" and column == "event_time"):
            raise TransformError(
                f"{where}: {role} names the column {column!r}, which models use for one of their own",
                "give the field another name in sources.yml, with its own as path: `other_name: {path: …, type: …}`",
            )
    of_rows = _OF_ROWS | ({stream.original_amount.lower()} if stream.rates is not None else set())
    for column in stream.fields:
        if column.lower() in of_rows:
            raise TransformError(
                f"sources.yml, table {stream.table}: the field {column!r} has the name of a column of the silver table",
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
                    "use a column that several payments share",
                )


def check_filtered(stream: PaymentStream, column: str, where: str) -> None:
    """Check that models can name a column of events in a filter.

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
    """Check that no generated model has the name of a model of the project.

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
    """Whether SQL accepts the column name without quotes."""
    if not _NAME.fullmatch(column):
        return False
    query = f"select {column}, one.{column} from (select 7 as {column}) as one where {column} = 7 group by {column}"
    try:
        with duckdb.connect() as connection:
            return connection.execute(query).fetchone() == (7, 7)
    except duckdb.Error:
        return False
