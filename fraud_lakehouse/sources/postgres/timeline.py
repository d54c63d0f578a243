"""The server's timeline: whether a promoted standby or a restored server has all the changes we have ingested.

A promotion or a point-in-time recovery begins a new timeline and keeps the system identifier. The new timeline's
history lists where it branched off each earlier one. Changes ingested beyond that point do not exist there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg import errors, pq

from fraud_lakehouse.sources.postgres.connection import PostgresConnector, wait_results
from fraud_lakehouse.sources.postgres.slot_state import parse_lsn

_NUMBER = """
select case when pg_is_in_recovery() then 0
            else ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int end
"""


@dataclass(frozen=True)
class Timeline:
    """A timeline and its ancestors.

    Args:
        number: 1 for a server that was never promoted or restored.
        branches: (ancestor, LSN of the branch), oldest first.
    """

    number: int
    branches: tuple[tuple[int, int], ...] = ()

    def left_at(self, earlier: Timeline) -> int | None:
        """The LSN at which this timeline branched off `earlier`; None if that is not an ancestor.

        For the same timeline (number and history), the greatest possible LSN.
        """
        shared = len(earlier.branches)
        if self.branches[:shared] != earlier.branches:
            return None
        if self.number == earlier.number and len(self.branches) == shared:
            return 2**63 - 1
        following = self.branches[shared : shared + 1]
        return following[0][1] if following and following[0][0] == earlier.number else None

    def detail(self) -> dict[str, Any]:
        """As stored in control/audit."""
        return {"timeline": self.number, "branches": [list(branch) for branch in self.branches]}

    @classmethod
    def of_detail(cls, detail: Mapping[str, Any]) -> Self | None:
        """From control/audit; None if the row has no timeline."""
        if "timeline" not in detail:
            return None
        return cls(int(detail["timeline"]), tuple((int(one), int(at)) for one, at in detail["branches"]))


def timeline_number(connection: psycopg.Connection[Any]) -> int:
    """The timeline that the server writes now; 0 on a standby."""
    row = connection.execute(_NUMBER).fetchone()
    assert row is not None
    return int(row[0])


def read_timeline(connector: PostgresConnector, number: int) -> Timeline:
    """A timeline with its history, from a file in the server's WAL folder.

    Raises:
        psycopg.Error: the file is gone, or the user lacks REPLICATION.
    """
    if number <= 1:
        return Timeline(number)
    with closing(connector.connect(replication=True)) as walsender:
        walsender.pgconn.send_query(b"TIMELINE_HISTORY %d" % number)
        result = wait_results(walsender)[-1]
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding="utf-8")
        content = result.get_value(0, 1) or b""
    return Timeline(number, history_branches(content.decode(errors="replace")))


def history_branches(content: str) -> tuple[tuple[int, int], ...]:
    """The branches in a history file: lines `timeline<tab>LSN<tab>reason`; comments begin with #."""
    lines = (line.split() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return tuple((int(fields[0]), parse_lsn(fields[1])) for fields in lines)
