"""What models read by name besides whole tables, as their macros declare it; a name follows from the input alone.

- `new_rows`: the rows of a table that the consumer has not read yet (macro new_rows).
- `seen`: what it has read before, kept in memory (macros seen_rows, seen_totals, seen_by_key; `mirrored.py`).
- `index`: rows with what an index over them says (macro indexed_rows; `indexed.py`).
- `scored`: new payments with what was known as each arrived (macro scored_payments; `scored.py`).
- `fired`: payments on which rules fire (macro fired_rows; `fired.py`).
- `value`: the one value of a query, put into the SQL as a literal (macro query_value; `values.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.fired import Fired
from fraud_lakehouse.transform.handles import Key
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.mirrored import Mirrored
from fraud_lakehouse.transform.scored import Scored
from fraud_lakehouse.transform.values import Value

NEW_ROWS_SCHEMA = "new_rows"


@dataclass(frozen=True)
class NewRows:
    """The rows of `upstream` that `consumer` has not read yet; `reader` is the model that names them, or a view."""

    consumer: Key
    upstream: Key
    reader: str

    @staticmethod
    def of(call: Mapping[str, Any]) -> NewRows:
        """The input of a macro's call."""
        consumer, upstream = ((call[part][0], call[part][1]) for part in ("consumer", "upstream"))
        return NewRows(consumer, upstream, call["reader"])

    @property
    def relation(self) -> str:
        """Its name in SQL."""
        through = "" if self.reader == self.consumer[1] else f" through {self.reader}"
        name = f"{self.consumer[0]}.{self.consumer[1]}{through} <- {self.upstream[0]}.{self.upstream[1]}"
        return f"{NEW_ROWS_SCHEMA}.{quoted(name)}"


def answer_of(operation: str, call: Mapping[str, Any]) -> Any:
    """What a macro gets while a model is only compiled: it follows from the call, whatever is in the lake."""
    if operation == "register":
        return None
    if operation == "plan":
        return not call["full_refresh"]
    return False if operation == "full_when" else name_of(operation, call)


def name_of(kind: str, call: Mapping[str, Any]) -> str:
    """What stands for an input in SQL."""
    if kind == "new_rows":
        return NewRows.of(call).relation
    if kind == "seen":
        return Mirrored.of(dict(call)).relation
    if kind == "index":
        return quoted(Indexed.of(dict(call)).name)
    if kind == "scored":
        return quoted(Scored.of(call).name)
    if kind == "fired":
        return quoted(Fired.of(call).name)
    if kind == "value":
        return Value.of(dict(call)).name
    raise ValueError(f"unknown kind of input {kind!r}")
