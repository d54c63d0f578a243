"""Counts recent payments whose amount or event time counts in no feature (macros/excluded.sql decides which).

A single one means that a producer or a limit is wrong: a setting for another currency, or a simulated clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from fraud_lakehouse.checks.rows_per_hour import files_between
from fraud_lakehouse.features.streams import PaymentStream
from fraud_lakehouse.storage.lake import Lake, scan_files

AMOUNT, TIME = "is_amount_excluded", "is_time_excluded"
EXAMPLES = 5


@dataclass(frozen=True)
class ExcludedValues:
    """Payments ingested in (`since`, `until`] (UTC) whose amounts or event times were excluded.

    `examples` are a few of them: id, amount, event time and what was excluded, as text.
    """

    since: datetime
    until: datetime
    amounts: int = 0
    times: int = 0
    examples: tuple[dict[str, str | None], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was excluded."""
        return self.amounts == 0 and self.times == 0


def evaluate_excluded_values(
    lake: Lake, stream: PaymentStream, window: timedelta = timedelta(hours=1), now: datetime | None = None
) -> ExcludedValues:
    """Count the payments of the last `window`. A lake without the stream, or older than the flags, passes.

    Args:
        now: end of the window; default: the clock (UTC).
    """
    until = now or datetime.now(UTC)
    since = until - window
    table = checked_table(stream)
    if not lake.exists("silver", table):
        return ExcludedValues(since, until)
    handle = lake.open("silver", table)
    if AMOUNT not in {field.name for field in handle.schema().fields}:
        return ExcludedValues(since, until)
    ingested = pl.col("_ingested_at")
    rows = scan_files(handle, files_between(handle, "_ingested_at", since, until)).filter(
        ingested > since, ingested <= until, pl.col(AMOUNT) | pl.col(TIME)
    )
    amount = pl.col(stream.amount)
    if stream.ledger is not None:  # for changes: deletions are entries too, and an amount may be text
        rows, amount = rows.filter(pl.col("weight") == 1), pl.coalesce("amount_text", amount)
    shown = [amount, pl.col(stream.id), pl.col(stream.time)]
    counts, examples = pl.collect_all(
        [rows.select(pl.col(AMOUNT).sum(), pl.col(TIME).sum()), rows.select(*shown, AMOUNT, TIME).head(EXAMPLES)]
    )
    amounts, times = counts.row(0)
    return ExcludedValues(since, until, amounts, times, tuple(_example(row) for row in examples.iter_rows()))


def checked_table(stream: PaymentStream) -> str:
    """The silver table with the flags of a stream's excluded values."""
    return stream.ledger or stream.rows


def _example(row: tuple[Any, ...]) -> dict[str, str | None]:
    amount, name, time, amount_excluded, time_excluded = row
    what = [part for part, is_so in (("amount", amount_excluded), ("event time", time_excluded)) if is_so]
    return {
        "id": str(name),
        "amount": None if amount is None else str(amount),
        "event time": None if time is None else str(time),
        "excluded": " and ".join(what),
    }
