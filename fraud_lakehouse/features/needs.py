"""What must be known of a row before a feature can be computed for it: columns of the row, and other features.

DuckDB's parser extracts them from the SQL of measures and expressions; nothing is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import duckdb

from fraud_lakehouse.errors import TransformError

if TYPE_CHECKING:
    from fraud_lakehouse.features.catalogue import Feature
    from fraud_lakehouse.features.streams import PaymentStream


def columns_of(expression: str) -> tuple[str, ...]:
    """The columns that an SQL expression names, each once, in order.

    Raises:
        TransformError: it is not an expression.
    """
    references = (node for node in _nodes(_parsed(expression)) if node.get("class") == "COLUMN_REF")
    return tuple(dict.fromkeys(str(node["column_names"][-1]) for node in references))


def functions_of(expression: str) -> tuple[str, ...]:
    """The functions that an SQL expression calls, each once, in order.

    Raises:
        TransformError: it is not an expression.
    """
    calls = (node for node in _nodes(_parsed(expression)) if node.get("class") == "FUNCTION")
    return tuple(dict.fromkeys(str(node["function_name"]) for node in calls))


def is_of_one_row(expression: str) -> bool:
    """Whether an SQL expression has neither a subquery nor a window.

    Raises:
        TransformError: it is not an expression.
    """
    return not any(node.get("class") in ("SUBQUERY", "WINDOW") for node in _nodes(_parsed(expression)))


@lru_cache(maxsize=512)
def _parsed(expression: str) -> Any:
    """The syntax tree of an SQL expression."""
    row = _parser().cursor().execute("select json_serialize_sql(?)", [f"select {expression}"]).fetchone()
    parsed = json.loads(row[0]) if row else {"error": True}
    if parsed["error"]:
        raise TransformError(f"{expression!r} is not an SQL expression: {parsed.get('error_message')}", "correct it")
    statements = parsed["statements"]
    node = statements[0]["node"]
    if len(statements) > 1 or len(node.get("select_list", ())) != 1 or node["from_table"]["type"] != "EMPTY":
        raise TransformError(f"{expression!r} is more than one SQL expression", "correct it")
    return statements


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()  # opening a connection takes 40 ms


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """The objects of a syntax tree, parents first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def row_columns(time: str, expression: str) -> list[str]:
    """Columns of a row that a measure with this expression needs, without the event time."""
    return [column for column in columns_of(expression) if column != time]


def needed_of(feature: Feature, stream: PaymentStream, background: Mapping[str, Feature]) -> dict[str, Sequence[str]]:
    """What a feature needs.

    Args:
        beside: the features of the same table, by name.

    Returns:
        `needs`: columns of the row, other than the event time; `uses`: features in its expression; `own`: measures of
        the row itself in its expression.
    """
    named = columns_of(feature.expression) if feature.expression is not None else ()
    own = [name for name in named if name in stream.measures]
    uses = [name for name in named if name in background and name not in own]
    keys = [stream.entities[entity].key for entity in (feature.entity, *(background[name].entity for name in uses))]
    columns = [
        *(column for key in keys for column in key),
        *(column for name in own for column in row_columns(stream.time, stream.measures[name].expression)),
    ]
    return {"needs": list(dict.fromkeys(columns)), "uses": uses, "own": own}
