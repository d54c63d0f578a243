"""The slot's messages on a connection of their own, so that the source can be asked other things while they arrive."""

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

    def peek(self, asked: Question, max_rows: int, system_id: str) -> Peeked:
        """Start a peek; the log's end is read before it, so that a batch may move on over log of other tables.

        Args:
            system_id: of the server that the caller is connected to.

        Raises:
            GapError: the slot does not hold everything after the position, or it is another server's.
            SourceError: unreachable, or the slot is in use.
        """
        check_identity(system_id, self.link.system_id)

        def begin(connection: psycopg.Connection[Any]) -> Peeked:
            send_raw_text(connection)
            before = self._slot.state(connection)
            self._slot.check(before, asked.position)
            if before.current <= asked.position:
                return Peeked(before.current, iter(()))
            until = None if asked.until == LAST_LSN else asked.until
            return Peeked(before.current, self._closing(self._slot.peek(connection, asked.position, max_rows, until)))

        return self.link.run(begin)

    def check(self, position: int) -> SlotState:
        """After the last message: nobody moved the slot past the position before it was read; the slot as it is.

        Raises:
            GapError: somebody did.
        """
        state = self.link.run(self._slot.state)
        self._slot.check(state, position)
        return state

    def _closing(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        """The chunks; when they are not read to the end, the connection that sends them is closed."""
        try:
            with self._connector.typed_errors():
                yield from chunks
        except BaseException:
            self.link.close()
            raise
