"""Reads labels (frames and files) and casts them to the types of the source's rows; errors name the column.

No feature is computed here, and the lake is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl

from fraud_lakehouse.errors import LabelsError
from fraud_lakehouse.features.choice import EVENT_TIME, KNOWN_BY

Types = Mapping[str, pl.DataType]
_UTC = pl.Datetime("us", "UTC")


def read_labels(path: Path, text: list[str]) -> pl.DataFrame:
    """Labels from a .csv or .parquet file.

    Args:
        text: columns read from CSV as text, such as ids with leading zeros.

    Raises:
        LabelsError: another file type, or the file cannot be read.
    """
    if _ending(path) == ".parquet":
        return _read(path, lambda: pl.read_parquet(path, glob=False))
    as_text = {name: pl.String() for name in (*text, EVENT_TIME, KNOWN_BY)}

    def read() -> pl.DataFrame:
        present = pl.read_csv(path, n_rows=0, glob=False).columns
        overrides = {name: kind for name, kind in as_text.items() if name in present}
        return pl.read_csv(path, infer_schema_length=None, schema_overrides=overrides, glob=False)

    return _read(path, read)


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a .csv or .parquet file.

    Raises:
        LabelsError: another file type, or the file cannot be written.
    """
    write = frame.write_parquet if _ending(path) == ".parquet" else frame.write_csv
    try:
        write(path)
    except OSError as error:
        raise LabelsError(f"{path} cannot be written: {error}", "choose another path") from None


def check_ending(path: Path) -> None:
    """Check that a file's name ends with .csv or .parquet.

    Raises:
        LabelsError: it does not.
    """
    _ending(path)


def typed_labels(labels: pl.DataFrame, types: Types) -> pl.DataFrame:
    """The columns of `types` that the labels have, cast to the types of the source's rows.

    event_time becomes microseconds without zone (UTC), known_by microseconds in UTC; a time without zone is UTC.

    Raises:
        LabelsError: names the column and a value that is not of its type.
    """
    columns = []
    for name, kind in types.items():
        if name in labels.columns:
            column = labels[name]
            if name in (EVENT_TIME, KNOWN_BY):
                moments = _moments(column)
                columns.append(moments if name == KNOWN_BY else moments.dt.replace_time_zone(None))
            else:
                columns.append(_of_kind(column, kind))
    return pl.DataFrame(columns)


def moment(text: str) -> datetime:
    """Parse a moment; without zone it is UTC.

    Raises:
        LabelsError: the text is not a moment.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise LabelsError(f"{text!r} is not a moment", "write it as 2026-01-31T12:00:00+00:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _moments(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind == pl.Null:
        return column.cast(_UTC)
    if kind == pl.String:
        return _parsed(column)
    if kind == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if isinstance(kind, pl.Datetime):
        zoned = column.dt.replace_time_zone("UTC") if kind.time_zone is None else column.dt.convert_time_zone("UTC")
        return zoned.dt.cast_time_unit("us")
    raise LabelsError(f"the labels' column {column.name} holds {kind}", "give times (a time without zone is UTC)")


def _parsed(column: pl.Series) -> pl.Series:
    """Parse times, each with or without zone, to the microsecond."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("texts", pl.DataFrame({"place": range(len(column)), "text": column}).to_arrow())
        query = "select try_cast(nullif(trim(text), '') as timestamptz) as moment from texts order by place"
        found = pl.Series(column.name, connection.sql(query).to_arrow_table().column("moment")).cast(_UTC)
    _check(column, found, column.is_not_null() & (column.str.strip_chars() != ""), "a time")
    return found


def _of_kind(column: pl.Series, kind: pl.DataType) -> pl.Series:
    """The column cast to integers, numbers or text, as in `kind`."""
    if kind == pl.String:
        if column.dtype.is_float() or column.dtype.is_nested() or column.dtype == pl.Binary:
            raise LabelsError(f"the labels' column {column.name} holds {column.dtype}", "give texts")
        return column.cast(pl.String)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise LabelsError(f"the labels' column {column.name} holds {column.dtype}", "give numbers")
    if not kind.is_integer():
        return _checked(column, column.cast(pl.Float64, strict=False), "a number")
    whole = column.cast(pl.Int64, strict=False)
    if column.dtype.is_float():
        whole = whole.set(whole.cast(pl.Float64) != column, None)
    return _checked(column, whole, "a whole number")


def _checked(column: pl.Series, found: pl.Series, what: str) -> pl.Series:
    _check(column, found, column.is_not_null(), what)
    return found


def _check(column: pl.Series, found: pl.Series, must: pl.Series, what: str) -> None:
    wrong = column.filter(must & found.is_null())
    if len(wrong):
        raise LabelsError(
            f"the labels' column {column.name} holds {wrong[0]!r}, which is not {what} ({len(wrong):,} such values)",
            "correct the labels",
        )


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise LabelsError(f"{path} is neither .csv nor .parquet", "name a file with one of these endings")
    return ending


def _read(path: Path, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    try:
        return read()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LabelsError(
            f"{path} cannot be read: {error}", "give a CSV file with a header, or a Parquet file"
        ) from None
