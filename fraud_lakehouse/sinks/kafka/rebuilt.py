"""Compares a rebuilt table with its topic: only the differences are published, as a new epoch.

Versions start at 1 again in a rebuilt table, so the newest row of a key has the greatest (epoch, version).
"""

from __future__ import annotations

import polars as pl

from fraud_lakehouse.sinks.kafka.feature_topic import COUNT, MEAN, TIME, FeatureTopic
from fraud_lakehouse.sinks.kafka.topic_content import Content

TOLERANCE = 1e-9
"""Relative, of a mean: a sum over the same rows in another order differs in its last bits and is no correction."""


def differences(rows: pl.DataFrame, content: Content, topic: FeatureTopic) -> pl.DataFrame:
    """Rows to publish so that the topic equals the table.

    Args:
        rows: the newest version of each key in the table, columns as in `topic.columns`.
        content: the complete topic.

    Returns:
        rows of keys that the topic lacks or whose values differ; for keys that the table no longer has, the topic's
        last values with `is_deleted` set and the next version. `is_deleted` is always a column.
    """
    table = rows if "is_deleted" in rows.columns else rows.with_columns(is_deleted=pl.lit(False))
    published = _as_table(content.newest, rows, topic)
    keys = list(topic.key)
    values = {"_mean": MEAN, "_count": COUNT, "_deleted": "is_deleted"}
    last = published.select(*keys, **{name: pl.col(column) for name, column in values.items()})
    both = table.join(last, on=keys, how="left", nulls_equal=True)
    same_mean = pl.col(MEAN).eq_missing(pl.col("_mean")) | (
        (pl.col(MEAN) - pl.col("_mean")).abs() <= TOLERANCE * pl.max_horizontal(pl.col(MEAN).abs(), pl.lit(1.0))
    ).fill_null(False)
    is_known = pl.col("_deleted").is_not_null()
    was_there = is_known & ~pl.col("_deleted").fill_null(False)
    differs = ~(same_mean & pl.col(COUNT).eq_missing(pl.col("_count")))
    changed = both.filter(pl.when(pl.col("is_deleted")).then(was_there).otherwise(~was_there | differs)).select(
        table.columns
    )
    gone = (
        published.filter(~pl.col("is_deleted"))
        .join(table, on=keys, how="anti", nulls_equal=True)
        .with_columns(pl.lit(True).alias("is_deleted"), pl.col("version") + 1)
        .select(pl.col(name).cast(table.schema[name]) for name in table.columns)
    )
    return pl.concat([changed, gone]).sort(topic.order, nulls_last=True)


def _as_table(newest: pl.DataFrame, rows: pl.DataFrame, topic: FeatureTopic) -> pl.DataFrame:
    """The topic's rows with the table's types: times are parsed from text."""
    times = [name for name in topic.body if rows.schema[name].is_temporal()]
    parsed = newest.with_columns(pl.col(name).str.to_datetime(f"{TIME}%.f", time_unit="us") for name in times)
    kept = [*topic.columns, *([] if "is_deleted" in topic.columns else ["is_deleted"])]
    return parsed.select(kept)
