"""Views that a model reads its new rows through (rules): built from those that work, without those that fail on a row.

Where a view that was left out goes on reading is in consumption.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from duckdb import DuckDBPyConnection

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.compiled import Model


def only(cursor: DuckDBPyConnection, model: Model, sql: str, views: Sequence[str]) -> str:
    """The SQL of a model with every other view that it must read empty.

    Args:
        views: at least one of `must_read`, if there are any; all have the same columns and lie in the model's layer.
    """
    others = [view for view in model.must_read if view not in views]
    if not others:
        return sql
    layer = quoted(model.key[0])
    empty = f"{layer}.{quoted(f'nothing of {views[0]}')}"
    cursor.execute(f"create or replace view {empty} as select * from {layer}.{quoted(views[0])} where false")
    for view in others:
        sql = sql.replace(f"{layer}.{quoted(view)}", empty)
    return sql


def failing_views(cursor: DuckDBPyConnection, model: Model, sql: str, views: Sequence[str]) -> dict[str, str]:
    """Those of the views that the model cannot be built from, each by itself, and why."""
    found = {}
    for view in views:
        try:
            for _ in cursor.sql(only(cursor, model, sql, [view])).to_arrow_reader(100_000):
                pass
        except Exception as error:  # noqa: BLE001  whatever it is, it is this view's
            found[view] = f"{error}; the others are evaluated, and this one reads the same rows once it works"
    return found
