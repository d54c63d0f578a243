"""What macros get while a model is only compiled: names that follow from their calls, whatever the lake has.

They are the names that the same calls get while it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.mirrored import Mirrored
from fraud_lakehouse.transform.values import Value

NEW_ROWS_SCHEMA = "new_rows"


def compiled(operation: str, call: dict[str, Any]) -> Any:
    """What a macro gets while a model is only compiled: it follows from the call, whatever is in the lake."""
    answers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "plan": lambda call: not call["full_refresh"],
        "new_rows": new_rows_relation,
        "seen": lambda call: Mirrored.of(call).relation,
        "index": lambda call: quoted(Indexed.of(call).name),
        "value": lambda call: Value.of(call).name,
        "full_when": lambda _call: False,
    }
    return answers[operation](call)


def new_rows_relation(call: dict[str, Any]) -> str:
    """The relation of rows that a model, or a view that it reads through, has not read yet."""
    consumer, upstream, reader = ".".join(call["consumer"]), ".".join(call["upstream"]), call["reader"]
    through = f" through {reader}" if reader != call["consumer"][1] else ""
    return f"{NEW_ROWS_SCHEMA}.{quoted(f'{consumer}{through} <- {upstream}')}"
