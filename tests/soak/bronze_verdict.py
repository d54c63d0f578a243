"""Whether bronze holds exactly what the sources acknowledged: once each, in order, nothing of what was aborted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from fraud_lakehouse.storage.lake import Lake
from tests.soak.cards import BAD, CardStream
from tests.soak.ledger import TOTAL
from tests.soak.workload import Committed, Event, Row, Workload

Ingested = dict[str, list[tuple[int, Event]]]
"""By table the events in order, each with its LSN."""


@dataclass
class Verdict:
    """Counts over all checks; `problems` are sentences, empty when nothing is wrong."""

    checked: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    missing_alerts: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def wrong(
        self, problem: str, *, lost: int = 0, doubled: int = 0, reordered: int = 0, missing_alerts: int = 0
    ) -> None:
        """Note something that must not be."""
        self.problems.append(problem)
        self.lost, self.doubled, self.reordered = self.lost + lost, self.doubled + doubled, self.reordered + reordered
        self.missing_alerts += missing_alerts

    def add(self, other: Verdict) -> None:
        """Take in another verdict."""
        self.checked += other.checked
        for problem in other.problems:
            self.problems.append(problem)
        self.lost += other.lost
        self.doubled += other.doubled
        self.reordered += other.reordered
        self.missing_alerts += other.missing_alerts


def judge_changes(lake: Lake, workload: Workload, *, steady_clock: bool = True) -> Verdict:
    """Compare the bronze tables with the record of a database's writer. The lake must be drained and nobody writing.

    Args:
        steady_clock: whether the product's clock never went back, so that ingestion times follow the order of rows.
    """
    result = Verdict()
    ingested: Ingested = {}
    first: dict[str, dict[Any, Row]] = {}
    for table, columns in workload.tables.items():
        first[table], ingested[table] = _events(result, lake, workload.prefix + table, columns, steady_clock)
    rest = _after_snapshot(workload.committed, first)
    if rest is None:
        result.wrong("the snapshot in bronze is the state of the source at no time")
        return result
    expected: dict[str, list[Event]] = {table: [] for table in first}
    for transaction in rest:
        for table, events in transaction.events.items():
            expected[table] += events
    for table, rows in first.items():
        _compare(result, workload.prefix + table, expected[table], [event for _, event in ingested[table]])
        result.checked += len(rows)
    if result.clean:
        _check_transactions(result, rest, ingested, first.get("accounts"))
    return result


def judge_cards(lake: Lake, cards: CardStream) -> Verdict:
    """Compare bronze/card_transactions with what the broker acknowledged, by partition and offset.

    A poisoned record may be typed or quarantined; either way nothing of it may be changed.
    """
    result = Verdict()
    frame = pl.read_delta(lake.uri("bronze", "card_transactions")).filter(pl.col("_topic") == cards.topic)
    frame = frame.sort("_partition", "_offset")
    places = list(zip(frame["_partition"], frame["_offset"], strict=True))
    result.checked += len(places)
    count = Counter(places)
    if missing := [place for place in cards.published if place not in count]:
        result.wrong(f"card records lost, first {sorted(missing)[:3]}", lost=len(missing))
    if twice := [place for place, number in count.items() if number > 1]:
        result.wrong(f"card records landed twice, first {sorted(twice)[:3]}", doubled=len(twice))
    if phantoms := [place for place in count if place not in cards.published]:
        result.wrong(f"card records nobody committed, first {sorted(phantoms)[:3]}", doubled=len(phantoms))
    changed = 0
    for place, number, raw in zip(places, frame["trans_num"], frame["_raw"], strict=True):
        value = cards.published.get(place, b"")
        is_quarantined = value in BAD or (value in cards.poison and raw is not None)
        changed += (raw or b"") != value if is_quarantined else f'"{number}"'.encode() not in value
    if changed:
        result.wrong(f"{changed} card records are not what was published", lost=changed)
    for (number,), mine in frame.group_by("_partition"):
        if not mine.sort("_offset")["_commit"].is_sorted():
            result.wrong(f"partition {number}: a later offset was committed before an earlier one", reordered=1)
    return result


def judge_positions(lake: Lake, known: dict[tuple[str, str], tuple[int, int]]) -> Verdict:
    """No position in any commit lies before the one that an earlier commit of the table had.

    Args:
        known: by table and app_id the newest version seen and its position; kept by the caller from one call to the
            next, since old log entries are removed from time to time.
    """
    result = Verdict()
    for layer in ("bronze", "control"):
        for table in lake.tables(layer):
            for version, app_id, position in _positions(lake, layer, table):
                seen, before = known.get((f"{layer}/{table}", app_id), (-1, -1))
                if version <= seen:
                    continue
                if position < before:
                    reported = f"{layer}/{table} version {version}: {app_id} went from {before} back to {position}"
                    result.wrong(reported, reordered=1)
                known[f"{layer}/{table}", app_id] = (version, position)
                result.checked += 1
    return result


def _positions(lake: Lake, layer: str, table: str) -> Iterator[tuple[int, str, int]]:
    for entry in sorted((Path(lake.uri(layer, table)) / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            txn = json.loads(line).get("txn")
            if txn:
                yield int(entry.stem), txn["appId"], txn["version"]


def _events(
    result: Verdict, lake: Lake, table: str, columns: Sequence[str], steady_clock: bool
) -> tuple[dict[Any, Row], list[tuple[int, Event]]]:
    """The snapshot's rows by key, and what came after it; values that an update did not send are filled in.

    A resync may state a row again as it is: one whose key changed before a large value was left out.
    """
    frame = pl.read_delta(lake.uri("bronze", table)).sort("_lsn", "_seq")
    if twice := int(frame.select("_lsn", "_seq").is_duplicated().sum()):
        result.wrong(f"bronze/{table}: {twice} rows share their place in the log", doubled=twice)
    if steady_clock and not frame["_ingested_at"].is_sorted():
        result.wrong(f"bronze/{table}: a later event was landed before an earlier one", reordered=1)
    first: dict[Any, Row] = {}
    state: dict[Any, Row] = {}
    events: list[tuple[int, Event]] = []
    snapshot_lsn: int | None = None
    moved: tuple[tuple[int, int], Row | None] = ((-1, -1), None)
    places = ("_op", "_lsn", "_seq", "_unchanged", "_text")
    for *values, op, lsn, seq, unchanged, text in frame.select(*columns, *places).iter_rows():
        key = values[0]
        for name, exact in json.loads(text or "{}").items():  # what the typed column cannot hold
            values[columns.index(name)] = "NaN" if exact == "NaN" else Decimal(exact)
        if op == "r":
            snapshot_lsn = lsn if snapshot_lsn is None else snapshot_lsn
            if lsn == snapshot_lsn:
                first[key] = state[key] = tuple(values)
            elif state.get(key) != tuple(values):
                result.wrong(f"bronze/{table}: a resync changed row {key} of a table that lacked nothing", doubled=1)
            continue
        if op == "d":
            moved = ((lsn, seq + 1), state.pop(key, None))
            events.append((lsn, ("d", key, None)))
            continue
        previous = moved[1] if moved[0] == (lsn, seq) else state.get(key)
        if unchanged:
            for name in json.loads(unchanged):
                values[columns.index(name)] = previous[columns.index(name)] if previous else None
        state[key] = tuple(values)
        events.append((lsn, (op, key, state[key])))
    return first, events


def _after_snapshot(committed: list[Committed], first: dict[str, dict[Any, Row]]) -> list[Committed] | None:
    """The transactions that are not in the snapshot: those after the moment at which the source was like it."""
    state: dict[str, dict[Any, Row]] = {table: {} for table in first}
    for index, transaction in enumerate(committed):
        for table, events in transaction.events.items():
            for _, key, row in events:
                if row is None:
                    state[table].pop(key, None)
                else:
                    state[table][key] = row
        if all(len(state[table]) == len(first[table]) for table in first) and state == first:
            return committed[index + 1 :]
    return None


def _compare(result: Verdict, table: str, expected: list[Event], ingested: list[Event]) -> None:
    result.checked += len(ingested)
    if expected == ingested:
        return
    wanted, got = Counter(expected), Counter(ingested)
    lost, surplus = wanted - got, got - wanted
    if lost:
        result.wrong(f"bronze/{table}: {lost.total()} events lost, first {_shown(next(iter(lost)))}", lost=lost.total())
    if surplus:
        reported = (
            f"bronze/{table}: {surplus.total()} events twice or never committed, first {_shown(next(iter(surplus)))}"
        )
        result.wrong(reported, doubled=surplus.total())
    if not lost and not surplus:
        at = next(n for n, (one, other) in enumerate(zip(expected, ingested, strict=True)) if one != other)
        result.wrong(f"bronze/{table}: events in another order from number {at} on", reordered=1)


def _check_transactions(
    result: Verdict, rest: list[Committed], ingested: Ingested, accounts: dict[Any, Row] | None
) -> None:
    """All events of a transaction have one LSN, later transactions later ones; the balances, if any, add up."""
    queues = {table: iter(events) for table, events in ingested.items()}
    balances = {key: row[1] for key, row in (accounts or {}).items()}
    before = -1
    for transaction in rest:
        lsns = set()
        for table, events in transaction.events.items():
            for _ in events:
                lsn, (_, key, row) = next(queues[table])
                lsns.add(lsn)
                if table == "accounts":
                    balances.pop(key, None)
                    if row is not None:
                        balances[key] = row[1]
        if not lsns:
            continue
        if len(lsns) != 1 or min(lsns) <= before:
            result.wrong(f"transaction {transaction.number} is torn or out of order: LSNs {lsns}", reordered=1)
        before = max(lsns)
        if accounts is not None and sum(balances.values()) != TOTAL:
            result.wrong(f"after transaction {transaction.number} the balances are {sum(balances.values())}", lost=1)
            return


def _shown(event: Event) -> str:
    """An event without the middle of a long value."""
    text = str(event)
    return text if len(text) < 160 else f"{text[:120]} ... {text[-30:]}"
