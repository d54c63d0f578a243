"""The interface of every ingestion of a source, used by live cycles, runs and commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fraud_lakehouse.ingest.ingested import Ingested


@dataclass(frozen=True)
class Waiting:
    """The backlog of a source.

    Args:
        rows: records beyond our position (Kafka); None if not applicable.
        size: bytes of log beyond our position (PostgreSQL, all tables); None if not applicable.
        retained: bytes of log that the server retains for us (PostgreSQL); None if not applicable.
        ends: the end of each partition (next offset) or log (end LSN), by its name.
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
        """Seconds between reads; 0 reads as soon as there are rows."""

    @property
    def due(self) -> float:
        """When a step has something to do even without data (monotonic clock)."""

    @property
    def has_observed(self) -> bool:
        """Whether the last step recorded a heartbeat of an idle source, which is new input for models."""

    def step(self, max_rows: int) -> list[Ingested]:
        """Ingest one micro-batch of about `max_rows` rows; empty when the source is drained.

        Raises:
            SourceError: the source cannot be read; the next step repeats the checks.
            GapError: rows are lost, or the source is another one; recorded in control/audit.
            ConcurrentWriterError: another writer committed first; nothing was written twice, the next step continues.
            LakeError: the lake could not be written; nothing was acknowledged.
        """

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds for it.

        Raises:
            SourceError, GapError: as `step`.
        """

    def waiting(self) -> Waiting:
        """The backlog: what the source has beyond what was ingested.

        Raises:
            SourceError: it is unreachable.
        """

    def position(self) -> Mapping[str, int]:
        """The position read so far, by the names in `Waiting.ends`; sends no request."""

    def set_blocking(self, blocking: bool) -> None:
        """Whether a step blocks while the server is unreachable; otherwise it fails fast."""

    def close(self) -> None:
        """Close the connections; nothing needs to be saved."""
