"""How far a replication slot is behind the end of the log."""

from __future__ import annotations

from dataclasses import dataclass

from fraud_lakehouse.sources.postgres.slot_state import SlotState


@dataclass(frozen=True)
class PostgresLag:
    """How far the slot is behind; LSNs as integers, sizes in bytes, None where there is no slot."""

    current_lsn: int
    confirmed_lsn: int | None
    bytes_behind: int | None
    retained_bytes: int | None
    wal_status: str | None

    @staticmethod
    def of(state: SlotState) -> PostgresLag:
        """From the server's state of the slot."""
        behind = None if state.confirmed is None else max(0, state.current - state.confirmed)
        retained = None if state.restart is None else max(0, state.current - state.restart)
        return PostgresLag(state.current, state.confirmed, behind, retained, state.wal_status)
