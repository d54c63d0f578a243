"""The log after a position, in pieces of bounded size: the result of one poll of the slot."""

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
from fraud_lakehouse.sources.protection import NOT_PROTECTED, Protection

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
    """Which part of the log to read.

    Args:
        after: bronze table name to its position (commit end LSN); every captured table that has one.
        position: the slot's position in the lake.
        max_rows: approximate number of messages; a transaction is never split.
        until: skip transactions that end after this LSN.
    """

    after: Mapping[str, int]
    position: int
    max_rows: int
    until: int = LAST_LSN


@dataclass(frozen=True)
class Peeked:
    """A peek in progress: the log's end (flushed LSN) before it started, and the messages in chunks."""

    log_end: int
    chunks: Iterator[list[bytes]]


class Changes:
    """The next whole transactions; iterate once, to the end, and only then read the end position.

    Pieces have a bounded size: a larger transaction is split, and its rows keep their transaction's end LSN and number.
    Nothing is consumed on the server.

    Args:
        question: which part of the log.
        tables: the known tables, by bronze name.
        peek: starts a peek of that many messages.
        finish: called after the last piece; raises if the slot did not have everything after the position.
        runs: splits the messages into runs.
        base_types: maps the oids of user-defined types that are domains to their base types.
        max_field_bytes: a larger field is an error.
        left_out: oids of tables that are not captured although the log has changes of them.
        names: existing bronze names, by schema and table.
        protections: by bronze table, what is done to its sensitive columns.
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
        protections: Mapping[str, Protection] | None = None,
    ) -> None:
        self.start_lsn = question.position
        self.end_lsn = question.position
        """After the last piece: the position to commit with it; `start_lsn` if the log has nothing new."""
        self.newest_committed_at: datetime | None = None
        """After the last piece: commit time of the last transaction (UTC), None if there was none."""
        self.tables: dict[str, TableInfo] = {}
        """The tables of all pieces so far, by their latest description in the log."""
        self._question = question
        self._known = dict(tables)
        self._peek = peek
        self._finish = finish
        self._runs = runs
        self._base_types = base_types
        self._max_field_bytes = max_field_bytes
        self._left_out = left_out
        self._names = names or {}
        self._protections = protections or {}
        self._received = 0
        self._pieces = self._read()

    def _protected(self, piece: ChangePiece) -> ChangePiece:
        if not self._protections:
            return piece
        of = {name: self._protections.get(name, NOT_PROTECTED) for name in piece.frames | piece.tables}
        return ChangePiece(
            {name: of[name].frame(frame) for name, frame in piece.frames.items()},
            {name: table.protected(of[name]) for name, table in piece.tables.items()},
        )

    def __iter__(self) -> Iterator[ChangePiece]:
        """The pieces that have events.

        Raises:
            GapError: changes after the position are gone. SourceError: unreachable, slot in use.
            TableFailedError: a table's events cannot be read; the others can if it is in `left_out`.
            LakeError: a large transaction does not fit in the work folder.
        """
        return self._pieces

    def _read(self) -> Iterator[ChangePiece]:
        requested, rows = self._question, self._question.max_rows
        while True:
            failpoint("postgres.before_read")
            peeked = self._peek(rows)
            self._received, end, newest = 0, 0, None
            described: dict[int, Relation] = {}
            for run in self._runs.cut(self._counted(peeked.chunks)):
                decoded = pgoutput.decode(
                    run.messages,
                    self._known,
                    requested.after,
                    requested.position,
                    self._base_types,
                    part=run.part,
                    described=described,
                    until=requested.until,
                    left_out=self._left_out,
                    names=self._names,
                )
                if decoded.end_lsn:
                    end, newest = decoded.end_lsn, decoded.newest_committed_at_us
                if decoded.frames:
                    self.tables |= decoded.tables
                    self._known |= {name: table for name, table in decoded.tables.items() if name in self._known}
                    failpoint("postgres.after_decode")
                    yield self._protected(ChangePiece(decoded.frames, decoded.tables))
            if self._received < rows or end > requested.position:
                break
            # After a crash before the acknowledgement, the peek may have only transactions that the lake already has.
            rows *= 2
        drained = min(peeked.log_end, requested.until) if self._received < rows else 0
        self.end_lsn = max(end, drained, requested.position)
        if newest is not None:
            self.newest_committed_at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=newest)
        self._finish(self)

    def _counted(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        for chunk in chunks:
            self._received += len(chunk)
            failpoint("postgres.after_read")
            check_messages(chunk, self._known, self._max_field_bytes, self._left_out)
            yield chunk
