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

from fraud_lakehouse.ingest import Landed
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


class Landings:
    """Batches that the threads have ingested and the loop has not taken yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_wanted = False
        self._landing = 0
        self._taken_at = 0.0
        self._busy_seconds = 0.0  # moving average of how long the loop is busy with a batch
        self._landed: list[Landed] = []
        self._is_shared = False
        self._error: BaseException | None = None

    @contextmanager
    def landing(self) -> Iterator[None]:
        """Context in which a batch is being ingested, to be `put`."""
        with self._changed:
            self._landing += 1
        try:
            yield
        finally:
            with self._changed:
                self._landing -= 1
                self._changed.notify_all()

    def put(self, landed: Sequence[Landed], *, is_shared: bool = False) -> None:
        """Add batches. `is_shared`: the lake has other news: rows of another process, or an idle topic."""
        with self._changed:
            self._landed += landed
            self._is_shared |= is_shared
            self._changed.notify_all()

    @property
    def is_waiting(self) -> bool:
        """Whether a batch waits to be taken."""
        with self._changed:
            return bool(self._landed) or self._is_shared

    def fail(self, error: BaseException) -> None:
        """End the loop with this error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, timeout: float) -> tuple[list[Landed], bool]:
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
            self._changed.wait_for(lambda: self._landed or self._is_shared or self._error, timeout)
            if self._landed:
                self._changed.wait_for(lambda: not self._landing or self._error, GATHER_SECONDS)
            self._is_wanted = False
            if self._error is not None:
                raise self._error
            landed, self._landed = self._landed, []
            is_shared, self._is_shared = self._is_shared, False
            self._taken_at = time.monotonic() if landed else 0.0
            return landed, is_shared

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
        self.landings = Landings()
        self.backlog = Backlog({source.name: source.ingest.update_delay for source in sources}, AWAY_SECONDS)
        self._work = work
        self._rows = rows
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(source,), name=f"capture {source.name}", daemon=True)
            for source in sources
        ]

    def __enter__(self) -> Landings:
        for thread in self._threads:
            thread.start()
        return self.landings

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _follow(self, source: Source) -> None:
        try:
            self._capture(source)
        except BaseException as error:  # noqa: BLE001  # the loop raises it; a Rust library's panic is not an Exception
            self.landings.fail(error)

    def _capture(self, source: Source) -> None:
        look_at, ask_at, lead = 0.0, 0.0, 0.0
        drain_at = 0.0
        drain: tuple[float, datetime] | None = None  # in progress: when the next one is due, when this one began
        while not self._ending.is_set():
            if time.monotonic() < drain_at and not source.problem:
                self._ending.wait(WAKE_SECONDS)
                continue
            is_full = self.backlog.is_full(source.name, self._rows)
            if is_full and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + BACKLOG_SECONDS
                source.tell(self.backlog)
            if is_full or not source.is_ready:
                self._ending.wait(WAKE_SECONDS)
                continue
            # After an error, a step finds out whether the source works again.
            has_data = source.wait(WAKE_SECONDS) or source.problem
            if not has_data and time.monotonic() < min(look_at, source.ingest.due):
                self.backlog.read(source.name, source.ingest.position())
                continue
            began = time.monotonic()
            drain = drain or (began + source.ingest.update_delay, datetime.now(UTC))
            look_at = began + LOOK_SECONDS
            with self.landings.landing():
                landed = source.land(self._work, self._rows)
                self.backlog.landed(landed)
                is_shared = source.is_shared or (not landed and source.ingest.has_observed)
                if landed or is_shared:
                    self.landings.put(landed, is_shared=is_shared)
            if not source.problem:
                self.backlog.read(source.name, source.ingest.position())
                if began >= ask_at:
                    source.tell(self.backlog)
                    ask_at = began + BACKLOG_SECONDS
            if landed:
                lead += _NEWEST_SHARE * (time.monotonic() - began - lead)
            if not may_have_more(landed, drain[1], self._rows):
                drain_at, drain = drain[0], None
            if sum(batch.rows for batch in landed) < self._rows:  # after a full batch, more rows are waiting
                self._ending.wait(max(0.0, began + PACE_SECONDS - time.monotonic()))
                self.landings.wait_for_demand(lead, began + LONGEST_PACE_SECONDS)


def may_have_more(landed: Sequence[Landed], began: datetime, rows: int) -> bool:
    """Whether sources may have more of the rows they had when a drain began; later rows belong to the next drain.

    Args:
        landed: the batches of a step.
        began: start of the drain (UTC).
        rows: size of a full micro-batch.
    """
    is_full = sum(batch.rows for batch in landed) >= rows
    return is_full or any(batch.newest_committed_at is None or batch.newest_committed_at < began for batch in landed)
