"""New payments with what was known when each arrived, from the feature engine: the input `scored_payments` of a model.

A model's engine has the rows that the model has read before. It is kept between builds while it matches the model's
position. Otherwise it is filled from the table again: after a start, after another process has built the model, and
when other features are wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection

from fraud_lakehouse.features.requested import NO_TIME, EngineInput, feature_type
from fraud_lakehouse.sql_text import quoted
from fraud_lakehouse.storage.commit_numbers import NOTHING
from fraud_lakehouse.storage.lease import progress
from fraud_lakehouse.transform.scan import rows_sql
from fraud_lakehouse.transform.table_cache import Key
from fraud_lakehouse.transform.values import with_values

if TYPE_CHECKING:
    from fraud_lakehouse.features.engine import FeatureEngine
    from fraud_lakehouse.transform.consumption import Plan, Read

log = logging.getLogger(__name__)
BATCH_ROWS = 100_000
LOADED_ROWS = 500_000
MARGIN_SECONDS = 86_400
"""How much longer than the longest window rows are kept, for payments with earlier times than the newest."""
MICROSECONDS = 1_000_000
FOREVER = 2**62
"""In microseconds: no row is that old."""


@dataclass(frozen=True)
class Scored:
    """A model's new payments in order of arrival, and the SQL that reads them.

    Args:
        upstream: their table; `rows` is the relation of its new rows.
        sql: over `rows`; its columns are the stream's own and those of `columns`.
        history: the same over rows read before: those that count.
        order: SQL of the order of arrival.
        columns: what the model's SQL reads of a payment.
    """

    consumer: Key
    upstream: Key
    stream: str
    rows: str
    sql: str
    history: str
    order: str
    columns: Sequence[str]

    @staticmethod
    def of(call: Mapping[str, Any]) -> Scored:
        """Parse a macro's call."""
        consumer, upstream = ((call[part][0], call[part][1]) for part in ("consumer", "upstream"))
        stream, rows, sql, history, order = (call[name] for name in ("stream", "rows", "sql", "history", "order"))
        return Scored(consumer, upstream, stream, rows, sql, history, order, call["columns"])

    @property
    def name(self) -> str:
        """The relation's name; only the build's cursor knows it."""
        return f"payments of {'.'.join(self.consumer)}"


@dataclass
class _Held:
    """An engine and the rows it has: those of a table up to a commit number (None: unknown).

    Rows before `horizon` (microseconds) count only in totals; `newest` is the latest time of all. Rows are kept for
    `kept` before it.
    """

    input: EngineInput
    engine: FeatureEngine
    kept: int
    table: str = ""
    until: int | None = NOTHING
    horizon: int = -FOREVER
    newest: int = 0


class Engines:
    """The engines of a connection's models."""

    def __init__(self) -> None:
        self._held: dict[Key, _Held] = {}

    def answer(
        self, cursor: DuckDBPyConnection, plan: Plan, scored: Scored, wanted: EngineInput, further: Sequence[str]
    ) -> pa.RecordBatchReader:
        """The new payments with their features, to be read once; call `stored` after storing them.

        Args:
            wanted: the features.
            further: columns of the payment in addition to those that the model names.

        Returns: columns as in `scored.columns` and `further`, and one for each feature, named by `feature_column`.
        """
        read = plan.reads.get(scored.upstream)
        new = f"(select {wanted.named} from ({with_values(scored.sql, plan.values)}) as payments) as payments"
        names = list(dict.fromkeys([*scored.columns, *further]))
        selected = [*(quoted(name) for name in names), *_inputs(wanted)]
        query = f"select {', '.join(selected)} from {new} order by {scored.order}"
        if read is None or not read.has_rows:
            rows = cursor.sql(f"{query} limit 0").to_arrow_table().select(names)
            for feature in wanted.features:
                rows = rows.append_column(feature_column(feature.name), pa.array([], feature_type(feature)))
            return rows.to_reader()
        held = self._ready(cursor, plan, scored, wanted, read)
        held.until = None
        batches = _scored(cursor.cursor().sql(query).to_arrow_reader(BATCH_ROWS), held, names)
        first = next(batches)
        return pa.RecordBatchReader.from_batches(first.schema, chain([first], batches))

    def stored(self, plan: Plan, scored: Scored) -> None:
        """Record that the payments were stored and that the model's position includes them."""
        held, read = self._held.get(scored.consumer), plan.reads.get(scored.upstream)
        if held is None or read is None or not read.has_rows:
            return
        held.table, held.until = _position(read, read.until)
        before = held.newest - held.kept
        # rarely: the cost grows with the number of keys
        if before - held.horizon > MARGIN_SECONDS * MICROSECONDS:
            held.engine.evict(before)
            held.horizon = before

    def _ready(self, cursor: DuckDBPyConnection, plan: Plan, scored: Scored, wanted: EngineInput, read: Read) -> _Held:
        """The engine with exactly the rows that the model has read before."""
        from fraud_lakehouse.features.engine import FeatureEngine  # compiling its kernels takes a second

        after = read.after if plan.incremental else NOTHING
        kept, oldest = (wanted.longest + MARGIN_SECONDS) * MICROSECONDS, None
        if wanted.kind == "changes":
            kept = FOREVER  # an update may be of a payment of any age
        else:
            oldest = _value(cursor, f"select min(_at) from {_counting(wanted, scored.history)} where _at > {NO_TIME}")
        held = self._held.get(scored.consumer)
        if held is not None and held.input == wanted and (held.table, held.until) == _position(read, after):
            if oldest is None or oldest - wanted.longest * MICROSECONDS >= held.horizon:
                return held
            log.info("%s: payments older than those in memory arrived: loading more history", scored.stream)
            kept = held.newest - oldest + (wanted.longest + MARGIN_SECONDS) * MICROSECONDS
        self._held.pop(scored.consumer, None)  # free its memory before the next one is loaded
        held = _Held(wanted, FeatureEngine(wanted.features, wanted.kind, wanted.units), kept=kept)
        if after > NOTHING:
            read.check_not_rewritten(scored.upstream)
            _load(cursor.cursor(), scored, held, read, oldest)
        self._held[scored.consumer] = held
        return held


def feature_column(name: str) -> str:
    """A feature's column before the model names it; no column of a payment has such a name."""
    return f"feature {name}"


def _load(cursor: DuckDBPyConnection, scored: Scored, held: _Held, read: Read, oldest: int | None) -> None:
    """Fill an engine with the rows read before; those older than every window as totals."""
    before = read.between(NOTHING, read.after)
    rows = scored.history.replace(scored.rows, f"({rows_sql(before.table, before.rows)})")
    inputs = _counting(held.input, rows)
    held.newest = _value(cursor, f"select max(_at) from {inputs} where _at > {NO_TIME}") or 0
    needed = held.newest - held.kept
    held.horizon = needed if oldest is None else min(needed, oldest - held.input.longest * MICROSECONDS)
    # a version begins before it ends
    order = "_at, _weight desc" if "_weight" in held.input.columns else "_at"
    kept = f"select * from {inputs} where coalesce(_at >= {held.horizon}, true) order by {order}"
    for batch in cursor.sql(kept).to_arrow_reader(LOADED_ROWS):
        held.engine.load(pa.Table.from_batches([batch]))
        progress()
    for query in _totals(held.input) if held.kept < FOREVER else ():
        totals = cursor.sql(
            query.format(rows=f"(select * from {inputs} where _at > {NO_TIME} and _at < {held.horizon}) as older")
        )
        for batch in totals.to_arrow_reader(LOADED_ROWS):
            held.engine.load_totals(pa.Table.from_batches([batch]))
        progress()


def _totals(wanted: EngineInput) -> Iterator[str]:
    """For each entity with features without a window, the query for the totals of its keys over {rows}."""
    for entity in dict.fromkeys(feature.entity for feature in wanted.features if feature.seconds is None):
        key = quoted(f"key_{entity}")
        columns = {"_rows": "count(*)", "_at": "max(_at)"}
        for feature in wanted.features:
            if feature.entity == entity and feature.seconds is None and feature.measure is not None:
                measure = feature.measure
                units = quoted(f"{'value' if feature.is_text else 'units'}_{'' if feature.is_text else 'of_'}{measure}")
                columns[f"count_of_{measure}"] = f"count({units})"
                columns[f"at_of_{measure}"] = f"max(case when {units} is not null then _at end)"
                if not feature.is_text:
                    columns[f"units_of_{measure}"] = f"cast(sum({units}) as bigint)"
                    squares = f"sum(cast({units} as hugeint) * {units})"
                    columns[f"squares_of_{measure}"] = f"cast({squares} as decimal(38, 0))"
        selected = ", ".join(f"{sql} as {quoted(name)}" for name, sql in columns.items())
        yield f"select {key}, {selected} from {{rows}} where {key} is not null group by {key}"


def _scored(rows: pa.RecordBatchReader, held: _Held, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The payments with their features, in batches; at least one batch, to carry the columns."""
    is_first = True
    for batch in chain(rows, [_nothing(rows.schema)]):
        if batch.num_rows == 0 and not is_first:
            continue
        is_first = False
        table = pa.Table.from_batches([batch])
        found = held.engine.add(table.select(list(held.input.columns)))
        held.newest = max(held.newest, pc.max(table["_at"]).as_py() or 0)
        if "_weight" in table.column_names:
            table = table.filter(pc.equal(table["_weight"], 1))
        columns = [*table.select(names).columns, *found.columns]
        answered = pa.table(columns, names=[*names, *(feature_column(name) for name in found.column_names)])
        yield answered.combine_chunks().to_batches()[0] if answered.num_rows else _nothing(answered.schema)
        progress()


def _nothing(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _inputs(wanted: EngineInput) -> list[str]:
    return [f"{sql} as {quoted(name)}" for name, sql in wanted.columns.items()]


def _counting(wanted: EngineInput, rows: str) -> str:
    """The columns that the engine needs, of rows that count but are not evaluated."""
    named = f"(select {wanted.named} from ({rows}) as payments) as payments"
    return f"(select {', '.join(_inputs(wanted))} from {named}) as inputs"


def _position(read: Read, number: int) -> tuple[str, int]:
    return str(read.table.metadata().id), number


def _value(cursor: DuckDBPyConnection, query: str) -> int | None:
    ((found,),) = cursor.execute(query).fetchall()
    return None if found is None else int(found)
