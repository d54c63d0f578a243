"""Query values in a model's SQL (`query_value`): a name in the SQL, replaced by a literal when the model runs.

A literal prunes row groups of files; a join or subquery cannot. The name depends only on the query.
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
    """The one value of a query, as a DuckDB type."""

    query: str
    type: str

    @staticmethod
    def of(call: dict[str, Any]) -> Value:
        """Parse a macro's call."""
        return Value(call["query"], call["type"])

    @property
    def name(self) -> str:
        """Its name in the SQL."""
        return f"lake_value_{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"

    def literal(self, cursor: DuckDBPyConnection) -> str:
        """The value as SQL; null if the query has no row.

        Raises:
            duckdb.Error: the query fails, or its value does not fit the type.
        """
        ((found,),) = cursor.execute(f"select cast(cast(({self.query}) as {self.type}) as varchar)").fetchall()
        return f"cast({'null' if found is None else literal(found)} as {self.type})"


def with_values(sql: str, found: Mapping[str, str]) -> str:
    """The SQL with named values replaced by literals."""
    return _NAMES.sub(lambda name: found[name.group()], sql)
