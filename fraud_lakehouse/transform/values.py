"""Values of queries in a model's SQL (`query_value`): a name there, a literal when the model is run.

A literal prunes the row groups of files where a join or a subquery cannot. The name follows from the query alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from fraud_lakehouse.sql_text import literal

_NAMES = re.compile(r"lake_value_[0-9a-f]{12}|lake_further_\w+|lake_fired_\w+")


@dataclass(frozen=True)
class Value:
    """The one value of a query, as a type of DuckDB."""

    query: str
    type: str

    @staticmethod
    def of(call: dict[str, Any]) -> Value:
        """The value that a macro's call describes."""
        return Value(call["query"], call["type"])

    @property
    def name(self) -> str:
        """What stands for it in the SQL."""
        return f"lake_value_{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"

    def literal(self, cursor: DuckDBPyConnection) -> str:
        """The value as SQL; null where the query has no row.

        Raises:
            duckdb.Error: the query fails, or its value is of no such type.
        """
        ((found,),) = cursor.execute(f"select cast(cast(({self.query}) as {self.type}) as varchar)").fetchall()
        return f"cast({'null' if found is None else literal(found)} as {self.type})"


def with_values(sql: str, found: Mapping[str, str]) -> str:
    """The SQL with literals for the names of values."""
    return _NAMES.sub(lambda name: found[name.group()], sql)
