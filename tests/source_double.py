"""A source in memory, with the interface that every ingestion of a source has."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fraud_lakehouse.ingest import Ingested, Waiting


class SourceDouble:
    """A `SourceIngest` without a server: it has no data and nothing to do. Tests override what they need."""

    def __init__(self, name: str, update_delay: float = 0.0) -> None:
        self.name = name
        self.update_delay = update_delay
        self.due = math.inf
        self.has_observed = False
        self.is_closed = False

    def step(self, max_rows: int) -> list[Ingested]:
        """Nothing to ingest."""
        return []

    def wait(self, timeout: float) -> bool:
        """No data."""
        return False

    def waiting(self) -> Waiting:
        """Nothing is known of it."""
        return Waiting()

    def position(self) -> Mapping[str, int]:
        """No parts."""
        return {}

    def set_blocking(self, blocking: bool) -> None:
        """There is no server to wait for."""

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True
