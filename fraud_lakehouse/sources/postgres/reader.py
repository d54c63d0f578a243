"""The process that reads a slot. Its successor recognises its sessions by their names and may end them.

The server keeps sending to a process that is stopped, and the slot stays in use meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import psycopg

PREDECESSOR_SECONDS = 2.0  # for a session that ends by itself, or only polls
_END = """
select pg_terminate_backend(a.pid)
  from pg_replication_slots s join pg_stat_activity a on a.pid = s.active_pid
 where s.slot_name = %s and a.usename = current_user
   and starts_with(a.application_name, %s) and a.application_name <> %s
"""


@dataclass(frozen=True)
class Reader:
    """A process that reads a slot.

    Args:
        place: machine and work folder, which it shares with the processes that it may replace.
        is_only_one: whether no other process with the same `place` may read the slot now.
    """

    place: str
    is_only_one: Callable[[], bool]

    @property
    def group(self) -> str:
        """The common prefix of the session names of processes with the same `place`."""
        return f"fraud_lakehouse {crc32(self.place.encode()):08x} "

    @property
    def application(self) -> str:
        """The `application_name` of this process's sessions."""
        return f"{self.group}{os.getpid()}"

    def end_predecessor(self, connection: psycopg.Connection[Any], slot: str, waited: float) -> None:
        """Terminate the session that reads the slot, if it belongs to a process that we have replaced.

        A role may end its own sessions.

        Args:
            waited: seconds for which the slot has been in use by another session.
        """
        if waited > PREDECESSOR_SECONDS and self.is_only_one():
            connection.execute(_END, (slot, self.group, self.application))
