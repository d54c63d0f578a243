"""A table whose changes come through a topic: what is written twice or out of order changes nothing.

A random history of a table becomes records as Debezium writes them: deletes with their tombstones, redelivery of what
was written last (a connector that starts again), records of different keys in other orders. The oracle is the table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from fraud_lakehouse.ingest.bronze import COLUMNS_PROPERTY, BronzeTable
from fraud_lakehouse.sources.kafka.formats.events import EVENT_COLUMNS
from fraud_lakehouse.sources.kafka.records import RECORD_COLUMNS
from tests.dbt.small_lake import SmallLake
from tests.declared import SHIPPED

TABLE = "user_transaction"
FIELDS: dict[str, pl.DataType] = {
    "id": pl.Int64(),
    "amount": pl.Decimal(12, 2),
    "received_at": pl.Datetime("us"),
    "ip_address": pl.String(),
    "account_id": pl.Int64(),
}
START = datetime(2024, 1, 1)  # noqa: DTZ001  # the source has no zone
PARTITIONS = 2
Values = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """A change in the source; `position` is None of a tombstone. `values` begin with the id."""

    op: str
    position: tuple[int, int] | None
    at: datetime
    values: Values


@dataclass(frozen=True)
class Record:
    """A change at its place in the topic."""

    change: Change
    partition: int
    offset: int = 0


def random_history(chance: random.Random, length: int, *, truncates: bool = False) -> list[Change]:
    """Changes of a few rows in the order of their commits; several may share a transaction."""
    rows: dict[int, Values] = {}
    history, lsn = [], 100
    for number in range(length):
        lsn += chance.choice([0, 1, 5])
        at = START + timedelta(minutes=number)
        key = chance.randrange(6)
        position = (lsn, 1_000 + number)
        values = (
            key,
            Decimal(chance.randrange(1, 9_999)) / 100,
            at - timedelta(seconds=chance.randrange(900)),
            chance.choice(["10.0.0.1", "10.0.0.2"]),
            chance.choice([1, 2, None]),
        )
        if truncates and chance.random() < 0.08:
            history.append(Change("t", position, at, (None,) * len(FIELDS)))
            rows.clear()
            continue
        if key in rows and chance.random() < 0.3:
            history.append(Change("d", position, at, rows.pop(key)))
            continue
        op = "u" if key in rows else chance.choice(["c", "r"])
        history.append(Change(op, position, at, values))
        rows[key] = values
    return history


def written(history: Sequence[Change], partitions: int = PARTITIONS) -> list[Record]:
    """The records of a history: those of a row in one partition, each delete followed by its tombstone."""
    records = []
    for change in history:
        partition = (change.values[0] or 0) % partitions
        records.append(Record(change, partition))
        if change.op == "d":
            tombstone = Change("d", None, change.at, (change.values[0], None, None, None, None))
            records.append(Record(tombstone, partition))
    return records


def redelivered(chance: random.Random, records: Sequence[Record]) -> list[Record]:
    """The records as a connector writes them that is started again now and then, from an earlier place."""
    found: list[Record] = []
    place = 0
    while place < len(records):
        found.append(records[place])
        place += 1
        if chance.random() < 0.12:
            place = max(0, place - chance.randrange(1, 8))
            if records[place].change.position is None:
                place -= 1  # a connector writes a delete and its tombstone together
    return found


def reordered(chance: random.Random, records: Sequence[Record]) -> list[Record]:
    """The records with some moved to later places, a delete together with its tombstone."""
    pairs: list[list[Record]] = []
    for record in records:
        if record.change.position is None:
            pairs[-1].append(record)
        else:
            pairs.append([record])
    moved = sorted(range(len(pairs)), key=lambda place: place + chance.randrange(5))
    return [record for place in moved for record in pairs[place]]


def with_offsets(records: Sequence[Record]) -> list[Record]:
    """The records with their offsets."""
    newest = [-1] * PARTITIONS
    found = []
    for record in records:
        newest[record.partition] += 1
        found.append(replace(record, offset=newest[record.partition]))
    return found


def land(lake: SmallLake, records: Sequence[Record]) -> None:
    """One commit of bronze rows."""
    schema = FIELDS | EVENT_COLUMNS | RECORD_COLUMNS
    rows = [
        dict(zip(FIELDS, record.change.values, strict=True))
        | {"_op": record.change.op, "_topic": "t", "_partition": record.partition, "_offset": record.offset}
        | dict(zip(("_lsn", "_seq"), record.change.position or (None, None), strict=True))
        | {"_committed_at": record.change.at if record.change.position else None, "_timestamp": record.change.at}
        for record in records
    ]
    frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema_overrides=schema)
    table = BronzeTable.open_or_create(lake.lake, TABLE, schema, ["id"], {COLUMNS_PROPERTY: COLUMNS})
    table.append(frame.select(pl.col(name).cast(kind) for name, kind in schema.items()), {})


COLUMNS = (
    '[{"name": "id", "type": "long"}, {"name": "amount", "type": "decimal(12,2)"}, '
    '{"name": "received_at", "type": "timestamp_ntz"}, {"name": "ip_address", "type": "string"}, '
    '{"name": "account_id", "type": "long"}]'
)


def ingest(lake: SmallLake, records: Sequence[Record], chance: random.Random) -> None:
    """Land the records in batches of random sizes, building now and then, and in the end."""
    placed = with_offsets(records)
    while placed:
        size = chance.randrange(1, 12)
        land(lake, placed[:size])
        placed = placed[size:]
        if not placed or chance.random() < 0.5:
            lake.build("hot")
            lake.build_only(*replicas(lake))


def replicas(lake: SmallLake) -> list[str]:
    """Names of the models of the replica and the history."""
    keys = {("silver", TABLE), ("silver", f"{TABLE}_history")}
    return [model.name for model in lake.transformer.compiled.models if model.key in keys]


def replica(lake: SmallLake) -> set[Values]:
    return set(pl.read_delta(str(lake.root / "silver" / TABLE)).select(list(FIELDS)).rows())


def history_of(lake: SmallLake) -> list[Values]:
    """Versions: the row, when it began and ended, whether it was deleted."""
    columns = [*FIELDS, "valid_from", "valid_to", "is_deleted"]
    found = pl.read_delta(str(lake.root / "silver" / f"{TABLE}_history")).select(columns).sort("id", "valid_from")
    return found.rows()


def ledger(lake: SmallLake) -> list[Values]:
    columns = ["id", "amount", "received_at", "ip_address", "account_id", "weight", "_committed_at"]
    found = pl.read_delta(str(lake.root / "silver" / "account_payments_ledger")).select(columns)
    return found.sort(pl.all()).rows()


def table_after(history: Sequence[Change]) -> set[Values]:
    rows: dict[int, Values] = {}
    for change in history:
        if change.op == "t":
            rows.clear()
        elif change.op == "d":
            rows.pop(change.values[0])
        else:
            rows[change.values[0]] = change.values
    return set(rows.values())


def versions_of(history: Sequence[Change]) -> list[Values]:
    """The oracle of `history_of`."""
    found: list[Values] = []
    opened: dict[int, Change] = {}
    for change in history:
        ended = list(opened) if change.op == "t" else [change.values[0]]
        for before in [opened.pop(key) for key in ended if key in opened]:
            found.append((*before.values, utc(before.at), utc(change.at), change.op in "dt"))
        if change.op not in "dt":
            opened[change.values[0]] = change
    found += [(*change.values, utc(change.at), None, False) for change in opened.values()]
    return sorted(found, key=lambda row: (row[0], row[len(FIELDS)]))


def utc(moment: datetime) -> datetime:
    return pl.Series([moment]).dt.replace_time_zone("UTC")[0]


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("topic_changes") / "lake", pipeline=SHIPPED)
    yield lake
    lake.transformer.close()


@pytest.mark.parametrize(("seed", "truncates"), [(0, False), (1, False), (2, True), (3, True)])
def test_redelivered_records_change_nothing(lake: SmallLake, seed: int, truncates: bool) -> None:
    chance = random.Random(seed)
    history = random_history(chance, 60, truncates=truncates)
    # only in a topic of one partition has a truncate an order with the changes of rows
    records = written(history, 1 if truncates else PARTITIONS)
    ingest(lake, redelivered(chance, records), chance)
    assert replica(lake) == table_after(history)
    assert history_of(lake) == versions_of(history)
    found = ledger(lake)

    lake.clear()
    land(lake, with_offsets(records))
    lake.build("hot")
    assert found == ledger(lake)


@pytest.mark.parametrize("seed", range(2))
def test_reordered_records_give_the_newest_state(lake: SmallLake, seed: int) -> None:
    chance = random.Random(seed)
    history = random_history(chance, 60)
    ingest(lake, reordered(chance, redelivered(chance, written(history))), chance)
    assert replica(lake) == table_after(history)
    current = {row[: len(FIELDS)] for row in history_of(lake) if row[-2] is None}
    assert current == table_after(history)
    positions = (
        pl.read_delta(str(lake.root / "silver" / "account_payments_ledger")).select(pl.col("weight").sum()).item()
    )
    assert positions == len(table_after(history))
