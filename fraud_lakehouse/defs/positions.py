"""What a sensor sees of a source: whether it holds data beyond the lake's position, and that range as a name.

Positions only, never rows. The range names the run that will land it, so the same data twice is one run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraud_lakehouse.errors import LakehouseError

if TYPE_CHECKING:
    from fraud_lakehouse.settings import Settings

MOST_PARTITIONS_NAMED = 8


@dataclass(frozen=True)
class NewData:
    """A range of positions a source holds and the lake does not.

    `subject` is the source ("postgres") or topic; `range` is `0/16B3748-0/16B5F10` or `0:100-250,1:90-200`.
    """

    subject: str
    range: str

    @property
    def run_key(self) -> str:
        """The name of the run that lands this range."""
        return f"{self.subject}:{self.range}"


def lsn_range(start: int, end: int) -> str:
    """A range of PostgreSQL log positions in PostgreSQL's own notation."""
    return f"{_lsn(start)}-{_lsn(end)}"


def offset_range(offsets: dict[int, tuple[int, int]]) -> str:
    """A range of offsets per partition; of many partitions the count of records and a digest of all ranges."""
    parts = [f"{partition}:{start}-{end}" for partition, (start, end) in sorted(offsets.items()) if end > start]
    if len(parts) <= MOST_PARTITIONS_NAMED:
        return ",".join(parts)
    digest = hashlib.sha256(",".join(parts).encode()).hexdigest()[:16]
    return f"{sum(end - start for start, end in offsets.values())}-records-{digest}"


def new_data(source: str, settings: Settings) -> NewData | None:
    """What the source ("postgres" or "kafka") holds beyond the lake; None if nothing.

    Raises:
        LakehouseError: the source or the lake cannot be asked.
    """
    raise LakehouseError(f"{source}: not wired yet")


def _lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
