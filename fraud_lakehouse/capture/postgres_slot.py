"""The replication slot: state, creation, peek, acknowledgement. Decodes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import psycopg
from psycopg import errors, pq, sql

from fraud_lakehouse.capture.postgres_acknowledge import acknowledge
from fraud_lakehouse.capture.postgres_connection import PostgresConnector, stream_binary, wait_results
from fraud_lakehouse.capture.postgres_errors import (
    ReplicationRightError,
    SlotAheadError,
    SlotInUseError,
    SlotLostError,
    SourceBusyError,
    SourceIdentityError,
)
from fraud_lakehouse.errors import SourceError
from fraud_lakehouse.sql_text import quoted

_T = TypeVar("_T")
_RESYNC = "run `fraud-lakehouse resync`: it makes the slot anew and lands what the lake lacks; no row is removed"
_START_OVER = "`fraud-lakehouse accept-source postgres` begins again with a new snapshot"
_STATE = """
select (pg_current_wal_flush_lsn() - '0/0')::int8, s.slot_name is not null, s.active_pid,
       (s.confirmed_flush_lsn - '0/0')::int8, (s.restart_lsn - '0/0')::int8, s.wal_status, s.plugin,
       s.database = current_database(), s.database, to_jsonb(s) ->> 'invalidation_reason'
  from (select) as one left join pg_replication_slots s on s.slot_name = %s
"""
_PEEK = (
    "select data from"
    " pg_logical_slot_peek_binary_changes($1, $2::pg_lsn, $3, 'proto_version', '1', 'publication_names', $4)"
)


@dataclass(frozen=True)
class SlotState:
    """The slot as the server sees it; LSNs as integers, None where the server has none.

    `current` is the LSN up to which the server's log is flushed, read in the same statement.
    """

    current: int
    exists: bool
    active_pid: int | None
    confirmed: int | None
    restart: int | None
    wal_status: str | None
    plugin: str | None
    same_database: bool | None
    database: str | None
    invalidation_reason: str | None = None


@dataclass(frozen=True)
class CreatedSlot:
    """A new slot: its consistent point, and the snapshot it exported (valid while its connection lives)."""

    lsn: int
    snapshot: str


def parse_lsn(text: str) -> int:
    """`16/B374D848` as an integer."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """An integer as `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class ReplicationSlot:
    """One logical slot with plugin pgoutput and its publication.

    Args:
        connector: opens the replication connections.
        name: the slot's name.
        publication: the publication's name.
        patience: seconds to wait for a slot in use: the server's side of a killed reader ends late.
    """

    def __init__(self, connector: PostgresConnector, name: str, publication: str, patience: float = 10.0) -> None:
        self.name = name
        self.patience = patience
        self.publication = publication
        self._connector = connector

    def state(self, connection: psycopg.Connection[Any]) -> SlotState:
        """The slot and the log's end now."""
        row = connection.execute(_STATE, (self.name,)).fetchone()
        assert row is not None  # the left join always gives one row
        return SlotState(*row)

    def check(self, state: SlotState, position: int) -> None:
        """Check that the slot still holds everything after `position`.

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
                f" (it keeps log from {_lsn_or_none(state.restart)}), but the lake has only {format_lsn(position)}: "
                + (
                    "it was dropped and created anew, or another lake reads it"
                    if anew
                    else "another reader used it, or the lake was set back"
                ),
                f"give each lake a slot of its own (FRAUD_POSTGRES_SLOT), then {_RESYNC}",
            )

    def check_usable(self, state: SlotState, position: int | None = None) -> None:
        """Check what can be said of the slot without a position (an absent slot passes); one is named if known.

        Raises:
            SlotLostError: it was invalidated.
            SourceError: it belongs to another database or another plugin.
        """
        self.check_ours(state)
        if state.wal_status == "lost":
            lake = "" if position is None else f", the lake has {format_lsn(position)}"
            raise SlotLostError(
                f"replication slot {self.name} was invalidated by the server ({state.invalidation_reason or 'lost'}):"
                " it needed more log than max_slot_wal_keep_size allows, or was idle for too long"
                f" (acknowledged {_lsn_or_none(state.confirmed)}, log ends at {format_lsn(state.current)}{lake})",
                f"raise max_slot_wal_keep_size, then {_RESYNC}",
            )

    def check_ours(self, state: SlotState) -> None:
        """Check that the slot, if there is one, is of our database and plugin.

        Raises:
            SourceError: it belongs to another database or another plugin.
        """
        if state.exists and (state.plugin != "pgoutput" or not state.same_database):
            raise SourceError(
                f"replication slot {self.name} belongs to database {state.database} with plugin {state.plugin}",
                "choose another name in FRAUD_POSTGRES_SLOT",
            )

    def drop(self, connection: psycopg.Connection[Any]) -> None:
        """Drop the slot if it exists.

        Raises:
            SlotInUseError: another process reads it.
        """
        state = self.state(connection)
        if state.exists:
            self._patiently(lambda: connection.execute("select pg_drop_replication_slot(%s)", (self.name,)))

    def create(
        self, walsender: psycopg.Connection[Any], *, temporary: bool = False, timeout: float = 60.0
    ) -> CreatedSlot:
        """Create a slot on a replication connection and export its snapshot.

        Args:
            walsender: a replication connection; the snapshot lives until its next command.
            temporary: a slot that ends with the connection, under a name of its own.
            timeout: seconds to wait for transactions that were open before.

        Raises:
            SourceError: the time is over (names the oldest transaction) or no slot is free.
        """
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
                raise SourceError(
                    "every replication slot of the server is in use",
                    "raise max_replication_slots, or drop unused slots",
                ) from None
            if isinstance(error, errors.InsufficientPrivilege):
                raise ReplicationRightError(str(error), "ALTER ROLE ... REPLICATION") from None
            raise error
        lsn, snapshot = result.get_value(0, 1), result.get_value(0, 2)
        assert lsn is not None
        assert snapshot is not None
        return CreatedSlot(parse_lsn(lsn.decode()), snapshot.decode())

    def peek(
        self, connection: psycopg.Connection[Any], max_rows: int, until: int | None = None
    ) -> Iterator[list[bytes]]:
        """Messages of whole transactions not yet acknowledged, in chunks, without consuming them.

        The server stops after the transaction in which `max_rows` messages were reached, or about where its log
        reaches `until`. It decodes all before it sends the first: errors but a lost connection are raised here.

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
            return self._patiently(begin)
        except errors.ObjectNotInPrerequisiteState as error:
            raise SlotLostError(f"replication slot {self.name} cannot be read: {words_of(error)}", _RESYNC) from None
        except errors.UndefinedObject as error:
            if not self.state(connection).exists:
                raise SlotLostError(f"replication slot {self.name} does not exist any more", _RESYNC) from None
            raise SourceError(
                f"publication {self.publication} was dropped while changes were pending: {words_of(error)}",
                f"CREATE PUBLICATION {quoted(self.publication)} again; if the error stays, {_RESYNC}",
            ) from None

    def acknowledge(self, lsn: int) -> None:
        """Tell the server that everything up to `lsn` is durable here: it may discard that log.

        It takes 6 to 11 ms, whereas pg_replication_slot_advance decodes all of it once more.
        """
        self._patiently(lambda: acknowledge(self._connector, self.name, quoted(self.publication), lsn))

    def in_use_error(self, words: str) -> SlotInUseError:
        """The error for a slot that another process holds; `words` name the holder."""
        return SlotInUseError(
            f"replication slot {self.name} is in use by another process: {words}",
            "stop that reader, or choose another name in FRAUD_POSTGRES_SLOT",
        )

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Run; while another process holds the slot, try again for `patience` seconds.

        Raises:
            SlotInUseError: it is held longer.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return action()
            except errors.ObjectInUse as error:
                if time.monotonic() > deadline:
                    raise self.in_use_error(words_of(error)) from None
                time.sleep(0.05)

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


def _lsn_or_none(lsn: int | None) -> str:
    return "nowhere" if lsn is None else format_lsn(lsn)


def words_of(error: psycopg.Error) -> str:
    """What the server said, without the place in its source."""
    return error.diag.message_primary or str(error).strip()
