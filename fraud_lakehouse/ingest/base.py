"""What every ingestion of a source offers to whoever repeats its steps: a live cycle, a run, a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fraud_lakehouse.ingest.landed import Landed


@dataclass(frozen=True)
class Waiting:
    """What a source still has.

    Args:
        rows: records beyond our position (Kafka); None where the source counts none.
        size: bytes of log beyond our position (PostgreSQL, other tables' included); None likewise.
        retained: bytes of log that the server keeps for us (PostgreSQL); None likewise.
        ends: where each part of the source ends (a partition's next offset, the log's end LSN), by its name.
    """

    rows: int | None = None
    size: int | None = None
    retained: int | None = None
    ends: Mapping[str, int] = field(default_factory=dict)


class SourceIngest(Protocol):
    """One database or topic, ingested exactly once. Connected at the first step; one instance per thread."""

    @property
    def name(self) -> str:
        """The source's name."""

    @property
    def update_delay(self) -> float:
        """Seconds between reads; 0: as rows come."""

    @property
    def due(self) -> float:
        """When a step has something to do although there is no data (monotonic clock)."""

    @property
    def has_observed(self) -> bool:
        """Whether the last step recorded that the source has nothing more: models have something new to read then."""

    def step(self, max_rows: int) -> list[Landed]:
        """Ingest one micro-batch of about `max_rows` rows; empty when the source is drained.

        Raises:
            SourceError: the source cannot be read; the next step starts again with the checks.
            GapError: rows are gone, or the source is another one; recorded in control/audit.
            ConcurrentWriterError: another writer was first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; nothing was acknowledged.
        """

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds for it.

        Raises:
            SourceError, GapError: the source says so.
        """

    def waiting(self) -> Waiting:
        """What the source still has beyond what was ingested.

        Raises:
            SourceError: it does not answer.
        """

    def position(self) -> Mapping[str, int]:
        """Up to where each part of it has been read, without asking (the parts are those of `Waiting.ends`)."""

    def be_patient(self, patient: bool) -> None:
        """Whether a step may wait for a server that is unreachable."""

    def close(self) -> None:
        """Close the connections; nothing needs to be saved."""
