"""Converts values to another column type, for rows captured before the source changed the type.

A value that the new type cannot represent is null and kept as text in `_text`; nothing is silently rounded or cut. The
source's own conversion (ALTER TABLE ... USING) may differ: a resync copies its results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl

_TEXT = "_text"
_TRUE, _FALSE = ("t", "true", "yes", "on", "1"), ("f", "false", "no", "off", "0")


def retyped(values: pl.Series, kind: pl.DataType) -> pl.Series:
    """The values in another type; null where that type cannot represent them."""
    if values.dtype == kind:
        return values
    if kind == pl.String():
        return as_text(values)
    if values.dtype == pl.String():
        return _parsed(values, kind)
    if pl.Binary() in (values.dtype, kind) or (kind == pl.Boolean() and not values.dtype.is_numeric()):
        return pl.Series(values.name, [None], dtype=kind).new_from_index(0, len(values))
    return values.cast(kind, strict=False)


def lossy(values: pl.Series, typed: pl.Series) -> pl.Series:
    """Where `typed`, the result of `retyped`, differs from the values."""
    if values.dtype == typed.dtype:
        return pl.Series([False]).new_from_index(0, len(values))
    back = retyped(typed, values.dtype)
    return values.is_not_null() & values.ne_missing(back)


def as_text(values: pl.Series) -> pl.Series:
    """The values in PostgreSQL's text format (timestamps with the offset of UTC)."""
    if values.dtype == pl.Binary():
        return "\\x" + values.bin.encode("hex")
    if isinstance(values.dtype, pl.Datetime):
        texts = values.dt.strftime("%Y-%m-%d %H:%M:%S%.6f").str.strip_chars_end("0").str.strip_suffix(".")
        return texts + "+00" if values.dtype.time_zone else texts
    return values.cast(pl.String, strict=False)


def _parsed(texts: pl.Series, kind: pl.DataType) -> pl.Series:
    if kind == pl.Boolean():
        lower = texts.str.to_lowercase()
        return lower.replace_strict(
            [*_TRUE, *_FALSE], [True] * len(_TRUE) + [False] * len(_FALSE), default=None, return_dtype=kind
        )
    if kind == pl.Binary():
        return texts.str.strip_prefix("\\x").str.decode("hex", strict=False)
    if kind == pl.Date():
        return texts.str.to_date("%Y-%m-%d", strict=False)
    if isinstance(kind, pl.Datetime):
        moments = texts.str.strip_suffix("+00").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
        return moments.dt.replace_time_zone("UTC") if kind.time_zone else moments
    return texts.cast(kind, strict=False)


def fitted(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The frame with exactly the columns and types of `schema`, which may have `_text`; missing columns are null.

    Columns are selected one by one: polars expressions take a name such as `^.*$` for a pattern.
    """
    columns, kept = [], {}
    for name, kind in schema.items():
        if name not in frame.columns:
            columns.append(pl.Series(name, [None], dtype=kind).new_from_index(0, frame.height))
            continue
        values = frame.get_column(name)
        typed = retyped(values, kind)
        columns.append(typed.alias(name))
        if values.dtype not in (kind, pl.Null()):
            marks = lossy(values, typed)
            if marks.any():
                kept[name] = as_text(values).set(~marks, None)
    result = pl.DataFrame(columns)
    if not kept or _TEXT not in schema:
        return result
    return result.with_columns(with_texts(result.get_column(_TEXT), kept))


def with_texts(texts: pl.Series, kept: Mapping[str, pl.Series]) -> pl.Series:
    """The JSON objects of `_text` with more keys: each name, where its text is not null (few rows)."""
    known = texts.to_list()
    for name, values in kept.items():
        for row in values.is_not_null().arg_true().to_list():
            known[row] = json.dumps({**json.loads(known[row] or "{}"), name: values[row]}, ensure_ascii=False)
    return pl.Series(texts.name, known, dtype=pl.String)
