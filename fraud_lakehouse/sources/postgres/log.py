"""The slot's messages on a separate connection, so that other queries can run while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

from fraud_lakehouse.sources.postgres.changes import LAST_LSN, Peeked, Question
from fraud_lakehouse.sources.postgres.connection import PostgresConnector, send_raw_text
from fraud_lakehouse.sources.postgres.link import PostgresLink
from fraud_lakehouse.sources.postgres.preflight import check_identity
from fraud_lakehouse.sources.postgres.slot import ReplicationSlot
from fraud_lakehouse.sources.postgres.slot_state import SlotState


class LogReader:
    """Peeks at one slot."""

    def __init__(self, connector: PostgresConnector, slot: ReplicationSlot) -> None:
        self.link = PostgresLink(connector)
        self._connector = connector
        self._slot = slot

    def peek(self, requested: Question, max_rows: int, system_id: str) -> Peeked:
        """Start a peek. The log's end is read first, so that a batch can advance past changes of other tables.

        Args:
            system_id: the system identifier that the caller expects.

        Raises:
            GapError: the slot does not have everything after the position, or it is another server's.
            SourceError: unreachable, or the slot is in use.
        """
        check_identity(system_id, self.link.system_id)

        def begin(connection: psycopg.Connection[Any]) -> Peeked:
            send_raw_text(connection)
            before = self._slot.state(connection)
            self._slot.check(before, requested.position)
            if before.current <= requested.position:
                return Peeked(before.current, iter(()))
            until = None if requested.until == LAST_LSN else requested.until
            return Peeked(
                before.current, self._closing(self._slot.peek(connection, requested.position, max_rows, until))
            )

        return self.link.run(begin)

    def check(self, position: int) -> SlotState:
        """After the last message: check that the slot was not moved past the position meanwhile; returns its state.

        Raises:
            GapError: it was.
        """
        state = self.link.run(self._slot.state)
        self._slot.check(state, position)
        return state

    def _closing(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        """The chunks; closes their connection unless they are read to the end."""
        try:
            with self._connector.typed_errors():
                yield from chunks
        except BaseException:
            self.link.close()
            raise
