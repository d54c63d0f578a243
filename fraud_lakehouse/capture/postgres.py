"""PostgreSQL change data capture: snapshot first, then the log, from one replication slot.

The facade of the `postgres_*` and `pgoutput*` modules. It never writes a row and holds no position:
the lake does, and passes it in. Only `acknowledge` changes what the server will send again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

import polars as pl
import psycopg

from fraud_lakehouse.capture import pgoutput
from fraud_lakehouse.capture.postgres_catalog import TableInfo, base_types, discover
from fraud_lakehouse.capture.postgres_connection import PostgresConnector
from fraud_lakehouse.capture.postgres_errors import PostgresUnreachableError
from fraud_lakehouse.capture.postgres_preflight import check_identity, check_server, check_slot, system_id_of
from fraud_lakehouse.capture.postgres_publication import check_publication, published, unpublished_error
from fraud_lakehouse.capture.postgres_slot import ReplicationSlot, SlotState
from fraud_lakehouse.capture.postgres_snapshot import Snapshot
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings

_SNAPSHOT_ROWS = 200_000
_POLL = 0.05  # seconds between two looks at the log's end: one look takes 0.2 ms
_RECONNECT = 30.0  # seconds a restart of the server may take
_T = TypeVar("_T")


@dataclass(frozen=True)
class ChangeBatch:
    """Changes between two positions of the log.

    Args:
        start_lsn: the position asked for.
        end_lsn: the position to commit with this batch; always greater than `start_lsn`.
        frames: bronze table name to events in order, columns `tables[name].frame_schema` (without `_ingested_at`).
        tables: the tables of `frames` as of the end of the batch.
        newest_committed_at: commit time of the last transaction (UTC), None when there was none.
    """

    start_lsn: int
    end_lsn: int
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    tables: dict[str, TableInfo] = field(default_factory=dict)
    newest_committed_at: datetime | None = None


@dataclass(frozen=True)
class PostgresLag:
    """How far the slot is behind; LSNs as integers, sizes in bytes, None where there is no slot."""

    current_lsn: int
    confirmed_lsn: int | None
    bytes_behind: int | None
    retained_bytes: int | None
    wal_status: str | None


class PostgresCapture:
    """Captures the tables of one database; a context manager, connected when first needed.

    A restart of the server is survived: calls connect again, for up to 30 s, and check that it is the
    same server. Nothing here is thread-safe.

    Args:
        settings: `postgres_dsn`, `postgres_tables`, `postgres_slot`, `postgres_publication`.

    Raises:
        SettingsError: `postgres_dsn` is absent or no connection string.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.postgres_dsn is None:
            raise SettingsError(
                "FRAUD_POSTGRES_DSN is not set", "set it to postgresql://user:password@host:5432/database"
            )
        self._configured = settings.postgres_tables
        self._connector = PostgresConnector(settings.postgres_dsn.get_secret_value())
        self._slot = ReplicationSlot(self._connector, settings.postgres_slot, settings.postgres_publication)
        self._chunk_rows = min(settings.batch_rows, _SNAPSHOT_ROWS)
        self._connection: psycopg.Connection[Any] | None = None
        self._system_id: str | None = None
        self._patient = True
        self._tables: dict[str, TableInfo] = {}
        self._published: frozenset[tuple[str, str]] | None = None
        self._seen = 0

    def __enter__(self) -> PostgresCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def slot(self) -> str:
        """The replication slot's name."""
        return self._slot.name

    @property
    def place(self) -> str:
        """`host:port/database as user`, for people."""
        return self._connector.place

    @property
    def system_id(self) -> str:
        """The server's system identifier."""
        self._run(lambda connection: None)
        assert self._system_id is not None
        return self._system_id

    @property
    def app_id(self) -> str:
        """Names the slot's position in the lake: `pg:<system id>:<slot>`."""
        return f"pg:{self.system_id}:{self.slot}"

    def app_id_of(self, table: str) -> str:
        """Names a table's position in the lake: `pg:<system id>:<slot>:<bronze table>`."""
        return f"{self.app_id}:{table}"

    def preflight(self) -> None:
        """Check everything that capture needs and that can be known before a position is.

        Raises:
            SourceError: the subclass in `postgres_errors` that names the cause and its remedy.
            SlotLostError: the slot was invalidated.
        """
        self._run(check_server)
        tables = self.tables()
        self._run(lambda connection: check_publication(connection, self._slot.publication, tables))
        self._run(lambda connection: check_slot(connection, self._slot))

    def new_tables(self) -> list[TableInfo]:
        """Tables that joined since `tables` was first asked: their snapshot is due."""
        before = set(self._tables)
        return [table for table in self.tables() if table.name not in before]

    def tables(self) -> list[TableInfo]:
        """The tables to capture, read from the catalog now.

        Raises:
            SourceTableError: one is missing or cannot be captured.
        """
        found = self._run(lambda connection: discover(connection, self._configured))
        self._tables = {table.name: table for table in found}
        self._published = None
        return found

    def slot_exists(self) -> bool:
        """Whether our replication slot exists."""
        return self._state().exists

    def resume(self, position: int) -> None:
        """Check that the log can be followed from `position` on without a gap (`read` checks the same each time).

        Raises:
            SlotLostError, SlotAheadError, SourceIdentityError: it cannot; SourceError: not our slot.
        """
        self._slot.check(self._state(), position)

    def check_identity(self, known_system_id: str) -> None:
        """Check that the server is the one that the lake was filled from.

        Raises:
            SourceIdentityError: it is not.
        """
        check_identity(known_system_id, self.system_id)

    def snapshot(self, tables: Sequence[TableInfo] | None = None) -> Snapshot:
        """The backfill as a context manager; `Snapshot` states the order that makes it exactly-once.

        Args:
            tables: None takes all tables and (re)creates slot and publication; else tables that join an
                existing slot.
        """
        found = self.tables() if tables is None else list(tables)
        return Snapshot(self._connector, self._slot, found, self._chunk_rows, temporary=tables is not None)

    def read(self, after: Mapping[str, int], slot_position: int, max_rows: int) -> ChangeBatch | None:
        """The next whole transactions, without consuming them.

        Transactions that end at or before `slot_position`, or before the table's own position, are left out.
        The log's end is read before the peek, so that a batch may move on over log of other tables.

        Args:
            after: bronze table name to its position (commit end LSN); every captured table that has one.
            slot_position: the slot's position in the lake.
            max_rows: about how many messages; a transaction is never split.

        Returns:
            None when the log holds nothing beyond `slot_position`; a batch may have no frames.

        Raises:
            GapError: changes after `slot_position` are gone. SourceError: unreachable, slot in use, schema.
        """
        if not self._tables:
            self.tables()
        self._check_published(after)
        state, messages = self._peek(slot_position, max_rows)
        decoded = pgoutput.decode(messages, self._tables, after, slot_position, self._base_types)
        while len(messages) >= max_rows and decoded.end_lsn <= slot_position:
            # A death before the acknowledgement: the peek was full of transactions that the lake has already.
            max_rows *= 2
            state, messages = self._peek(slot_position, max_rows)
            decoded = pgoutput.decode(messages, self._tables, after, slot_position, self._base_types)
        end = max(decoded.end_lsn, state.current if len(messages) < max_rows else 0)
        self._seen = max(end, slot_position)
        if end <= slot_position:
            return None
        newest = decoded.newest_committed_at_us
        moment = None if newest is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=newest)
        self._tables |= {name: table for name, table in decoded.tables.items() if name in self._tables}
        return ChangeBatch(slot_position, end, decoded.frames, decoded.tables, moment)

    def be_patient(self, patient: bool) -> None:
        """Whether calls wait for a server that is away; without, they fail at once and the caller tries again later."""
        self._patient = patient

    def acknowledge(self, lsn: int) -> None:
        """Let the server discard its log up to `lsn`; only after that position is durable in the lake."""
        self._run(lambda connection: self._slot.acknowledge(lsn))

    def lag(self) -> PostgresLag:
        """Where the slot stands."""
        state = self._state()
        behind = None if state.confirmed is None else max(0, state.current - state.confirmed)
        retained = None if state.restart is None else max(0, state.current - state.restart)
        return PostgresLag(state.current, state.confirmed, behind, retained, state.wal_status)

    def wait(self, timeout: float) -> bool:
        """Wait until the log has grown beyond what `read` saw last, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if self._run(_log_end) > self._seen:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL, left))

    def _check_published(self, after: Mapping[str, int]) -> None:
        """Against the catalog as `tables` saw it last: a table made anew is in no publication."""
        for again in (False, True):
            if again or self._published is None:
                self._published = self._run(lambda connection: published(connection, self._slot.publication))
            lost = [t for t in self._tables.values() if t.name in after and (t.schema, t.table) not in self._published]
            if not lost:
                return
        raise unpublished_error(lost[0], self._slot.publication)

    def _peek(self, position: int, max_rows: int) -> tuple[SlotState, list[bytes]]:
        """The slot as it was before the peek, and the messages."""

        def peek(connection: psycopg.Connection[Any]) -> tuple[SlotState, list[bytes]]:
            before = self._slot.state(connection)
            self._slot.check(before, position)
            if before.current <= position:
                return before, []
            messages = self._slot.peek(connection, max_rows)
            # Looked at again after the peek: nobody moved the slot past us before it was read.
            self._slot.check(self._slot.state(connection), position)
            return before, messages

        return self._run(peek)

    def _state(self) -> SlotState:
        return self._run(self._slot.state)

    def _base_types(self, oids: Sequence[int]) -> Mapping[int, Any]:
        return self._run(lambda connection: base_types(connection, oids))

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            connection = self._connector.connect()
            try:
                now = system_id_of(connection)
                if self._system_id is not None:
                    check_identity(self._system_id, now)
            except BaseException:
                connection.close()
                raise
            self._system_id, self._connection = now, connection
        return self._connection

    def _run(self, action: Callable[[psycopg.Connection[Any]], _T]) -> _T:
        """Run on the kept connection; when it broke, connect again and run once more, for up to 30 s if patient."""
        first = self._system_id is None  # never connected yet: the person sees the cause at once
        deadline: float | None = None
        while True:
            was_connected = self._connection is not None
            try:
                with self._connector.typed_errors():
                    return action(self._connected())
            except PostgresUnreachableError:
                self.close()
                deadline = deadline or time.monotonic() + (_RECONNECT if self._patient else 0.0)
                if first or (not was_connected and time.monotonic() >= deadline):
                    raise
                time.sleep(0.1)


def _log_end(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select (pg_current_wal_flush_lsn() - '0/0')::int8").fetchone()
    return int(row[0]) if row else 0
