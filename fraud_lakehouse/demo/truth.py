"""The ground truth of the demo: which rows its generators made anomalous. No pipeline code reads it.

The bank's truth is in PostgreSQL's schema `demo_truth` (capture only discovers `public`), written by the same statement
as the row. That of cards and transfers is in `<home>/truth`, written once the broker has acknowledged the records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psycopg

from fraud_lakehouse.demo.cards import Checkpoint

BANK_SOURCE = "postgres.transactions"

TRUTH_TABLES = """
create schema if not exists demo_truth;
create table if not exists demo_truth.operations (
    number bigint primary key,
    at timestamptz not null default clock_timestamp(),
    kind text not null,
    transaction_id int not null,
    anomaly text
);
"""


class Anomaly(msgspec.Struct, frozen=True):
    """One transaction that a generator made anomalous.

    `kind` is the kind of anomaly ("large", "testing", ...), `case` its fraud case, and `at` (UTC) when it was
    generated, never later than the source's time.
    """

    transaction_id: str
    kind: str
    case: str
    at: datetime


@dataclass(frozen=True)
class Generated:
    """How many operations or records a generator has made, and when (UTC) it had made them."""

    rows: int = 0
    until: datetime | None = None


class Truth(Protocol):
    """Ground truth of one source, read incrementally."""

    source: str

    def read_new(self) -> list[Anomaly]:
        """New anomalies since the last call, in order of generation."""

    def generated(self) -> Generated:
        """How much has been generated so far."""


class BankTruth:
    """Reads `demo_truth.operations`; reconnects at the next call after a lost connection.

    Args:
        dsn: the demo bank's connection string.
    """

    source = BANK_SOURCE

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None
        self._after = -1

    def read_new(self) -> list[Anomaly]:
        """Anomalous operations since the last call; deletes are never anomalous."""
        rows = self._query(
            "select number, transaction_id::text, anomaly, at from demo_truth.operations"
            " where number > %s and anomaly is not null order by number",
            (self._after,),
        )
        if rows:
            self._after = rows[-1][0]
        return [Anomaly(key, kind, f"operation {number}", at.astimezone(UTC)) for number, key, kind, at in rows]

    def generated(self) -> Generated:
        """How many operations were applied, and when."""
        # The last row by the primary key: numbers have no gaps.
        rows = self._query("select number + 1, at from demo_truth.operations order by number desc limit 1")
        return Generated(rows[0][0], rows[0][1].astimezone(UTC)) if rows else Generated()

    def source_counts(self) -> dict[str, int]:
        """Current number of rows of each captured table."""
        row = self._query("select (select count(*) from public.users), (select count(*) from public.transactions)")[0]
        return {"users": row[0], "transactions": row[1]}

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _query(self, text: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=10)
        return self._connection.execute(text, parameters).fetchall()


class RecordTruth:
    """A generator's files in `<home>/truth`: its anomalies and progress.

    Args:
        home: the demo's folder.
        name: of the files.
        source: as alerts name it.
    """

    def __init__(self, home: Path, name: str, source: str) -> None:
        self.source = source
        self._folder = home / "truth"
        self._anomalies = self._folder / f"{name}.jsonl"
        self._progress = self._folder / f"{name}.progress.json"
        self._offset = 0

    @classmethod
    def of_transfers(cls, home: Path, topic: str) -> RecordTruth:
        """The files of the bank transfers."""
        return cls(home, "transfers", f"transfers.{topic}")

    @classmethod
    def of_accounts(cls, home: Path) -> RecordTruth:
        """The files of the web shop's payments."""
        return cls(home, "accounts", "accounts.user_transaction")

    def append(self, anomalies: Iterable[Anomaly]) -> None:
        """Add anomalies whose records the broker has acknowledged."""
        self._append(self._anomalies, anomalies)

    def save_progress(self, progress: Generated) -> None:
        """Store the generator's progress."""
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._progress.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(progress))
        os.replace(draft, self._progress)

    def read_new(self) -> list[Anomaly]:
        """Anomalies since the last call; after a crash, regenerated ones are repeated."""
        if not self._anomalies.exists():
            return []
        with self._anomalies.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        return [msgspec.json.decode(line, type=Anomaly) for line in whole.splitlines()]

    def generated(self) -> Generated:
        """How many records the broker has acknowledged, and when."""
        if not self._progress.exists():
            return Generated()
        return msgspec.json.decode(self._progress.read_bytes(), type=Generated)

    def _append(self, path: Path, things: Iterable[Any]) -> None:
        lines = b"".join(msgspec.json.encode(thing) + b"\n" for thing in things)
        if lines:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(lines)


class CardTruth(RecordTruth):
    """The card generator's files: also its checkpoints.

    Args:
        home: the demo's folder.
        topic: Kafka topic of the stream.
    """

    def __init__(self, home: Path, topic: str = "transaction") -> None:
        super().__init__(home, "cards", f"kafka.{topic}")
        self._checkpoints = self._folder / "cards.checkpoints.jsonl"

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint from which the stream can be generated again."""
        self._append(self._checkpoints, [checkpoint])

    def checkpoint_before(self, number: int) -> Checkpoint | None:
        """The newest checkpoint with at most `number` records before it."""
        if not self._checkpoints.exists():
            return None
        found = [
            msgspec.json.decode(line, type=Checkpoint)
            for line in self._checkpoints.read_bytes().rpartition(b"\n")[0].splitlines()
        ]
        return max((each for each in found if each.number <= number), key=lambda each: each.number, default=None)

    def forget_after(self, number: int) -> None:
        """Drop the checkpoints beyond `number` records, which are invalid after a change of the rate."""
        if not self._checkpoints.exists():
            return
        lines = self._checkpoints.read_bytes().rpartition(b"\n")[0].splitlines()
        kept = [line for line in lines if msgspec.json.decode(line, type=Checkpoint).number <= number]
        draft = self._checkpoints.with_suffix(".new")
        draft.write_bytes(b"".join(line + b"\n" for line in kept))
        os.replace(draft, self._checkpoints)
