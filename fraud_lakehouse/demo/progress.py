"""The demo's output: the first alert at once, one line every few seconds, a summary at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.demo.memory import tree_bytes
from fraud_lakehouse.demo.scoreboard import Score, Scoreboard, describe, percent
from fraud_lakehouse.demo.truth import BankTruth, RecordTruth
from fraud_lakehouse.storage.lake import Lake, scan

if TYPE_CHECKING:
    from fraud_lakehouse.live import CycleResult

LINE_SECONDS = 3.0
RECORD_TABLES = {
    "cards": "card_transactions",
    "transfers": "bank_transfers",
    "accounts.user_transaction": "user_transaction",
    "accounts.auth_user": "auth_user",
}
"""The bronze table of each topic, by its source."""
_TABLES = {"bank": "transactions", **RECORD_TABLES}
_IDS = {"cards": "trans_num", "transfers": "transaction_id", "accounts.user_transaction": "_lsn"}
_FIRST_ALERT_SECONDS = 0.25  # seconds between checks for it


class Progress:
    """Tracks the cycles by their results, the generators by their truth, and the alerts in the lake.

    Args:
        lake: the demo's lake.
        bank: truth of the bank.
        records: truth of each topic's records, by the name of their source.
        say: prints a line.
        begun: start of the demo (monotonic clock).
    """

    def __init__(
        self,
        lake: Lake,
        bank: BankTruth,
        records: Mapping[str, RecordTruth],
        say: Callable[[str], None],
        begun: float,
    ) -> None:
        self._truths: dict[str, BankTruth | RecordTruth] = {"bank": bank, **records}
        self.board = Scoreboard(lake, [*self._truths.values()])
        self.peak_bytes = 0
        self._lake = lake
        self._bank = bank
        self._records = records
        self._announce = say
        self._begun = begun
        self._bronze = {source: RowCount(lake, "bronze", _TABLES[source]) for source in self._truths}
        self._skew = 0  # bank operations without change events, applied before the backfill
        self._until: dict[str, datetime] = {}
        self._problems: dict[str, str] = {}
        self._cycle_seconds = 0.0
        self._done = threading.Event()
        self._busy = threading.Lock()
        self.first_alert = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def ingested(self, source: str) -> int:
        """Rows in bronze from the source's generator (bank: events of transactions)."""
        return self._bronze[source].now()

    def note(self, result: CycleResult) -> None:
        """Record the result of a cycle."""
        for batch in result.ingested:
            truth = self._truths.get(batch.source)
            if truth is None:
                continue
            if batch.newest_committed_at is not None:
                self._until[truth.source] = batch.newest_committed_at.astimezone(UTC)
        for source, problem in result.problems.items():
            if self._problems.get(source) != problem:
                self._announce(f"{source}: {problem}")
        self._problems = dict(result.problems)
        if result.ingested:
            self._cycle_seconds = sum(result.seconds.values())

    def backfilled(self) -> None:
        """Record that all sources are drained: operations that are not in bronze now have no change events."""
        self._until = {truth.source: datetime.now(UTC) for truth in self._truths.values()}
        self.board.refresh(self._until)  # alerts of an earlier demo are not new
        self._skew = self._bank.generated().rows - self.ingested("bank")

    def start(self) -> None:
        """Start printing, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop printing."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def missing(self) -> int:
        """Rows generated but not ingested, of all sources."""
        return sum(self._lag().values())

    def refresh(self, *, everything: bool = False) -> None:
        """Update the score; with `everything`, all generated rows count as scored."""
        with self._busy:
            until = dict(self._until)
            if everything:
                until = {truth.source: datetime.now(UTC) for truth in self._truths.values()}
            fresh = self.board.refresh(until)
            if fresh and not self.first_alert.is_set():
                self.first_alert.set()
                self._announce(f"first alert after {time.monotonic() - self._begun:.1f} s: {describe(fresh[0])}")

    def _total(self) -> int:
        return sum(count.now() for count in self._bronze.values())

    def _lag(self) -> dict[str, int]:
        skew = {"bank": self._skew}
        return {
            name: max(0, truth.generated().rows - self.ingested(name) - skew.get(name, 0))
            for name, truth in self._truths.items()
        }

    def _follow(self) -> None:
        last, before, told = time.monotonic(), self._total(), 0
        while not self._done.wait(LINE_SECONDS if self.first_alert.is_set() else _FIRST_ALERT_SECONDS):
            self.refresh()
            now = time.monotonic()
            if now - last < LINE_SECONDS:
                continue
            total = self._total()
            self._announce(self._line((total - before) / (now - last)))
            last, before = now, total
            if told % 3 == 0:
                self.peak_bytes = max(self.peak_bytes, tree_bytes())
            told += 1

    def _line(self, per_second: float) -> str:
        lag = self._lag()
        seconds = [(datetime.now(UTC) - until).total_seconds() for until in self._until.values()]
        cycle = f"{self._cycle_seconds:.2f} s" if self._cycle_seconds else "-"
        scores = self.board.scores.values()
        total = Score(
            alerted={key for score in scores for key in score.alerted},
            anomalous={key: value for score in scores for key, value in score.anomalous.items()},
            due={key for score in scores for key in score.due},
        )
        return (
            f"{_clock(time.monotonic() - self._begun)}"
            f"  in: {' + '.join(f'{name} {self.ingested(name):,}' for name in self._truths)} rows, {per_second:,.0f}/s"
            f"  lag {sum(lag.values()):,} rows, {max(seconds, default=0):.1f} s"
            f"  alerts {self.board.alerts:,}"
            f"  precision {percent(total.precision)}  recall {percent(total.recall)}"
            f"  cycle {cycle}"
        )

    def summary(self) -> str:
        """What was generated, ingested, built and found, and the peak memory."""
        bank, lag = self._bank.source_counts(), self._lag()
        lines = ["summary"]
        for source, truth in self._truths.items():
            what = "operations" if source == "bank" else "records"
            lines.append(
                f"  {source}: {truth.generated().rows:,} {what} generated, {self.ingested(source):,} rows in bronze,"
                f" {lag[source]:,} missing"
            )
        for table, count in bank.items():
            mine = rows(self._lake, "silver", table)
            lines.append(f"  silver/{table}: {mine:,} rows, source {count:,}: {_result(mine, count)}")
        for source in self._records:
            table = _TABLES[source]
            if table == "user_transaction":
                mine, current = rows(self._lake, "silver", table), current_rows(self._lake, table, "id")
                equality = _result(mine, current)
                lines.append(f"  silver/{table}: {mine:,} rows, current in bronze {current:,}: {equality}")
                continue
            mine, late = rows(self._lake, "silver", table), rows(self._lake, "silver", f"{table}_late")
            distinct = distinct_records(self._lake, source)
            lines.append(
                f"  silver/{table}: {mine:,} rows ({late:,} late), distinct in bronze {distinct:,}:"
                f" {_result(mine, distinct)}"
            )
        rules = ", ".join(f"{rule} {count:,}" for rule, count in sorted(self.board.by_rule.items())) or "none"
        lines.append(f"  alerts: {self.board.alerts:,} ({rules})")
        for source, score in self.board.scores.items():
            found, cases = score.cases
            lines.append(
                f"  {source}: precision {percent(score.precision)} ({score.right:,} of {len(score.alerted):,} alerted),"
                f" recall {percent(score.recall)} ({score.found:,} of {len(score.due):,}), cases {found:,} of {cases:,}"
            )
        lines.append(f"  memory: {self.peak_bytes / 2**20:,.0f} MB peak, all processes together")
        return "\n".join(lines)


class RowCount:
    """Number of rows of a growing Delta table, from the statistics in its log; 0 while it does not exist."""

    def __init__(self, lake: Lake, layer: str, table: str) -> None:
        self._where = (layer, table)
        self._lake = lake
        self._table: DeltaTable | None = None
        self._busy = threading.Lock()

    def now(self) -> int:
        """The number at the newest version."""
        with self._busy:
            if self._table is not None:
                self._table.update_incremental()
            elif self._lake.exists(*self._where):
                self._table = self._lake.open(*self._where)
            else:
                return 0
            return int(pl.DataFrame(self._table.get_add_actions(flatten=True))["num_records"].sum())


def rows(lake: Lake, layer: str, table: str) -> int:
    """Number of rows of a table, 0 if it does not exist."""
    return RowCount(lake, layer, table).now()


def distinct_records(lake: Lake, source: str) -> int:
    """Number of distinct records of a topic in bronze."""
    table = _TABLES[source]
    if not lake.exists("bronze", table):
        return 0
    found = scan(lake.open("bronze", table))
    return int(found.select(pl.col(_IDS[source]).drop_nulls().n_unique()).collect().item())


def current_rows(lake: Lake, table: str, key: str) -> int:
    """Number of rows that the changes in bronze leave: by key, the newest position decides."""
    if not lake.exists("bronze", table):
        return 0
    newest = scan(lake.open("bronze", table)).sort("_lsn", "_seq").group_by(key).agg(pl.col("_op").last())
    return int(newest.filter(pl.col("_op") != "d").select(pl.len()).collect().item())


def _result(mine: int, wanted: int) -> str:
    return "equal" if mine == wanted else "DIFFERENT"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
