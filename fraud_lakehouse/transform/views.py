"""Views that a model reads its new rows through (rules): built from those that work, without those that fail on a row.

Where a view that was left out goes on reading is in consumption.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duckdb import DuckDBPyConnection

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.model_sql import Queries, typed, without_number


def with_only(cursor: DuckDBPyConnection, call: dict[str, Any], views: Sequence[str]) -> dict[str, Any]:
    """The call that writes a model, with every other view that it must read empty.

    Args:
        call: its `must_read` names the views, which are tables of the same name among its `parents`.
        views: at least one of them; all have the same columns.
    """
    others = [view for view in call["must_read"] if view not in views]
    if not others:
        return call
    layers = {table: layer for layer, table in call["parents"]}
    names = {view: f"{quoted(layers[view])}.{quoted(view)}" for view in call["must_read"]}
    empty, sql = f"{quoted(layers[views[0]])}.{quoted(f'nothing of {views[0]}')}", call["sql"]
    cursor.execute(f"create or replace view {empty} as select * from {names[views[0]]} where false")
    for view in others:
        sql = sql.replace(names[view], empty)
    return call | {"sql": sql}


def failing_views(
    cursor: DuckDBPyConnection, queries: Queries, call: dict[str, Any], views: Sequence[str]
) -> dict[str, str]:
    """Those of the views that the model cannot be built from, each by itself, and why."""
    found = {}
    for view in views:
        text = f"{with_only(cursor, call, [view])['sql']}\n"
        try:
            names, text = without_number(queries.columns(cursor, text), text)
            sql = typed(text, names, call["columns"], call["model"])
            for _ in cursor.sql(sql).to_arrow_reader(100_000):
                pass
        except Exception as error:  # noqa: BLE001  whatever it is, it is this view's
            found[view] = f"{error}; the others are evaluated, and this one reads the same rows once it works"
    return found
