"""PostgreSQL change data capture: snapshot first, then the log, from one replication slot.

The facade of the `postgres_*` and `pgoutput*` modules. It never writes a row and holds no position:
the lake does, and passes it in. Only `acknowledge` changes what the server will send again.
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
from fraud_lakehouse.sources.postgres.eligibility import Refusal
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
from fraud_lakehouse.storage.lease import is_ours

_SNAPSHOT_ROWS = 100_000
_POLL = 0.05  # seconds between two looks at the log's end: one look takes 0.2 ms
_SLOT_SECONDS = 1.0  # between two looks at the slot itself, while nothing comes


class PostgresCapture:
    """Captures the tables of one database; a context manager, connected when first needed.

    A restart of the server is survived: calls connect again, for up to 30 s, and check that it is the
    same server. Nothing here is thread-safe.

    Args:
        settings: sizes, and the folder of the locks.
        config: the source.
        names: bronze names that the lake has given, by schema and table of the source.
        owner: by a bronze table's name, another source that it belongs to; None where it may be ours.

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
        self.refused: list[Refusal] = []
        """The tables asked for that cannot be captured, as `tables` saw them last."""
        self._published: Mapping[str, str] | None = None
        self._seen = 0
        self._slot_seen: SlotState | None = None  # with what was read last
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
        """Close, and take whatever server answers next: the caller compares its identity with the lake's."""
        self._link.forget()
        self._log.link.forget()
        self._tables, self.refused, self._published, self._seen, self._slot_seen = {}, [], None, 0, None

    @property
    def slot(self) -> str:
        """The replication slot's name."""
        return self._slot.name

    @property
    def seen_lsn(self) -> int:
        """Up to where `changes` has read the log, with rows or without; 0 before the first time."""
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
        """Check everything that capture needs before the log can be asked.

        Args:
            position: the slot's position in the lake, to be named where the slot is at fault.

        Raises:
            SourceError: the subclass in `postgres_errors` that names the cause and its remedy.
            SlotLostError: the slot was invalidated.
        """
        self._link.run(check_server)
        self._link.run(lambda connection: check_publication(connection, self._slot.publication))
        if not self.tables() and self.refused:
            raise self.refused[0].error
        self._link.run(lambda connection: check_slot(connection, self._slot, position))

    def new_tables(self) -> list[TableInfo]:
        """Tables that joined since `tables` was first asked: their snapshot is due."""
        before = set(self._tables)
        return [table for table in self.tables() if table.name not in before]

    def tables(self) -> list[TableInfo]:
        """The tables that can be captured, read from the catalog now; `refused` then has the others asked for."""
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
        self._tables, self.refused = {table.name: table for table in tables}, refused
        self._names = self._names | {(table.schema, table.table): table.name for table in tables}
        self._published = None
        return tables

    @property
    def seen_tables(self) -> list[TableInfo]:
        """The tables that can be captured, as `tables` saw them last."""
        return list(self._tables.values())

    def memberships(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        """By bronze name, what tells each published table's membership from any earlier one."""
        return self._link.run(lambda connection: memberships(connection, self._slot.publication, tables))

    def publish(self, tables: Sequence[TableInfo]) -> dict[str, str]:
        """Put the tables into the publication, which is created if there is none; returns their memberships.

        Raises:
            ReplicationRightError: the user may not create it. TableFailedError: a table cannot be added.
            SourceError: the publication leaves something out.
        """
        self._link.run(lambda connection: ensure_publication(connection, self._slot.publication, tables))
        return self.memberships(tables)

    def held(self, tables: Sequence[TableInfo]) -> AbstractContextManager[None]:
        """Keep the tables' shapes as they are inside; rows are read and written as ever.

        Raises:
            TableFailedError: another session has a table locked.
        """
        return held(self._connector, tables)

    def retention(self) -> Retention:
        """What the server keeps for the slot, and how much more it would."""
        return self._link.run(lambda connection: retention(connection, self.slot))

    def drop_slot(self) -> None:
        """Drop the slot on the server; nothing happens when there is none.

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

    def snapshot(self, tables: Sequence[TableInfo] | None = None, *, permanent: bool = False) -> Snapshot:
        """The backfill as a context manager; `Snapshot` states the order that makes it exactly-once.

        Args:
            tables: None takes all tables and (re)creates slot and publication; else tables that join an
                existing slot.
            permanent: (re)create the slot for the given tables too.
        """
        found = self.tables() if tables is None else list(tables)
        temporary = tables is not None and not permanent
        limit = self._max_field_bytes
        return Snapshot(
            self._connector, self._slot, found, self._chunk_rows, temporary=temporary, max_field_bytes=limit
        )

    def changes(
        self,
        after: Mapping[str, int],
        slot_position: int,
        max_rows: int,
        until: int | None = None,
        waiting: Collection[int] = (),
    ) -> Changes:
        """The next whole transactions, without consuming them; read them before anything else is asked of the log.

        Transactions that end at or before `slot_position`, or before the table's own position, are left out.

        Args:
            after: bronze table name to its position (commit end LSN); every captured table that has one.
            slot_position: the slot's position in the lake.
            max_rows: about how many messages; a transaction is never split between two calls.
            until: transactions that end after this LSN are left out, and the end is not beyond it.
            waiting: oids of tables whose snapshot will come later than these changes, which are left out.

        Raises:
            GapError: changes after `slot_position` are gone. SourceError: unreachable, slot in use.
        """
        if not self._tables:
            self.tables()
        self._check_published(after, waiting)
        asked = Question(after, slot_position, max_rows, LAST_LSN if until is None else until)
        return Changes(
            asked,
            self._tables,
            lambda rows: self._peek(asked, rows),
            self._finish,
            self._runs,
            self._base_types,
            self._max_field_bytes,
            {refusal.oid for refusal in self.refused if refusal.in_log}.union(waiting),
            self._names,
        )

    def be_patient(self, patient: bool) -> None:
        """Whether calls wait for a server that is away; without, they fail at once and the caller tries again later."""
        self._link.patient = self._log.link.patient = patient

    def acknowledge(self, lsn: int) -> None:
        """Let the server discard its log up to `lsn`; only after that position is durable in the lake."""
        self._link.run(lambda connection: self._slot.acknowledge(connection, lsn))
        if self._slot_seen is not None:
            self._slot_seen = replace(self._slot_seen, confirmed=lsn)

    def lag(self) -> PostgresLag:
        """Where the slot stands."""
        return PostgresLag.of(self._state())

    def wait(self, timeout: float) -> bool:
        """Whether `changes` would find something, waiting at most `timeout` seconds for it.

        That is: the log has grown beyond what was read last or, seen within a second, the slot is not as it was then.
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
        """Against the catalog as `tables` saw it last: a table made anew is in no publication."""
        for again in (False, True):
            if again or self._published is None:
                self._published = self.memberships(list(self._tables.values()))
            read = [table for table in self._tables.values() if table.name in after and table.oid not in waiting]
            lost = [table for table in read if table.name not in self._published]
            if not lost:
                return
        raise unpublished_error(lost[0], self._slot.publication)

    def _peek(self, asked: Question, max_rows: int) -> Peeked:
        return self._log.peek(asked, max_rows, self.system_id)

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


def _owned(table: TableInfo, owner: str) -> Refusal:
    """A table whose bronze name another source has."""
    error = SourceTableError(
        f"table {table.source_name} would land in bronze/{table.name}, which belongs to the source {owner}",
        "give this source a prefix in sources.yml, such as `prefix: x_`, or leave the table out by naming the others",
    )
    return Refusal(table.source_name, error)
