"""`control/batches`: one row per ingested batch, and the durable position of each replication slot.

The slot's position (app_id `pg:<system id>:<slot>`) is committed after all bronze tables of a batch and before the slot
is acknowledged. If the slot has confirmed more, there is a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import polars as pl

from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.schemas import BATCHES


@dataclass(frozen=True)
class Batch:
    """One row of `control/batches`, without `landed_at`; times in UTC, `seconds` from reading to durable."""

    source: str
    app_id: str
    table: str
    from_position: int
    to_position: int
    rows: int
    newest_committed_at: datetime | None
    seconds: float


class Batches:
    """The table, kept open."""

    def __init__(self, lake: Lake) -> None:
        self._appender = Appender.open(lake, "control", "batches", BATCHES, numbered=False)  # several writers at once

    @property
    def version(self) -> int:
        """The Delta version that is loaded."""
        return self._appender.version

    def position(self, app_id: str) -> int | None:
        """The durable position of a slot; None if its snapshot never completed."""
        return self._appender.position(app_id)

    def refresh(self) -> None:
        """Load the commits of other writers."""
        self._appender.refresh()

    def commit(self, batches: Sequence[Batch], positions: Mapping[str, int]) -> int:
        """Commit rows and slot positions together, durably.

        Raises:
            ConcurrentWriterError: another writer moved a position; nothing was written.
            LakeError: the lake could not be written; the caller must not acknowledge.
        """
        now = datetime.now(UTC)
        rows = [{**asdict(batch), "landed_at": now} for batch in batches]
        return self._appender.append(pl.DataFrame(rows, schema=BATCHES), positions)

    def read(self) -> pl.DataFrame:
        """All rows (columns: `schemas.BATCHES`)."""
        return self._appender.read()
