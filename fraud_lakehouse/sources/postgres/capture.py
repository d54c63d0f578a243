"""PostgreSQL change data capture: snapshot first, then the log, from one replication slot.

The facade of this package. It writes no rows and stores no positions: the lake stores them, the caller passes them in.
Only `acknowledge` changes what the server sends again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from socket import gethostname
from types import TracebackType
from typing import Any

import psycopg

from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.postgres.catalog import TableInfo, base_types, discover
from fraud_lakehouse.sources.postgres.changes import LAST_LSN, Changes, Peeked, Question
from fraud_lakehouse.sources.postgres.config import PostgresConfig
from fraud_lakehouse.sources.postgres.connection import PostgresConnector
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.postgres.errors import SourceTableError
from fraud_lakehouse.sources.postgres.lag import PostgresLag
from fraud_lakehouse.sources.postgres.link import PostgresLink
from fraud_lakehouse.sources.postgres.log import LogReader
from fraud_lakehouse.sources.postgres.pgoutput.runs import Runs
from fraud_lakehouse.sources.postgres.preflight import check_identity, check_server, check_slot
from fraud_lakehouse.sources.postgres.publication import (
    check_publication,
    ensure_publication,
    unpublished_error,
)
from fraud_lakehouse.sources.postgres.publication_epoch import memberships
from fraud_lakehouse.sources.postgres.reader import Reader
from fraud_lakehouse.sources.postgres.retention import Retention, retention
from fraud_lakehouse.sources.postgres.slot import ReplicationSlot
from fraud_lakehouse.sources.postgres.slot_state import SlotState
from fraud_lakehouse.sources.postgres.snapshot import Snapshot
from fraud_lakehouse.sources.postgres.table_lock import held
from fraud_lakehouse.sources.postgres.timeline import Timeline, read_timeline, timeline_number
from fraud_lakehouse.sources.protection import NOT_PROTECTED, Protection
from fraud_lakehouse.storage.lease import is_ours

_SNAPSHOT_ROWS = 100_000
_POLL = 0.05  # seconds between polls of the log's end; a poll takes 0.2 ms
_SLOT_SECONDS = 1.0  # seconds between polls of the slot itself while the log does not grow


class PostgresCapture:
    """Captures the tables of one database; a context manager, connected when first needed.

    After a restart of the server, calls reconnect for up to 30 s and check that it is the same server.
    Not thread-safe.

    Args:
        settings: sizes, and the folder for locks.
        config: the source.
        names: existing bronze names, by schema and table of the source.
        owner: maps a bronze table's name to the other source that owns it, or None.

    Raises:
        SettingsError: the connection string cannot be parsed.
    """

    def __init__(
        self,
        settings: Settings,
        config: PostgresConfig,
        names: Mapping[tuple[str, str], str] | None = None,
        owner: Callable[[str], str | None] = lambda _name: None,
    ) -> None:
        self.config = config
        self._names = dict(names or {})
        self._owner = owner
        work, lock = settings.work_dir, settings.work_dir / f"{self.config.name}.lock"
        reader = Reader(f"{gethostname()}:{work.resolve()}", lambda: is_ours(lock))
        with self.config.named():
            self._connector = PostgresConnector(self.config.dsn.get_secret_value(), reader.application)
        self._slot = ReplicationSlot(self._connector, self.config.slot, self.config.publication, reader=reader)
        self._chunk_rows = min(settings.batch_rows, _SNAPSHOT_ROWS)
        self._link = PostgresLink(self._connector)
        self._log = LogReader(self._connector, self._slot)
        self._runs = Runs(settings.work_dir)
        self._max_field_bytes = settings.max_field_bytes
        self._tables: dict[str, TableInfo] = {}
        self.refused: list[Ineligibility] = []
        """Configured tables that are ineligible, as of the last call of `tables`."""
        self._published: Mapping[str, str] | None = None
        self._seen = 0
        self._slot_seen: SlotState | None = None  # as of the last read
        self._slot_due = 0.0

    def __enter__(self) -> PostgresCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a later call opens them again."""
        self._link.close()
        self._log.link.close()

    def forget_server(self) -> None:
        """Close, and accept whichever server answers next: the caller compares its identity with the lake's."""
        self._link.forget()
        self._log.link.forget()
        self._tables, self.refused, self._published, self._seen, self._slot_seen = {}, [], None, 0, None

    @property
    def slot(self) -> str:
        """The replication slot's name."""
        return self._slot.name

    @property
    def seen_lsn(self) -> int:
        """The LSN up to which `changes` has read the log, with or without rows; 0 before the first read."""
        return self._seen

    @property
    def place(self) -> str:
        """`host:port/database as user`, for people."""
        return self._connector.place

    @property
    def system_id(self) -> str:
        """The server's system identifier."""
        return self._link.system_id

    @property
    def app_id(self) -> str:
        """Names the slot's position in the lake: `pg:<system id>:<slot>`."""
        return f"pg:{self.system_id}:{self.slot}"

    def app_id_of(self, table: str) -> str:
        """Names a table's position in the lake: `pg:<system id>:<slot>:<bronze table>`."""
        return f"{self.app_id}:{table}"

    def timeline(self) -> Timeline:
        """The server's timeline and its history.

        Raises:
            SourceError: the history's file is gone.
        """
        return self._link.run(lambda connection: read_timeline(self._connector, timeline_number(connection)))

    def preflight(self, position: int | None = None) -> None:
        """Check everything that capture needs before it reads the log.

        Args:
            position: the slot's position in the lake, for error messages about the slot.

        Raises:
            SourceError: the subclass that names the cause and its remedy.
            SlotLostError: the slot was invalidated.
        """
        self._link.run(check_server)
        self._link.run(lambda connection: check_publication(connection, self._slot.publication))
        if not self.tables() and self.refused:
            raise self.refused[0].error
        self._link.run(lambda connection: check_slot(connection, self._slot, position))

    def new_tables(self) -> list[TableInfo]:
        """Tables that appeared since the last call of `tables`: their snapshot is due."""
        before = set(self._tables)
        return [table for table in self.tables() if table.name not in before]

    def tables(self) -> list[TableInfo]:
        """The eligible tables, read from the catalog now; sets `refused` to the ineligible ones."""
        with self.config.named():
            found = self._link.run(
                lambda connection: discover(
                    connection,
                    self.config.tables,
                    self._slot.publication,
                    self._names,
                    self.config.prefix,
                    self.config.reserved,
                )
            )
        owners = {table.name: owner for table in found.tables if (owner := self._owner(table.name)) is not None}
        refused = [*map(self.config.renamed, found.refused)]
        refused += [_owned(table, owners[table.name]) for table in found.tables if table.name in owners]
        tables = [table for table in found.tables if table.name not in owners]
        unprotected = {table.name: why for table in tables if (why := self._unprotected(table)) is not None}
        refused += unprotected.values()
        self._tables = {table.name: table for table in tables if table.name not in unprotected}
        self.refused = refused
        self._names = self._names | {(table.schema, table.table): table.name for table in tables}
        self._published = None
        return self.seen_tables

    @property
    def seen_tables(self) -> list[TableInfo]:
        """The eligible tables, as of the last call of `tables`."""
        return [table.protected(self._protection(table.name)) for table in self._tables.values()]

    def _protection(self, table: str) -> Protection:
        return self.config.protections.get(table, NOT_PROTECTED)

    def _unprotected(self, table: TableInfo) -> Ineligibility | None:
        """Ineligible: what is declared as sensitive cannot be protected; None if there is no such column."""
        protection = self._protection(table.name)
        absent = protection.columns - {column.name for column in table.columns}
        dropped = protection.drop.intersection(table.key)
        if not absent and not dropped:
            return None
        problem = (
            f"has no column {', '.join(sorted(absent))}, which sources.yml declares as sensitive"
            if absent
            else f"has {', '.join(sorted(dropped))} in its key, which cannot be dropped"
        )
        fix = f"correct `sensitive` of the source {self.config.name} in sources.yml" + ("" if absent else "; hash it")
        error = SourceTableError(f"table {table.source_name} {problem}", fix)
        return Ineligibility(table.source_name, error, table.name, table.oid)

    def memberships(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        """Each published table's publication epoch, by bronze name."""
        return self._link.run(lambda connection: memberships(connection, self._slot.publication, tables))

    def publish(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        """Add the tables to the publication, created if it does not exist; returns their publication epochs.

        Raises:
            ReplicationRightError: the user may not create it. TableFailedError: a table cannot be added.
            SourceError: the publication does not publish every operation.
        """
        self._link.run(lambda connection: ensure_publication(connection, self._slot.publication, tables))
        return self.memberships(tables)

    def held(self, tables: Sequence[TableInfo]) -> AbstractContextManager[None]:
        """Lock the tables against changes of their columns inside the block; reads and writes of rows go on.

        Raises:
            TableFailedError: another session has a table locked.
        """
        return held(self._connector, tables)

    def retention(self) -> Retention:
        """How much log the server retains for the slot, and how much more it may retain."""
        return self._link.run(lambda connection: retention(connection, self.slot))

    def drop_slot(self) -> None:
        """Drop the slot on the server, if it exists.

        Raises:
            SlotInUseError: another process reads it. SourceError: it is another database's, or another plugin's.
        """

        def drop(connection: psycopg.Connection[Any]) -> None:
            self._slot.check_ours(self._slot.state(connection))
            self._slot.drop(connection)

        self._link.run(drop)

    def slot_exists(self) -> bool:
        """Whether our replication slot exists."""
        return self._state().exists

    def resume(self, position: int) -> None:
        """Check that the log can be read from `position` on without a gap (`changes` checks the same each time).

        Raises:
            SlotLostError, SlotAheadError, SourceIdentityError: it cannot. SourceError: it is not our slot.
        """
        self._slot.check(self._state(), position)

    def check_identity(self, known_system_id: str) -> None:
        """Check that the server is the one that the lake was filled from.

        Raises:
            SourceIdentityError: it is not.
        """
        check_identity(known_system_id, self.system_id)

    def snapshot(self, tables: Sequence[TableInfo] | None = None, *, permanent: bool = False) -> Snapshot:
        """The backfill as a context manager; see `Snapshot` for the order that makes it exactly-once.

        Args:
            tables: None reads all tables and (re)creates slot and publication; otherwise tables added to an
                existing slot.
            permanent: (re)create the slot for the given tables too.
        """
        found = self.tables() if tables is None else list(tables)
        temporary = tables is not None and not permanent
        limit = self._max_field_bytes
        return Snapshot(
            self._connector,
            self._slot,
            [self._tables.get(table.name, table) for table in found],
            self._chunk_rows,
            temporary=temporary,
            max_field_bytes=limit,
            protections=self.config.protections,
        )

    def changes(
        self,
        after: Mapping[str, int],
        slot_position: int,
        max_rows: int,
        until: int | None = None,
        waiting: Collection[int] = (),
    ) -> Changes:
        """The next whole transactions, without consuming them; read them to the end before the next call.

        Skips transactions that end at or before `slot_position` or the table's own position.

        Args:
            after: bronze table name to its position (commit end LSN); every captured table that has one.
            slot_position: the slot's position in the lake.
            max_rows: approximate number of messages; a transaction is never split between two calls.
            until: skip transactions that end after this LSN; the resulting position is not beyond it.
            waiting: oids of tables to skip, because their later snapshot includes these changes.

        Raises:
            GapError: changes after `slot_position` are gone. SourceError: unreachable, slot in use.
        """
        if not self._tables:
            self.tables()
        self._check_published(after, waiting)
        requested = Question(after, slot_position, max_rows, LAST_LSN if until is None else until)
        return Changes(
            requested,
            self._tables,
            lambda rows: self._peek(requested, rows),
            self._finish,
            self._runs,
            self._base_types,
            self._max_field_bytes,
            {ineligibility.oid for ineligibility in self.refused if ineligibility.in_log}.union(waiting),
            self._names,
            self.config.protections,
        )

    def set_blocking(self, blocking: bool) -> None:
        """Whether calls block while the server is unreachable; otherwise they fail fast and the caller retries."""
        self._link.blocking = self._log.link.blocking = blocking

    def acknowledge(self, lsn: int) -> None:
        """Let the server discard its log up to `lsn`. Call it only once that position is durable in the lake."""
        self._link.run(lambda connection: self._slot.acknowledge(connection, lsn))
        if self._slot_seen is not None:
            self._slot_seen = replace(self._slot_seen, confirmed=lsn)

    def lag(self) -> PostgresLag:
        """How far the slot is behind."""
        return PostgresLag.of(self._state())

    def wait(self, timeout: float) -> bool:
        """Whether `changes` would find something, waiting at most `timeout` seconds for it.

        True if the log has grown since the last read, or if the slot has changed (detected within a second).
        """
        deadline = time.monotonic() + timeout
        while True:
            if self._has_news():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL, left))

    def _has_news(self) -> bool:
        if self._slot_seen is None or time.monotonic() < self._slot_due:
            return self._link.run(_log_end) > self._seen
        self._slot_due = time.monotonic() + _SLOT_SECONDS
        state = self._state()
        return state.current > self._seen or not state.is_like(self._slot_seen)

    def _check_published(self, after: Mapping[str, int], waiting: Collection[int]) -> None:
        """Check that every table to read is published: a table that was recreated is in no publication."""
        for again in (False, True):
            if again or self._published is None:
                self._published = self.memberships(list(self._tables.values()))
            read = [table for table in self._tables.values() if table.name in after and table.oid not in waiting]
            lost = [table for table in read if table.name not in self._published]
            if not lost:
                return
        raise unpublished_error(lost[0], self._slot.publication)

    def _peek(self, requested: Question, max_rows: int) -> Peeked:
        return self._log.peek(requested, max_rows, self.system_id)

    def _finish(self, changes: Changes) -> None:
        self._slot_seen = self._log.check(changes.start_lsn)
        self._seen = changes.end_lsn
        self._tables |= {name: table for name, table in changes.tables.items() if name in self._tables}

    def _state(self) -> SlotState:
        return self._link.run(self._slot.state)

    def _base_types(self, oids: Sequence[int]) -> Mapping[int, Any]:
        return self._link.run(lambda connection: base_types(connection, oids))


def _log_end(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select (pg_current_wal_flush_lsn() - '0/0')::int8").fetchone()
    return int(row[0]) if row else 0


def _owned(table: TableInfo, owner: str) -> Ineligibility:
    """Ineligible: another source owns its bronze name."""
    error = SourceTableError(
        f"table {table.source_name} would land in bronze/{table.name}, which belongs to the source {owner}",
        "give this source a prefix in sources.yml, such as `prefix: x_`, or leave the table out by naming the others",
    )
    return Ineligibility(table.source_name, error)
