"""One thread per source ingests its rows as they come, so that no source waits for another or for a build.

A snapshot of one source, an unreachable server or a slow build delays neither another source nor the alerts for rows
already in bronze.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fraud_lakehouse.ingest import Ingested
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.live.source import Source

LOOK_SECONDS = 5.0  # longest time between steps, with data or without: lets the server recycle other tables' log
WAKE_SECONDS = 0.2  # how long a thread waits for data before it checks whether it should end
BACKLOG_SECONDS = 5.0  # between two requests for a source's backlog
AWAY_SECONDS = 15.0  # without an answer, after which the source is reported as unreachable
PACE_SECONDS = 0.3  # between two commits of a source: with smaller batches, commit overhead exceeds the latency gained
LONGEST_PACE_SECONDS = 1.0  # the same while the loop is busy with earlier batches
GATHER_SECONDS = 0.1  # how long a batch waits for another source's batch that is being ingested
_NEWEST_SHARE = 0.3  # weight of the newest duration in the moving average


class IngestQueue:
    """Batches that the threads have ingested and the loop has not taken yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_wanted = False
        self._ingesting = 0
        self._taken_at = 0.0
        self._busy_seconds = 0.0  # moving average of how long the loop is busy with a batch
        self._ingested: list[Ingested] = []
        self._is_shared = False
        self._error: BaseException | None = None

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        """Context in which a batch is being ingested, to be `put`."""
        with self._changed:
            self._ingesting += 1
        try:
            yield
        finally:
            with self._changed:
                self._ingesting -= 1
                self._changed.notify_all()

    def put(self, ingested: Sequence[Ingested], *, is_shared: bool = False) -> None:
        """Add batches. `is_shared`: the lake has other news: rows of another process, or an idle topic."""
        with self._changed:
            self._ingested += ingested
            self._is_shared |= is_shared
            self._changed.notify_all()

    @property
    def is_waiting(self) -> bool:
        """Whether a batch waits to be taken."""
        with self._changed:
            return bool(self._ingested) or self._is_shared

    def fail(self, error: BaseException) -> None:
        """End the loop with this error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, timeout: float) -> tuple[list[Ingested], bool]:
        """Everything ingested since the last call, waiting at most `timeout` seconds for the first; and `is_shared`.

        Raises:
            LakeError: a thread could not write the lake. Other errors that ended a thread are raised as they are.
        """
        with self._changed:
            if self._taken_at:
                self._busy_seconds += _NEWEST_SHARE * (time.monotonic() - self._taken_at - self._busy_seconds)
                self._taken_at = 0.0
            self._is_wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ingested or self._is_shared or self._error, timeout)
            if self._ingested:
                self._changed.wait_for(lambda: not self._ingesting or self._error, GATHER_SECONDS)
            self._is_wanted = False
            if self._error is not None:
                raise self._error
            ingested, self._ingested = self._ingested, []
            is_shared, self._is_shared = self._is_shared, False
            self._taken_at = time.monotonic() if ingested else 0.0
            return ingested, is_shared

    def wait_for_demand(self, lead: float, until: float) -> None:
        """Wait until the loop is idle or will be in `lead` seconds, at most until `until` (monotonic clock).

        A batch ingested earlier would only wait, and later rows would need another batch.
        """
        with self._changed:
            while not (self._is_wanted or self._error):
                ready = self._taken_at + self._busy_seconds - lead if self._taken_at else until
                left = min(until, ready) - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)


class Capturing:
    """Captures the sources in threads while the context is open.

    Args:
        sources: what to capture; nobody else may use them meanwhile.
        work: folder of the locks.
        rows: approximate maximum of a micro-batch; ingestion also pauses while this many rows are unscored.
    """

    def __init__(self, sources: Sequence[Source], work: Path, rows: int) -> None:
        self.ingest_queue = IngestQueue()
        self.backlog = Backlog({source.name: source.ingest.update_delay for source in sources}, AWAY_SECONDS)
        self._work = work
        self._rows = rows
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(source,), name=f"capture {source.name}", daemon=True)
            for source in sources
        ]

    def __enter__(self) -> IngestQueue:
        for thread in self._threads:
            thread.start()
        return self.ingest_queue

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _follow(self, source: Source) -> None:
        try:
            self._capture(source)
        except BaseException as error:  # noqa: BLE001  # the loop raises it; a Rust library's panic is not an Exception
            self.ingest_queue.fail(error)

    def _capture(self, source: Source) -> None:
        poll_at, request_at, lead = 0.0, 0.0, 0.0
        drain_at = 0.0
        drain: tuple[float, datetime] | None = None  # in progress: when the next one is due, when this one began
        while not self._ending.is_set():
            if time.monotonic() < drain_at and not source.problem:
                self._ending.wait(WAKE_SECONDS)
                continue
            is_full = self.backlog.is_full(source.name, self._rows)
            if is_full and time.monotonic() >= request_at:
                request_at = time.monotonic() + BACKLOG_SECONDS
                source.tell(self.backlog)
            if is_full or not source.is_ready:
                self._ending.wait(WAKE_SECONDS)
                continue
            # After an error, a step finds out whether the source works again.
            has_data = source.wait(WAKE_SECONDS) or source.problem
            if not has_data and time.monotonic() < min(poll_at, source.ingest.due):
                self.backlog.read(source.name, source.ingest.position())
                continue
            began = time.monotonic()
            drain = drain or (began + source.ingest.update_delay, datetime.now(UTC))
            poll_at = began + LOOK_SECONDS
            with self.ingest_queue.ingesting():
                ingested = source.land(self._work, self._rows)
                self.backlog.ingested(ingested)
                is_shared = source.is_shared or (not ingested and source.ingest.has_observed)
                if ingested or is_shared:
                    self.ingest_queue.put(ingested, is_shared=is_shared)
            if not source.problem:
                self.backlog.read(source.name, source.ingest.position())
                if began >= request_at:
                    source.tell(self.backlog)
                    request_at = began + BACKLOG_SECONDS
            if ingested:
                lead += _NEWEST_SHARE * (time.monotonic() - began - lead)
            if not may_have_more(ingested, drain[1], self._rows):
                drain_at, drain = drain[0], None
            if sum(batch.rows for batch in ingested) < self._rows:  # after a full batch, more rows are waiting
                self._ending.wait(max(0.0, began + PACE_SECONDS - time.monotonic()))
                self.ingest_queue.wait_for_demand(lead, began + LONGEST_PACE_SECONDS)


def may_have_more(ingested: Sequence[Ingested], began: datetime, rows: int) -> bool:
    """Whether sources may have more of the rows they had when a drain began; later rows belong to the next drain.

    Args:
        landed: the batches of a step.
        began: start of the drain (UTC).
        rows: size of a full micro-batch.
    """
    is_full = sum(batch.rows for batch in ingested) >= rows
    return is_full or any(batch.newest_committed_at is None or batch.newest_committed_at < began for batch in ingested)
