"""The log after a position, piece by piece: what one look at the slot gives, in memory of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from fraud_lakehouse.failpoints import failpoint
from fraud_lakehouse.sources.postgres.catalog import TableInfo
from fraud_lakehouse.sources.postgres.field_limit import check_messages
from fraud_lakehouse.sources.postgres.pgoutput import decode as pgoutput
from fraud_lakehouse.sources.postgres.pgoutput.relation import Relation
from fraud_lakehouse.sources.postgres.pgoutput.runs import Runs
from fraud_lakehouse.sources.postgres.types import ColumnType

LAST_LSN = 2**63 - 1


@dataclass(frozen=True)
class ChangePiece:
    """Some of the events, in the order of the log.

    Args:
        frames: bronze table name to events, columns `tables[name].frame_schema` (without `_ingested_at`).
        tables: the tables of `frames` as of the end of the piece.
    """

    frames: dict[str, pl.DataFrame]
    tables: dict[str, TableInfo]


@dataclass(frozen=True)
class Question:
    """What is asked of the log.

    Args:
        after: bronze table name to its position (commit end LSN); every captured table that has one.
        position: the slot's position in the lake.
        max_rows: about how many messages; a transaction is never split.
        until: transactions that end after this LSN are left out.
    """

    after: Mapping[str, int]
    position: int
    max_rows: int
    until: int = LAST_LSN


@dataclass(frozen=True)
class Peeked:
    """A peek under way: the log's end (flushed LSN) as it was before, and the messages in chunks."""

    log_end: int
    chunks: Iterator[list[bytes]]


class Changes:
    """The next whole transactions; iterate once, to the end, and only then read where they end.

    Each piece is of bounded size, also of a transaction that is larger; its rows carry their transaction's end LSN and
    number all the same. Nothing is consumed on the server.

    Args:
        question: which part of the log.
        tables: what is known of the tables, by bronze name.
        peek: starts a peek of that many messages.
        finish: called after the last piece; raises if the slot did not hold everything after the position.
        runs: cuts the messages.
        base_types: given oids of user-defined types, those that are domains and their base types.
        max_field_bytes: a larger field is refused.
        left_out: oids of tables that are not captured although the log has changes of them.
        names: bronze names that the lake has given, by schema and table.
    """

    def __init__(
        self,
        question: Question,
        tables: Mapping[str, TableInfo],
        peek: Callable[[int], Peeked],
        finish: Callable[[Changes], None],
        runs: Runs,
        base_types: Callable[[Sequence[int]], Mapping[int, ColumnType]],
        max_field_bytes: int,
        left_out: Collection[int] = (),
        names: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self.start_lsn = question.position
        self.end_lsn = question.position
        """After the last piece: the position to commit with it; `start_lsn` when the log holds nothing new."""
        self.newest_committed_at: datetime | None = None
        """After the last piece: commit time of the last transaction (UTC), None when there was none."""
        self.tables: dict[str, TableInfo] = {}
        """The tables of all pieces so far, as the log described them last."""
        self._question = question
        self._known = dict(tables)
        self._peek = peek
        self._finish = finish
        self._runs = runs
        self._base_types = base_types
        self._max_field_bytes = max_field_bytes
        self._left_out = left_out
        self._names = names or {}
        self._received = 0
        self._pieces = self._read()

    def __iter__(self) -> Iterator[ChangePiece]:
        """The pieces that have events.

        Raises:
            GapError: changes after the position are gone. SourceError: unreachable, slot in use.
            TableFailedError: a table's events cannot be read; without it (`left_out`) the others' can.
            LakeError: the work folder cannot take a large transaction.
        """
        return self._pieces

    def _read(self) -> Iterator[ChangePiece]:
        asked, rows = self._question, self._question.max_rows
        while True:
            failpoint("postgres.before_read")
            peeked = self._peek(rows)
            self._received, end, newest = 0, 0, None
            described: dict[int, Relation] = {}
            for run in self._runs.cut(self._counted(peeked.chunks)):
                decoded = pgoutput.decode(
                    run.messages,
                    self._known,
                    asked.after,
                    asked.position,
                    self._base_types,
                    part=run.part,
                    described=described,
                    until=asked.until,
                    left_out=self._left_out,
                    names=self._names,
                )
                if decoded.end_lsn:
                    end, newest = decoded.end_lsn, decoded.newest_committed_at_us
                if decoded.frames:
                    self.tables |= decoded.tables
                    self._known |= {name: table for name, table in decoded.tables.items() if name in self._known}
                    failpoint("postgres.after_decode")
                    yield ChangePiece(decoded.frames, decoded.tables)
            if self._received < rows or end > asked.position:
                break
            # A death before the acknowledgement: the peek was full of transactions that the lake has already.
            rows *= 2
        drained = min(peeked.log_end, asked.until) if self._received < rows else 0
        self.end_lsn = max(end, drained, asked.position)
        if newest is not None:
            self.newest_committed_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=newest)
        self._finish(self)

    def _counted(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        for chunk in chunks:
            self._received += len(chunk)
            failpoint("postgres.after_read")
            check_messages(chunk, self._known, self._max_field_bytes, self._left_out)
            yield chunk
