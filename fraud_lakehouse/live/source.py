"""One source as the cycle uses it: whether it may be polled, one guarded step, and its current problem.

An unreachable source is retried after growing pauses, and so is one with an unexpected error, which is a defect and
logged with its traceback. A source with a gap waits for a person. No source stops another.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakehouseError, SourceError
from fraud_lakehouse.ingest import Ingested, SourceIngest, Waiting, open_ingest
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, LockTakenError, writer_lock
from fraud_lakehouse.transform.project import current_windows

log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
GAP_SECONDS = 5.0  # until a source with a gap is retried: a command that resumes it takes effect within this time
BUSY_SECONDS = 0.2  # how long a live step waits for another process that ingests this source


@dataclass
class Source:
    """One source; `problem` is why it delivers nothing now.

    `is_shared` is true after a step in which another process was ingesting the same source: bronze may have rows that
    this process did not ingest.
    """

    ingest: SourceIngest
    problem: str | None = None
    is_shared: bool = False
    failures: int = 0
    retry_at: float = 0.0
    _noted: type[BaseException] | None = None

    @property
    def name(self) -> str:
        """The source's name."""
        return self.ingest.name

    @property
    def is_ready(self) -> bool:
        """Whether it may be polled now."""
        return time.monotonic() >= self.retry_at

    def land(self, work: Path, rows: int, *, strict: bool = False) -> list[Ingested]:
        """Ingest one micro-batch of at most about `rows` rows under this source's lock.

        Args:
            work: folder of the locks (`settings.work_dir`).
            strict: raise the source's error and wait for the lock; otherwise the error is recorded as `problem`.

        Raises:
            LakeError: the lake cannot be written.
            GapError, SourceError, ConcurrentWriterError: with `strict`.
        """
        if not self.is_ready:
            return []
        self.ingest.set_blocking(strict)
        self.is_shared = False
        try:
            with writer_lock(work, TURN_SECONDS if strict else BUSY_SECONDS, self.name):
                ingested = self.ingest.step(rows)
        except LockTakenError:
            if strict:
                raise
            self.is_shared = True
            return []
        except BaseException as error:
            if strict or not is_of_source(error):
                raise
            self._note(error)
            return []
        self.problem, self.failures, self._noted = None, 0, None
        return ingested

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds; an error is recorded and means no."""
        try:
            return self.ingest.wait(timeout)
        except BaseException as error:
            if not is_of_source(error):
                raise
            if is_defect(error):
                self.ingest.close()  # the next step continues from the lake's position, as a new process would
            self._note(error)
            return False

    def backlog(self) -> Waiting | None:
        """What the source still has beyond what is ingested; None if it does not answer."""
        try:
            return self.ingest.waiting()
        except BaseException as error:
            if not is_of_source(error):
                raise
            log.info("the backlog of %s is unknown: %s", self.name, error, exc_info=is_defect(error))
            return None

    def tell(self, backlog: Backlog) -> None:
        """Record in a backlog what the source still has, if it answers; otherwise its last answer grows old."""
        if (waiting := self.backlog()) is not None:
            backlog.at_source(self.name, waiting, self.ingest.position())

    def _note(self, error: BaseException) -> None:
        self.problem = f"{type(error).__name__}: {error}" if is_defect(error) else str(error)
        # Only a person can accept a gap; the next attempt finds out whether somebody has.
        pauses = (GAP_SECONDS,) if isinstance(error, GapError) else RETRY_SECONDS
        self.retry_at = time.monotonic() + pauses[min(self.failures, len(pauses) - 1)]
        self.failures += 1
        level = logging.ERROR if type(error) is not self._noted else logging.DEBUG
        self._noted = type(error)
        log.log(level, "%s: %s", self.name, error, exc_info=error if is_defect(error) else None)


def is_defect(error: BaseException) -> bool:
    """Whether it is an error that nobody raised on purpose; a panic of a Rust library is not an Exception."""
    return not isinstance(error, (LakehouseError, KeyboardInterrupt, SystemExit))


def is_of_source(error: BaseException) -> bool:
    """Whether a step's error concerns only its source; errors of the lake and requests to end concern everything."""
    return is_defect(error) or isinstance(error, (SourceError, GapError, ConcurrentWriterError))


def sources(settings: Settings, lake: Lake) -> list[Source]:
    """The configured sources; none is connected yet.

    Raises:
        PipelineError, SettingsError: the pipeline or a connection has mistakes.
    """
    configs = configured_sources(settings).values()
    return [Source(open_ingest(config, settings, lake, partial(current_windows, settings))) for config in configs]
