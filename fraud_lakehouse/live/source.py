"""One source as the cycle sees it: whether it can be asked, one guarded step, and why it gives nothing.

A source that is away is asked again after growing pauses, and so is one that fails for a reason nobody thought of: that
is a defect, logged with its traceback. One with a gap waits for a person. None of them stops another.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakehouseError, SourceError
from fraud_lakehouse.ingest import Landed, SourceIngest, Waiting, open_ingest
from fraud_lakehouse.live.backlog import Backlog
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.configured import configured_sources
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, TurnTakenError, writer_lock
from fraud_lakehouse.transform.project import current_windows

log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
GAP_SECONDS = 5.0  # until a source with a gap is tried again: within it a command that resumes it takes effect
BUSY_SECONDS = 0.2  # how long a live step waits for another process that is landing this source


@dataclass
class Source:
    """One source: `problem` is why it gives nothing now.

    `is_shared` is true after a step in which another process was landing the same source: its rows are in bronze
    without our having landed them.
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
        """Whether it may be asked now."""
        return time.monotonic() >= self.retry_at

    def land(self, work: Path, rows: int, *, strict: bool = False) -> list[Landed]:
        """Land at most one micro-batch of about `rows` rows, in this source's turn; a defect is noted as its problem.

        Args:
            work: folder of the turns (`settings.work_dir`).
            strict: raise the source's error instead of noting it, and wait for the turn.

        Raises:
            LakeError: the lake cannot be written.
            GapError, SourceError, ConcurrentWriterError: with `strict`.
        """
        if not self.is_ready:
            return []
        self.ingest.be_patient(strict)
        self.is_shared = False
        try:
            with writer_lock(work, TURN_SECONDS if strict else BUSY_SECONDS, self.name):
                landed = self.ingest.step(rows)
        except TurnTakenError:
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
        return landed

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds; an error is noted and means no."""
        try:
            return self.ingest.wait(timeout)
        except BaseException as error:
            if not is_of_source(error):
                raise
            if is_defect(error):
                self.ingest.close()  # the next step goes on from the lake's position, as a new process does
            self._note(error)
            return False

    def backlog(self) -> Waiting | None:
        """What the source still has beyond what was landed; None when it does not answer."""
        try:
            return self.ingest.waiting()
        except BaseException as error:
            if not is_of_source(error):
                raise
            log.info("%s does not say how far it is behind: %s", self.name, error, exc_info=is_defect(error))
            return None

    def tell(self, backlog: Backlog) -> None:
        """Let a backlog know what the source still has, if it answers; else its last answer grows old."""
        if (waiting := self.backlog()) is not None:
            backlog.at_source(self.name, waiting, self.ingest.position())

    def _note(self, error: BaseException) -> None:
        self.problem = f"{type(error).__name__}: {error}" if is_defect(error) else str(error)
        # Only a person can say that a gap is acceptable: whether somebody has is found out by trying again.
        pauses = (GAP_SECONDS,) if isinstance(error, GapError) else RETRY_SECONDS
        self.retry_at = time.monotonic() + pauses[min(self.failures, len(pauses) - 1)]
        self.failures += 1
        level = logging.ERROR if type(error) is not self._noted else logging.DEBUG
        self._noted = type(error)
        log.log(level, "%s: %s", self.name, error, exc_info=error if is_defect(error) else None)


def is_defect(error: BaseException) -> bool:
    """Whether it is an error that nobody raised on purpose; a panic of a Rust library is no Exception."""
    return not isinstance(error, (LakehouseError, KeyboardInterrupt, SystemExit))


def is_of_source(error: BaseException) -> bool:
    """Whether an error of a step is its source's alone; one of the lake, or a request to end, is everybody's."""
    return is_defect(error) or isinstance(error, (SourceError, GapError, ConcurrentWriterError))


def sources(settings: Settings, lake: Lake) -> list[Source]:
    """The configured sources; nothing is connected yet.

    Raises:
        PipelineError, SettingsError: the pipeline or a connection has mistakes.
    """
    configs = configured_sources(settings).values()
    return [Source(open_ingest(config, settings, lake, partial(current_windows, settings))) for config in configs]
