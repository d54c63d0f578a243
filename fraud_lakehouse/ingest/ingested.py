"""The report of an ingested micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Ingested:
    """Rows that one commit added to one bronze table.

    Args:
        table: bronze table name.
        rows: number of rows, at least one.
        from_position: position before (PostgreSQL: end LSN; Kafka: sum of the partitions' first offsets).
        to_position: position after (PostgreSQL: end LSN; Kafka: sum of the partitions' next offsets).
        version: Delta version of the bronze table that contains the rows.
        newest_committed_at: newest commit (or record) time in the source, UTC; None if it has none.
        seconds: from the request to the source until the rows were durable.
        source: name of the database or topic in the pipeline.
        oldest_committed_at: oldest commit (or record) time in the source, UTC; None if it has none.
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
        """Identity of the range: the same range always has the same key."""
        return f"{self.table}:{self.from_position}-{self.to_position}"
