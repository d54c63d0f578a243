"""The payments on which rules fire: the input that a model calls `fired_rows`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from fraud_lakehouse.rules import evaluator, fired_sql, fires_sql
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.transform.values import with_values

if TYPE_CHECKING:
    from fraud_lakehouse.rules import StreamRule

MOST_ROWS = 20_000
"""Above this number DuckDB evaluates the rules. For fewer payments, Python is faster than DuckDB's planning."""
_UTC = pa.timestamp("us", "UTC")
COLUMNS = pa.schema(
    [
        ("source", pa.string()),
        ("stream", pa.string()),
        ("transaction_id", pa.string()),
        ("user_id", pa.int64()),
        ("amount", pa.float64()),
        ("event_time", pa.timestamp("us")),
        ("source_committed_at", _UTC),
        ("landed_at", _UTC),
        ("scored_at", _UTC),
        ("position", pa.int64()),
        ("sub_position", pa.int64()),
    ]
)
FIRINGS = pa.field("firings", pa.string())


@dataclass(frozen=True)
class Fired:
    """The payments of `sql` on which a stream's rules fire: the rules in one state that are evaluated `on` them."""

    stream: str
    state: str
    on: str
    sql: str

    @staticmethod
    def of(call: Mapping[str, Any]) -> Fired:
        """Parse a macro's call."""
        return Fired(call["stream"], call["state"], call["on"], call["sql"])

    @property
    def name(self) -> str:
        """The relation's name; only the build's cursor knows it."""
        return f"{self.state} rules of {self.stream} on {self.on}"

    def rows(self, cursor: DuckDBPyConnection, rules: Sequence[StreamRule], values: Mapping[str, str]) -> pa.Table:
        """The payments, with `firings`: a JSON list of the rules that fire on each.

        Args:
            values: literals that replace the named values in the SQL.
        """
        if not rules:
            return pa.table({field.name: pa.array([], field.type) for field in [*COLUMNS, FIRINGS]})
        payments = f"({with_values(self.sql, values)}) as payments"
        selected = ", ".join(
            f"cast({quoted(field.name)} as {_TYPES[field.type]}) as {quoted(field.name)}" for field in COLUMNS
        )
        seen = sorted({name for rule in rules for name in rule.seen})
        further = "".join(f", {quoted(name)} as {quoted('seen ' + name)}" for name in seen)
        few = cursor.sql(f"select {selected}{further} from {payments} limit {MOST_ROWS + 1}").to_arrow_table()
        if few.num_rows > MOST_ROWS:
            query = f"select {selected}, {fired_sql(rules)} as firings from {payments} where {fires_sql(rules)}"
            return cursor.sql(query).to_arrow_table()
        values_seen = [few.column(f"seen {name}").to_pylist() for name in seen]
        evaluate = evaluator(rules)
        firings = [evaluate(dict(zip(seen, row, strict=True))) for row in zip(*values_seen, strict=True)]
        fired = [number for number, one in enumerate(firings) if one]
        texts = [json.dumps(firings[number], separators=(",", ":"), ensure_ascii=False) for number in fired]
        kept = few.select(COLUMNS.names).take(pa.array(fired, pa.int64())).cast(COLUMNS)
        return kept.append_column(FIRINGS, pa.array(texts, pa.string()))


_TYPES = {
    pa.string(): "varchar",
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.timestamp("us"): "timestamp",
    _UTC: "timestamptz",
}
