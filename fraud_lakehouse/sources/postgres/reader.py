"""The process that reads a slot, by the names of its sessions: its successor may end them.

The server goes on sending to a process that is stopped, and the slot is in use for as long.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import psycopg

PREDECESSOR_SECONDS = 2.0  # for a session that ends by itself, or only asks whether there is something new
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
        place: the machine and work folder that it shares with those it may replace.
        is_only_one: whether no other process of that place may read the slot now.
    """

    place: str
    is_only_one: Callable[[], bool]

    @property
    def group(self) -> str:
        """How the names of the sessions of such processes begin."""
        return f"fraud_lakehouse {crc32(self.place.encode()):08x} "

    @property
    def application(self) -> str:
        """How the sessions of this process are named (`application_name`)."""
        return f"{self.group}{os.getpid()}"

    def end_predecessor(self, connection: psycopg.Connection[Any], slot: str, waited: float) -> None:
        """Let the server end the session that reads the slot, if it is of a process that we have replaced.

        A role may end its own sessions.

        Args:
            waited: seconds for which the slot has been in use by somebody else.
        """
        if waited > PREDECESSOR_SECONDS and self.is_only_one():
            connection.execute(_END, (slot, self.group, self.application))
