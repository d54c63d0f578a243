"""How much log the server retains for the slot, and how much more before it invalidates the slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

# to_jsonb: columns added in versions 16 to 18 are null on older servers
_RETENTION = """
select s.slot_name is not null,
       case when s.restart_lsn is not null then greatest(0, (pg_current_wal_flush_lsn() - s.restart_lsn)::int8) end,
       s.wal_status, s.safe_wal_size,
       (select nullif(setting, '-1')::int8 * 1048576 from pg_settings where name = 'max_slot_wal_keep_size'),
       to_jsonb(s) ->> 'invalidation_reason',
       case when not s.active
            then extract(epoch from clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::float8 end,
       (select nullif(setting, '0')::float8 * case unit when 'min' then 60 when 'ms' then 0.001 else 1 end
          from pg_settings where name = 'idle_replication_slot_timeout')
  from (select) as one left join pg_replication_slots s on s.slot_name = %s
"""


@dataclass(frozen=True)
class Retention:
    """Log retention of the slot.

    Args:
        exists: whether there is such a slot.
        retained_bytes: log retained for it; None once it was invalidated.
        wal_status: reserved, extended, unreserved (lost at the next checkpoint) or lost.
        safe_bytes: log that can still be written before it may be lost; None without a limit.
        limit_bytes: max_slot_wal_keep_size; None without a limit.
        invalidation_reason: why the server invalidated it (PostgreSQL 17 or newer).
        inactive_seconds: how long nobody has read it (PostgreSQL 17 or newer).
        idle_limit_seconds: idle_replication_slot_timeout (PostgreSQL 18 or newer); None when off.
    """

    exists: bool
    retained_bytes: int | None = None
    wal_status: str | None = None
    safe_bytes: int | None = None
    limit_bytes: int | None = None
    invalidation_reason: str | None = None
    inactive_seconds: float | None = None
    idle_limit_seconds: float | None = None


def retention(connection: psycopg.Connection[Any], slot: str) -> Retention:
    """The slot's log retention now."""
    row = connection.execute(_RETENTION, (slot,)).fetchone()
    assert row is not None  # the left join always gives one row
    return Retention(*row)
