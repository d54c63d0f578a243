"""Imports labels from a file. All rows are checked first: a file with a mistake adds nothing."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from fraud_lakehouse.detection.labels.inputs import utc
from fraud_lakehouse.detection.labels.table import LabelTable
from fraud_lakehouse.errors import InputFileError, LabelsError
from fraud_lakehouse.features.labels import read_labels
from fraud_lakehouse.pipeline.labels import ORIGINS
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import UTC_MICROSECONDS

REQUIRED = ("stream", "transaction_id", "is_fraud", "known_at")
OPTIONAL = ("origin", "author", "note")
_MOST_SHOWN = 20


@dataclass(frozen=True)
class Imported:
    """The result: rows of the file, and how many of them were new."""

    rows: int
    added: int


class LabelFileError(InputFileError):
    """The file cannot be read, lacks a column or has wrong rows; nothing was added."""


def import_labels(lake: Lake, path: Path, streams: Collection[str]) -> Imported:
    """Append a file's labels to `silver/labels`; labels that are there already are not added again.

    Args:
        path: a .csv or .parquet file with the columns `REQUIRED`, and any of `OPTIONAL`. `is_fraud` is 0 or 1, true or
            false; `known_at` a time, UTC where it has no zone; `origin` is chargeback where it is missing or empty.
        streams: the names that `stream` may have.

    Raises:
        LabelsError: the file is neither CSV nor Parquet, or cannot be read.
        LabelFileError: a column is missing, or rows are wrong: the message has the lines of the first 20.
        ConcurrentWriterError, LakeError: the labels could not be written.
    """
    text = [*REQUIRED, *OPTIONAL]
    frame = read_labels(path, text)
    if missing := [name for name in REQUIRED if name not in frame.columns]:
        raise LabelFileError(
            f"{path} has no column {', '.join(missing)}; found: {', '.join(frame.columns)}",
            f"expected {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}",
        )
    try:
        labels = _checked(frame.select(name for name in text if name in frame.columns), streams)
    except duckdb.Error as error:
        raise LabelsError(f"{path} cannot be used: {error}", "give each column as text, or in its own type") from None
    wrong = labels.filter(pl.col("problem").is_not_null())
    if not wrong.is_empty():
        raise _refused(path, wrong)
    added = LabelTable(lake).add(labels.with_columns(pl.lit(path.name).alias("input")))
    return Imported(labels.height, added)


def _checked(frame: pl.DataFrame, streams: Collection[str]) -> pl.DataFrame:
    """The labels, with the column `problem`: why a row cannot be used."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("file_rows", frame.with_row_index("_place").to_arrow())
        types = {str(name): str(kind) for name, kind, *_ in connection.execute("describe file_rows").fetchall()}

        def optional(name: str) -> str:
            return f"nullif(trim(cast({name} as varchar)), '')" if name in types else "cast(null as varchar)"

        labels = f"""
select
    _place,
    {optional("stream")} as stream,
    {optional("transaction_id")} as transaction_id,
    case when lower({optional("is_fraud")}) in ('1', '1.0', 'true') then true
        when lower({optional("is_fraud")}) in ('0', '0.0', 'false') then false
    end as is_fraud,
    {utc("known_at", types["known_at"], "UTC")} as known_at,
    lower(coalesce({optional("origin")}, 'chargeback')) as origin,
    {optional("author")} as author,
    {optional("note")} as note,
    {optional("is_fraud")} as label_text,
    {optional("known_at")} as time_text
from file_rows"""
        sql = f"""
select
    *,
    case when stream is null or not list_contains($streams, stream)
            then 'stream ' || coalesce(stream, 'is empty') || ', expected one of ' || $known
        when transaction_id is null then 'transaction_id is empty'
        when is_fraud is null then 'is_fraud ' || coalesce(label_text, 'is empty') || ', expected 0 or 1'
        when known_at is null
            then 'known_at ' || coalesce(time_text, 'is empty') || ', expected a time as 2026-01-31T12:00:00Z'
        when not list_contains($origins, origin) then 'origin ' || origin || ', expected {" or ".join(ORIGINS)}'
    end as problem
from ({labels}) as labels
order by _place"""
        values = {"streams": list(streams), "known": ", ".join(streams), "origins": list(ORIGINS)}
        found = pl.DataFrame(connection.sql(sql, params=values).to_arrow_table())
    # A label of a file is known when the file says so, whatever was known before.
    known_at = pl.col("known_at").cast(UTC_MICROSECONDS)
    return found.with_columns(known_at, known_at.alias("recorded"))


def _refused(path: Path, wrong: pl.DataFrame) -> LabelFileError:
    shown = wrong.head(_MOST_SHOWN)
    what = "row" if path.suffix.lower() == ".parquet" else "line"
    lines = _lines(path, shown["_place"].to_list()) if what == "line" else [place + 1 for place in shown["_place"]]
    problems = [f"{what} {line}: {problem}" for line, problem in zip(lines, shown["problem"], strict=True)]
    more = f"\n… and {wrong.height - _MOST_SHOWN:,} more" if wrong.height > _MOST_SHOWN else ""
    return LabelFileError(
        f"{path} has {wrong.height:,} wrong rows, nothing was imported:\n" + "\n".join(problems) + more,
        "correct or remove these rows and import the file again; rows that are stored already are not added twice",
    )


def _lines(path: Path, places: list[int]) -> list[int]:
    """The line in which each of these rows (from 0, ascending) of a CSV file begins."""
    found, wanted = [], set(places)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader, None)
        begin, place = reader.line_num + 1, 0
        for row in reader:
            if row:
                if place in wanted:
                    found.append(begin)
                place += 1
            if len(found) == len(wanted):
                break
            begin = reader.line_num + 1
    return found
