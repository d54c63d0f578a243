"""What a landed micro-batch reports to whoever runs the cycle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Landed:
    """Rows that one commit put in one bronze table.

    Args:
        table: bronze table name.
        rows: number of rows, at least one.
        from_position: position before (PostgreSQL: end LSN; Kafka: sum of the partitions' first offsets).
        to_position: position after (PostgreSQL: end LSN; Kafka: sum of the partitions' next offsets).
        version: Delta version of the bronze table that contains the rows.
        newest_committed_at: newest commit (or record) time in the source, UTC; None if it has none.
        seconds: from asking the source until the rows were durable.
        source: "postgres", or the name of a topic's source.
        oldest_committed_at: oldest commit (or record) time in the source, likewise.
    """

    table: str
    rows: int
    from_position: int
    to_position: int
    version: int
    newest_committed_at: datetime | None
    seconds: float
    source: str
    oldest_committed_at: datetime | None = None

    @property
    def run_key(self) -> str:
        """Identity of the range, the same whenever the same range is landed."""
        return f"{self.table}:{self.from_position}-{self.to_position}"
