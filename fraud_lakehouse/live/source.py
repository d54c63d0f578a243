"""One source as the cycle sees it: whether it can be asked, one guarded step, and why it gives nothing.

A source that is away is asked again after growing pauses, and so is one that fails for a reason nobody thought of: that
is a defect, logged with its traceback. One with a gap waits for a person. None of them stops another.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from fraud_lakehouse.errors import ConcurrentWriterError, GapError, LakehouseError, SourceError
from fraud_lakehouse.ingest import KafkaIngest, Landed, PostgresIngest
from fraud_lakehouse.live.backlog import Backlog, Waiting
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.capture import KafkaLag
from fraud_lakehouse.sources.postgres.lag import PostgresLag
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import TURN_SECONDS, TurnTakenError, writer_lock
from fraud_lakehouse.transform.project import current_windows

log = logging.getLogger(__name__)

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
GAP_SECONDS = 5.0  # until a source with a gap is tried again: within it a command that resumes it takes effect
KAFKA_PATIENCE = 0.05  # seconds a step waits for a first record; waiting for data is `wait`'s part
LOG = "log"  # the one part of PostgreSQL
BUSY_SECONDS = 0.2  # how long a live step waits for another process that is landing this source


class Waitable(Protocol):
    """A capture that can say whether its source has data."""

    def wait(self, timeout: float) -> bool:
        """Whether there is data, waiting at most `timeout` seconds for it."""


@dataclass
class Source:
    """One source: `problem` is why it gives nothing now.

    `waiting` asks the source what it still has; `position` is up to where each part of it has been read, without asking
    (the parts are those of `Waiting.ends`). `due` is when a step has something to do although there is no data
    (monotonic clock). `be_patient` says whether a step may wait for a server that is away.
    `is_shared` is true after a step in which another process was landing the same source: its rows are in bronze
    without our having landed them. `has_observed` says whether the last step recorded that the source has nothing more:
    models have something new to read then too (ingest/idle_partitions.py).
    """

    name: str
    step: Callable[[int], list[Landed]]
    capture: Waitable
    close: Callable[[], None]
    waiting: Callable[[], Waiting] = Waiting
    position: Callable[[], Mapping[str, int]] = dict
    due: Callable[[], float] = lambda: math.inf
    be_patient: Callable[[bool], None] = lambda patient: None
    has_observed: Callable[[], bool] = lambda: False
    problem: str | None = None
    is_shared: bool = False
    failures: int = 0
    retry_at: float = 0.0
    _noted: type[BaseException] | None = None

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
        self.be_patient(strict)
        self.is_shared = False
        try:
            with writer_lock(work, TURN_SECONDS if strict else BUSY_SECONDS, self.name):
                landed = self.step(rows)
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
            return self.capture.wait(timeout)
        except BaseException as error:
            if not is_of_source(error):
                raise
            if is_defect(error):
                self.close()  # the next step goes on from the lake's position, as a new process does
            self._note(error)
            return False

    def backlog(self) -> Waiting | None:
        """What the source still has beyond what was landed; None when it does not answer."""
        try:
            return self.waiting()
        except BaseException as error:
            if not is_of_source(error):
                raise
            log.info("%s does not say how far it is behind: %s", self.name, error, exc_info=is_defect(error))
            return None

    def tell(self, backlog: Backlog) -> None:
        """Let a backlog know what the source still has, if it answers; else its last answer grows old."""
        if (waiting := self.backlog()) is not None:
            backlog.at_source(self.name, waiting, self.position())

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


def sources(settings: Settings, lake: Lake) -> Iterator[Source]:
    """The configured sources; nothing is connected yet."""
    if settings.postgres_dsn is not None:
        postgres = PostgresIngest(settings, lake)
        yield Source(
            "postgres",
            postgres.step,
            postgres.capture,
            postgres.close,
            lambda: postgres_waiting(postgres.capture.lag()),
            lambda: {LOG: postgres.capture.seen_lsn},
            lambda: postgres.look_due,
            postgres.capture.be_patient,
        )
    if settings.kafka_bootstrap_servers is not None:
        kafka = KafkaIngest(settings, lake, windows=partial(current_windows, settings))
        yield Source(
            "kafka",
            lambda rows: kafka.step(rows, KAFKA_PATIENCE),
            kafka.capture,
            kafka.close,
            lambda: kafka_waiting(kafka.capture.lag()),
            kafka.capture.passed,
            be_patient=kafka.capture.be_patient,
            has_observed=lambda: kafka.has_observed,
        )


def postgres_waiting(lag: PostgresLag) -> Waiting:
    """What the log still holds beyond the slot's position."""
    return Waiting(size=lag.bytes_behind, retained=lag.retained_bytes, ends={LOG: lag.current_lsn})


def kafka_waiting(lag: KafkaLag) -> Waiting:
    """What the topic still holds; of partitions that are read to the end, no end."""
    return Waiting(rows=lag.rows, ends={app_id: part.end for app_id, part in lag.partitions.items() if part.rows})
