"""Judging in the background worker: a thread that looks for transfers every second, and delays nothing else."""

from __future__ import annotations

import logging
import threading

from fraud_lakehouse.detection.validator.judging import LOCK, Judging, opened
from fraud_lakehouse.detection.validator.state import save_state
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.writer_lock import LockTakenError, writer_lock

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
REMOTE_POLL_SECONDS = 10.0
_LAST_ROUND_SECONDS = 5.0


class ValidatorWorker:
    """The judging thread; does nothing without FRAUD_VALIDATOR_URL. A context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why transfers are not judged now, for people."""

    def __enter__(self) -> ValidatorWorker:
        judging = opened(self._settings, Lake.at(self._settings.lake))
        if judging is not None:
            self._thread = threading.Thread(target=self._run, args=(judging,), name="validator", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_LAST_ROUND_SECONDS)  # answers that are not recorded are asked for again

    def _run(self, judging: Judging) -> None:
        pause = POLL_SECONDS if self._settings.is_local else REMOTE_POLL_SECONDS
        while not self._ended.is_set():
            recorded = self._step(judging)
            if not recorded:
                self._ended.wait(pause)
        judging.close()

    def _step(self, judging: Judging) -> int:
        before = self.problem, sum(judging.failures.values())
        try:
            with writer_lock(self._settings.work_dir, 0.0, LOCK):
                recorded = judging.step(self._ended.is_set)
            self.problem = judging.problem
        except LockTakenError:
            return 0  # another process judges
        except LakehouseError as error:
            self.problem, recorded = str(error), 0
        if self.problem is not None and self.problem != before[0]:
            log.warning("transfers are not judged: %s", self.problem)
        if (self.problem, sum(judging.failures.values())) != before:
            save_state(self._settings.work_dir, self.problem, judging.failures)
        return recorded
