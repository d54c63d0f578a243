"""The replication slot: its checks, creation, peek, acknowledgement. Decodes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import psycopg
from psycopg import errors, pq, sql

from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sources.postgres.acknowledge import acknowledge
from fraud_lakehouse.sources.postgres.connection import PostgresConnector, stream_binary, wait_results
from fraud_lakehouse.sources.postgres.errors import (
    ReplicationRightError,
    ServerLimitError,
    SlotAheadError,
    SlotForeignError,
    SlotInUseError,
    SlotLostError,
    SourceBusyError,
    SourceIdentityError,
)
from fraud_lakehouse.sources.postgres.reader import Reader
from fraud_lakehouse.sources.postgres.slot_state import SlotState, format_lsn, lsn_or_none, parse_lsn, read_state
from fraud_lakehouse.sql_text import literal, quoted

_T = TypeVar("_T")
_RESYNC = "run `fraud-lakehouse resync`: it recreates the slot and ingests what the lake lacks; no row is removed"
_OWN_SLOT = (
    "choose another name in FRAUD_POSTGRES_SLOT (a lake that was filled through this one then continues with"
    " `fraud-lakehouse resync`)"
)
_START_OVER = "`fraud-lakehouse accept-source postgres` begins again with a new snapshot"
_LOSSES = {
    "wal_removed": (
        "it needed more log than max_slot_wal_keep_size allows",
        "raise max_slot_wal_keep_size (ALTER SYSTEM SET, then select pg_reload_conf()), then ",
    ),
    "idle_timeout": (
        "nobody read it for as long as idle_replication_slot_timeout allows",
        "raise idle_replication_slot_timeout (ALTER SYSTEM SET, then select pg_reload_conf()), then ",
    ),
    "wal_level_insufficient": (
        "the server ran with a wal_level other than logical",
        "ALTER SYSTEM SET wal_level = logical, restart the server, then ",
    ),
    "rows_removed": ("the server removed catalog rows that it needed", ""),
}
"""By the server's reason (PostgreSQL 17 or newer; older servers: the first): what happened, how to prevent it."""
_SLOTS = """
select current_setting('max_replication_slots')::int, count(*), array_agg(slot_name::text) filter (where not active)
  from pg_replication_slots
"""
_PEEK = (
    "select data from"
    " pg_logical_slot_peek_binary_changes($1, $2::pg_lsn, $3, 'proto_version', '1', 'publication_names', $4)"
)


@dataclass(frozen=True)
class CreatedSlot:
    """A new slot: its consistent point, and its exported snapshot (valid while its connection is open)."""

    lsn: int
    snapshot: str


class ReplicationSlot:
    """One logical slot with plugin pgoutput and its publication.

    Args:
        connector: opens the replication connections.
        name: the slot's name.
        publication: the publication's name.
        patience: seconds to wait for a slot in use: the server notices late that a reader was killed.
        reader: names the sessions of this process.
    """

    def __init__(
        self,
        connector: PostgresConnector,
        name: str,
        publication: str,
        patience: float = 10.0,
        reader: Reader | None = None,
    ) -> None:
        self._reader = reader
        self.name = name
        self.patience = patience
        self.publication = publication
        self._connector = connector

    def state(self, connection: psycopg.Connection[Any]) -> SlotState:
        """The slot and the log's end now."""
        return read_state(connection, self.name)

    def check(self, state: SlotState, position: int) -> None:
        """Check that the slot still has everything after `position`.

        Raises:
            SlotLostError: it is gone or was invalidated.
            SlotAheadError: it was acknowledged past `position`.
            SourceIdentityError: the server's log ends before `position`.
            SourceError: the slot is not one of ours.
        """
        if state.current < position:
            raise SourceIdentityError(
                f"the server's log ends at {format_lsn(state.current)}, before the lake's position"
                f" {format_lsn(position)}: the server was restored to an earlier state",
                f"restore it to a later one; or {_START_OVER} of this one",
            )
        self.check_usable(state, position)
        if not state.exists:
            raise SlotLostError(
                f"replication slot {self.name} does not exist, but the lake has changes up to {format_lsn(position)}:"
                f" those from there to {format_lsn(state.current)} are not in the log any more",
                _RESYNC,
            )
        if state.confirmed is not None and state.confirmed > position:
            anew = state.restart is not None and state.restart >= position
            raise SlotAheadError(
                f"replication slot {self.name} was acknowledged up to {format_lsn(state.confirmed)}"
                f" (it keeps log from {lsn_or_none(state.restart)}), but the lake has only {format_lsn(position)}: "
                + (
                    "it was dropped and recreated, or another lake reads it"
                    if anew
                    else "another reader used it, or the lake was restored to an earlier state"
                ),
                f"give each lake a slot of its own (FRAUD_POSTGRES_SLOT), then {_RESYNC}",
            )

    def check_usable(self, state: SlotState, position: int | None = None) -> None:
        """Check what can be checked without a position (an absent slot passes); it is only for error messages.

        Raises:
            SlotLostError: it was invalidated.
            SlotForeignError: it belongs to another database or another plugin.
        """
        self.check_ours(state, position)
        if state.wal_status == "lost":
            why, mend = _LOSSES.get(state.invalidation_reason or "wal_removed", ("unknown reason", ""))
            raise SlotLostError(
                f"replication slot {self.name} was invalidated by the server ({state.invalidation_reason or 'lost'}):"
                f" {why} ({state.places(position)})",
                f"{mend}{_RESYNC}",
            )

    def check_ours(self, state: SlotState, position: int | None = None) -> None:
        """Check that the slot, if it exists, belongs to our database and plugin.

        Raises:
            SlotForeignError: it belongs to another database or another plugin.
        """
        if state.exists and (state.plugin != "pgoutput" or not state.same_database):
            raise SlotForeignError(
                f"replication slot {self.name} belongs to database {state.database} with plugin {state.plugin}"
                f" ({state.places(position)})",
                _OWN_SLOT,
            )

    def check_free(self, connection: psycopg.Connection[Any]) -> None:
        """Check that the server has a replication slot left.

        Raises:
            ServerLimitError: it has none; names inactive slots.
        """
        limit, used, unread = connection.execute(_SLOTS).fetchone() or (0, 0, None)
        if used >= limit:
            raise ServerLimitError(
                f"all {limit} replication slots of the server are in use"
                + (f"; nobody reads {', '.join(unread)}" if unread else ""),
                "raise max_replication_slots and restart the server, or drop a slot that nobody needs:"
                f" select pg_drop_replication_slot({literal(unread[0]) if unread else 'name'})",
            )

    def drop(self, connection: psycopg.Connection[Any]) -> None:
        """Drop the slot if it exists.

        Raises:
            SlotInUseError: another process reads it.
        """
        state = self.state(connection)
        if state.exists:
            drop = "select pg_drop_replication_slot(%s)"
            self._patiently(connection, lambda: connection.execute(drop, (self.name,)))

    def create(
        self, walsender: psycopg.Connection[Any], *, temporary: bool = False, timeout: float | None = None
    ) -> CreatedSlot:
        """Create a slot on a replication connection and export its snapshot.

        Args:
            walsender: a replication connection; the snapshot lives until its next command.
            temporary: a slot that ends with the connection, under a separate name.
            timeout: seconds to wait for open transactions to end; default 60, or 10 for a temporary slot, because
                the log of other tables is not read meanwhile.

        Raises:
            SourceBusyError: timed out (names the oldest transaction), or no slot is free.
        """
        timeout = timeout or (10.0 if temporary else 60.0)
        name = f"{self.name[:40]}_{walsender.info.backend_pid}" if temporary else self.name
        statement = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput EXPORT_SNAPSHOT").format(
            sql.Identifier(name), sql.SQL("TEMPORARY" if temporary else "")
        )
        walsender.pgconn.send_query(statement.as_bytes(walsender))
        try:
            result = wait_results(walsender, timeout)[-1]
        except TimeoutError:
            walsender.close()
            raise self._blocked(timeout) from None
        if result.status == pq.ExecStatus.FATAL_ERROR:
            error = errors.error_from_result(result, encoding="utf-8")
            if isinstance(error, errors.ConfigurationLimitExceeded):
                with self._connector.connect() as connection:
                    self.check_free(connection)
                raise ServerLimitError(words_of(error), "raise max_replication_slots and restart the server") from None
            if isinstance(error, errors.InsufficientPrivilege):
                raise ReplicationRightError(str(error), "ALTER ROLE ... REPLICATION") from None
            raise error
        lsn, snapshot = result.get_value(0, 1), result.get_value(0, 2)
        assert lsn is not None
        assert snapshot is not None
        return CreatedSlot(parse_lsn(lsn.decode()), snapshot.decode())

    def peek(
        self, connection: psycopg.Connection[Any], position: int, max_rows: int, until: int | None = None
    ) -> Iterator[list[bytes]]:
        """Messages of whole transactions not yet acknowledged, in chunks, without consuming them.

        The server stops after the transaction that reaches `max_rows` messages, or near `until`. It decodes everything
        before it sends the first message, so every error but a lost connection is raised here.

        Args:
            position: the slot's position in the lake, for error messages.

        Raises:
            SlotLostError, SlotInUseError, SourceError: by SQLSTATE; psycopg.OperationalError: connection lost.
        """
        stop = None if until is None else format_lsn(until).encode()
        parameters = (self.name.encode(), stop, str(max_rows).encode(), quoted(self.publication).encode())

        def begin() -> Iterator[list[bytes]]:
            chunks = stream_binary(connection, _PEEK, parameters)
            first = next(chunks, [])
            return chain([first], chunks)

        try:
            return self._patiently(connection, begin, position)
        except errors.ObjectNotInPrerequisiteState as error:
            state = self.state(connection)
            self.check(state, position)  # raises a more specific error if it can
            raise SlotLostError(
                f"replication slot {self.name} cannot be read: {words_of(error)} ({state.places(position)})",
                _RESYNC,
            ) from None
        except errors.UndefinedObject as error:
            self.check(self.state(connection), position)
            raise SourceError(
                f"publication {self.publication} was dropped while changes were pending: {words_of(error)}",
                f"CREATE PUBLICATION {quoted(self.publication)} again; if the error stays, {_RESYNC}",
            ) from None

    def acknowledge(self, connection: psycopg.Connection[Any], lsn: int) -> None:
        """Report to the server that everything up to `lsn` is durable: it may discard that log.

        Takes 6 to 11 ms; pg_replication_slot_advance would decode all of it again.

        Raises:
            SlotInUseError: another process reads it; psycopg.Error: by SQLSTATE.
        """
        self._patiently(connection, lambda: acknowledge(self._connector, self.name, quoted(self.publication), lsn), lsn)

    def in_use_error(self, state: SlotState, position: int | None = None) -> SlotInUseError:
        """The error for a slot that another process uses; names the lake's position if known."""
        holder = f"pid {state.active_pid}" if state.active_pid is not None else "another process"
        end_it = f": select pg_terminate_backend({state.active_pid})" if state.active_pid is not None else ""
        return SlotInUseError(
            f"replication slot {self.name} is in use by {holder} ({state.places(position)})",
            f"end that reader{end_it}; if it needs the slot, {_OWN_SLOT}",
        )

    def _patiently(
        self, connection: psycopg.Connection[Any], action: Callable[[], _T], position: int | None = None
    ) -> _T:
        """Run; while another process uses the slot, retry for `patience` seconds.

        Raises:
            SlotInUseError: it is in use for longer.
        """
        began = time.monotonic()
        while True:
            try:
                return action()
            except errors.ObjectInUse:
                if time.monotonic() > began + self.patience:
                    raise self.in_use_error(self.state(connection), position) from None
                self.end_predecessor(connection, time.monotonic() - began)
                time.sleep(0.05)

    def end_predecessor(self, connection: psycopg.Connection[Any], waited: float) -> None:
        """End the session of a process that we replaced, if it reads the slot; `waited`: seconds so far."""
        if self._reader is not None:
            self._reader.end_predecessor(connection, self.name, waited)

    def _blocked(self, timeout: float) -> SourceBusyError:
        with self._connector.connect() as connection:
            row = connection.execute(
                "select pid, usename, xact_start::text from pg_stat_activity"
                " where xact_start is not null and pid <> pg_backend_pid() order by xact_start limit 1"
            ).fetchone()
        who = f"; the oldest is of pid {row[0]} (user {row[1]}, since {row[2]})" if row else ""
        return SourceBusyError(
            f"creating replication slot {self.name} waited {timeout:.0f} s for open transactions to end{who}",
            "end that transaction (commit it, or select pg_terminate_backend(pid)) and try again",
        )


def words_of(error: psycopg.Error) -> str:
    """The server's message, without the location in its source code."""
    return error.diag.message_primary or str(error).strip()
