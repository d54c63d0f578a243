"""The background worker: builds deferred models when something is new, and does daily maintenance.

It also compiles a changed dbt project, so that the fast path can adopt it without waiting for dbt. It runs at low
priority, so that the cycle gets the processor first. `background.py` is the cycle's side of it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict
from typing import Any, TextIO

from fraud_lakehouse.detection.validator import TABLE as JUDGEMENTS
from fraud_lakehouse.detection.validator import ValidatorWorker
from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.failpoints import arm_from
from fraud_lakehouse.ingest.idle_partitions import TABLE as OBSERVATIONS
from fraud_lakehouse.live.duty_cycle import Rest
from fraud_lakehouse.live.problems import broken_models
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sinks.kafka.background import PublishWorker
from fraud_lakehouse.storage.lake import Lake
from fraud_lakehouse.storage.lease import BEAT_SECONDS, is_stuck, progress, watched
from fraud_lakehouse.storage.maintenance import DailyUpkeep
from fraud_lakehouse.storage.new_rows import NewRows
from fraud_lakehouse.storage.writer_lock import BESIDE, TURN_SECONDS, writer_lock
from fraud_lakehouse.transform.runner import Transformer

LANES = ("replica", "features")
_FURTHER = {"observations": OBSERVATIONS, "judgements": JUDGEMENTS}
"""Tables that deferred models read and the cycle does not write, by component."""
PROJECT_SECONDS = 2.0
AFTER_FAILURE_SECONDS = (5.0, 15.0, 60.0, 300.0)  # until a tier with a failed model is built again
_NICE = 19


class _Changes(threading.Thread):
    """Reads the parent's lines: each sets `changed`; the end of the parent sets `ended`."""

    def __init__(self, lines: TextIO) -> None:
        super().__init__(name="changes", daemon=True)
        self._lines = lines
        self.changed = threading.Event()
        self.ended = threading.Event()

    def run(self) -> None:
        """Read until the parent closes its end."""
        for _ in self._lines:
            self.changed.set()
        self.ended.set()
        self.changed.set()


class _Answers:
    """Sends messages to the parent: one JSON object a line, and an empty object as a heartbeat."""

    def __init__(self, say: TextIO) -> None:
        self._announce = say
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="answers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the heartbeats."""
        self._ended.set()
        self._thread.join(BEAT_SECONDS)

    def send(self, answer: dict[str, Any]) -> None:
        """Write one object.

        Raises:
            BrokenPipeError: the parent has ended.
        """
        with self._lock:
            self._announce.write(json.dumps(answer) + "\n")
            self._announce.flush()

    def _beat(self) -> None:
        with suppress(BrokenPipeError, ValueError):  # the parent has ended, or the stream is closed
            while not self._ended.wait(BEAT_SECONDS):
                if not is_stuck():
                    self.send({})


class _EndedError(Exception):
    """The parent has ended, or wants this process to end."""


def serve(settings: Settings, lines: TextIO, say: TextIO, publishing: PublishWorker, judging: ValidatorWorker) -> None:
    """Build deferred models after a change, at most every `replica_interval` seconds, until `lines` ends."""
    changes = _Changes(lines)
    changes.start()
    with (
        closing(_Answers(say)) as answers,
        closing(Transformer(settings)) as transformer,
        suppress(_EndedError),
        watched(),
    ):
        work = _Work(settings, transformer, changes, answers)
        while True:
            work.step({"publish": publishing.problem, "validator": judging.problem})


class _Work:
    """The repeated work of the background worker, and its current problems."""

    def __init__(self, settings: Settings, transformer: Transformer, changes: _Changes, answers: _Answers) -> None:
        self._settings = settings
        self._transformer = transformer
        self._changes = changes
        self._answers = answers
        self._daily = DailyUpkeep(Lake.at(settings.lake))
        lake = Lake.at(settings.lake)
        self._further = {name: NewRows(lake, table) for name, table in _FURTHER.items()}
        self._problems: dict[str, str] = {}
        self._broken: dict[str, dict[str, str]] = {}  # by tier
        self._rest = Rest(settings.work_dir)
        self._failures = 0

    def step(self, threads: Mapping[str, str | None]) -> None:
        """Build the deferred models if they are due; otherwise maintain tables and wait a moment.

        Args:
            threads: why features are not published, or transfers not judged, by component.

        Raises:
            _EndedError: the parent has ended.
        """
        self._go_on()
        for part, problem in threads.items():
            self._note(part, problem)
        is_first = not self._transformer.is_ready
        if self._accept():
            self._changes.changed.set()
            if not is_first:
                self._rest.end()
        if self._has_further():
            self._changes.changed.set()
        if self._changes.changed.is_set() and self._rest.is_over and self._transformer.is_ready:
            self._build()
        else:
            self._notify({})
            self._keep_up(idle=not self._changes.changed.is_set())
            self._changes.ended.wait(PROJECT_SECONDS)

    def _build(self) -> None:
        self._changes.changed.clear()
        began, used = time.monotonic(), time.process_time()
        for tier in LANES:
            built: dict[str, Any] = {}
            try:
                with self._work_lock():
                    result = self._transformer.build_tier(tier)
            except LakehouseError as error:
                self._broken[tier] = {f"lane {tier}": str(error)}
            else:
                self._broken[tier] = broken_models(result.failed_models)
                built = {"seconds": result.seconds, "nodes": [asdict(node) for node in result.nodes]}
            self._notify(built)
            self._go_on()
        worked = max(time.monotonic() - began, time.process_time() - used)
        pause = max(self._settings.replica_interval, self._settings.update_delay)
        if any(self._broken.values()):
            self._changes.changed.set()  # so that they are built again
            pause = max(pause, AFTER_FAILURE_SECONDS[min(self._failures, len(AFTER_FAILURE_SECONDS) - 1)])
            self._failures += 1
        else:
            self._failures = 0
        self._rest.begin(worked, pause)

    def _accept(self) -> bool:
        """Adopt a changed project, or record why it is invalid."""
        try:
            is_new = self._transformer.reload()
        except LakehouseError as error:
            self._note("project", str(error))
            return False
        self._note("project", None)
        return is_new

    def _has_further(self) -> bool:
        """Whether a topic was found idle, or transfers were judged: no row of a source signals that."""
        has_new = False
        for name, table in self._further.items():
            try:
                found = table.read()
            except LakehouseError as error:
                self._note(name, str(error))
            else:
                self._note(name, None)
                has_new |= found.rows is not None or not found.only_new
        return has_new

    def _keep_up(self, *, idle: bool) -> None:
        """Maintain a table if one is due."""
        try:
            with self._work_lock():
                self._daily.step(idle=idle)
        except LakehouseError as error:
            self._note("upkeep", str(error))
        else:
            self._note("upkeep", None)

    def _work_lock(self) -> AbstractContextManager[object]:
        return writer_lock(self._settings.work_dir, TURN_SECONDS, BESIDE, self._go_on)

    def _go_on(self) -> None:
        progress()
        if self._changes.ended.is_set():
            raise _EndedError

    def _note(self, part: str, problem: str | None) -> None:
        if problem is None:
            self._problems.pop(part, None)
        else:
            self._problems[part] = problem

    def _notify(self, answer: dict[str, Any]) -> None:
        broken = {part: why for tier in self._broken.values() for part, why in tier.items()}
        self._answers.send({"problems": {**self._problems, **broken}, **answer})


def main() -> None:
    """Run the worker: settings from the environment, changes from standard input, messages to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(_NICE)
    answers, sys.stdout = sys.stdout, sys.stderr  # dbt prints to standard output: it must not mix with the messages
    settings = load_settings()
    if settings.failpoint:
        arm_from(settings.failpoint)
    try:
        with PublishWorker(settings) as publishing, ValidatorWorker(settings) as judging:
            serve(settings, sys.stdin, answers, publishing, judging)
    except (BrokenPipeError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
