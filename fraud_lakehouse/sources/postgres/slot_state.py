"""A replication slot as the server reports it, and the text format of log positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

_STATE = """
select (pg_current_wal_flush_lsn() - '0/0')::int8, s.slot_name is not null, s.active_pid,
       (s.confirmed_flush_lsn - '0/0')::int8, (s.restart_lsn - '0/0')::int8, s.wal_status, s.plugin,
       s.database = current_database(), s.database, to_jsonb(s) ->> 'invalidation_reason'
  from (select) as one left join pg_replication_slots s on s.slot_name = %s
"""


@dataclass(frozen=True)
class SlotState:
    """The slot as the server reports it; LSNs as integers, None where the server has none.

    `current` is the flushed end of the server's log, read in the same statement.
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

    def is_like(self, other: SlotState) -> bool:
        """Whether it is the same slot, equally usable, and not acknowledged in between."""
        return self._eligibility == other._eligibility

    @property
    def _eligibility(self) -> tuple[object, ...]:
        return self.exists, self.plugin, self.same_database, self.confirmed, self.wal_status == "lost"

    def places(self, position: int | None) -> str:
        """The positions of the slot, the server's log and, if known, the lake; for messages."""
        lake = "" if position is None else f", the lake has {format_lsn(position)}"
        slot = f"acknowledged {lsn_or_none(self.confirmed)}, keeps log from {lsn_or_none(self.restart)}"
        return f"{slot}, log ends at {format_lsn(self.current)}{lake}"


def read_state(connection: psycopg.Connection[Any], name: str) -> SlotState:
    """The slot of that name and the log's end now."""
    row = connection.execute(_STATE, (name,)).fetchone()
    assert row is not None  # the left join always gives one row
    return SlotState(*row)


def parse_lsn(text: str) -> int:
    """`16/B374D848` as an integer."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """An integer as `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_or_none(lsn: int | None) -> str:
    """As `format_lsn`, for a position that may be None."""
    return "nowhere" if lsn is None else format_lsn(lsn)
