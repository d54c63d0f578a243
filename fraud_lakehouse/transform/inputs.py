"""Inputs that models read by name, other than whole tables, as their macros declare them.

A name depends only on the input.

- `new_rows`: the rows of a table that the consumer has not read yet (macro new_rows).
- `seen`: rows it has read before, cached in memory (macros seen_rows, seen_totals, seen_by_key; `cached_rows.py`).
- `index`: rows with results of an index over them (macro indexed_rows; `indexed.py`).
- `scored`: new payments with what was known when each arrived (macro scored_payments; `scored.py`).
- `fired`: payments on which rules fire (macro fired_rows; `fired.py`).
- `value`: the one value of a query, inserted into the SQL as a literal (macro query_value; `values.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.cached_rows import CachedRows
from fraud_lakehouse.transform.fired import Fired
from fraud_lakehouse.transform.indexed import Indexed
from fraud_lakehouse.transform.scored import Scored
from fraud_lakehouse.transform.table_cache import Key
from fraud_lakehouse.transform.values import Value

NEW_ROWS_SCHEMA = "new_rows"


@dataclass(frozen=True)
class NewRows:
    """The rows of `upstream` that `consumer` has not read yet; `reader` is the model, or a view, that names them."""

    consumer: Key
    upstream: Key
    reader: str

    @staticmethod
    def of(call: Mapping[str, Any]) -> NewRows:
        """Parse a macro's call."""
        consumer, upstream = ((call[part][0], call[part][1]) for part in ("consumer", "upstream"))
        return NewRows(consumer, upstream, call["reader"])

    @property
    def relation(self) -> str:
        """The relation's name in SQL."""
        through = "" if self.reader == self.consumer[1] else f" through {self.reader}"
        name = f"{self.consumer[0]}.{self.consumer[1]}{through} <- {self.upstream[0]}.{self.upstream[1]}"
        return f"{NEW_ROWS_SCHEMA}.{quoted(name)}"


def answer_of(operation: str, call: Mapping[str, Any]) -> Any:
    """What a macro returns while a model is only compiled; it depends on the call alone, not on the lake."""
    if operation == "register":
        return None
    if operation == "plan":
        return not call["full_refresh"]
    return False if operation == "full_when" else name_of(operation, call)


def name_of(kind: str, call: Mapping[str, Any]) -> str:
    """The name of an input in SQL."""
    if kind == "new_rows":
        return NewRows.of(call).relation
    if kind == "seen":
        return CachedRows.of(dict(call)).relation
    if kind == "index":
        return quoted(Indexed.of(dict(call)).name)
    if kind == "scored":
        return quoted(Scored.of(call).name)
    if kind == "fired":
        return quoted(Fired.of(call).name)
    if kind == "value":
        return Value.of(dict(call)).name
    raise ValueError(f"unknown kind of input {kind!r}")
