"""The process beside the cycle: the replica and the features lane, when there is something new, and daily upkeep.

It parses a changed dbt project too, so that the hot lane takes it over without waiting for dbt's parser. It yields the
processor to the cycle. How the cycle talks to it is in `beside.py`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, TextIO

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.lake.failpoints import arm_from
from fraud_lakehouse.lake.lake import Lake
from fraud_lakehouse.lake.maintenance import DailyUpkeep
from fraud_lakehouse.lake.writer_lock import BESIDE, TURN_SECONDS, writer_lock
from fraud_lakehouse.publish.lane import PublishLane
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.transform.runner import Transformer

LANES = ("replica", "features")
SHARE = 5.0  # the lanes may take a fifth of the time: they wait five times what they last took
PROJECT_SECONDS = 2.0
_NICE = 10


class _Changes(threading.Thread):
    """Reads the parent's lines: `changed` is set by each, `ended` when the parent is gone."""

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


def serve(settings: Settings, lines: TextIO, say: TextIO, publishing: PublishLane) -> None:
    """Build the lanes after a change, at most every `replica_interval` seconds, until `lines` ends."""
    changes = _Changes(lines)
    changes.start()
    due = 0.0
    daily = DailyUpkeep(Lake.at(settings.lake))
    transformer = Transformer(settings)
    try:
        while not changes.ended.is_set():
            problem = _reload(transformer) or publishing.problem
            if not changes.changed.is_set() or time.monotonic() < due or not transformer.is_ready:
                _tell(say, {"problem": problem or _keep_up(daily, settings, idle=not changes.changed.is_set())})
                changes.ended.wait(PROJECT_SECONDS)
                continue
            changes.changed.clear()
            began = time.monotonic()
            for lane in LANES:
                try:
                    with writer_lock(settings.work_dir, TURN_SECONDS, BESIDE):
                        result = transformer.build_lane(lane)
                except LakehouseError as error:
                    problem = str(error)
                    changes.changed.set()  # to be built again
                    continue
                nodes = [asdict(node) for node in result.nodes]
                _tell(say, {"problem": problem, "seconds": result.seconds, "nodes": nodes})
            _tell(say, {"problem": problem})
            took = time.monotonic() - began
            due = time.monotonic() + max(settings.replica_interval, settings.update_delay, SHARE * took)
    finally:
        transformer.close()


def _keep_up(daily: DailyUpkeep, settings: Settings, *, idle: bool) -> str | None:
    """Maintain a table, if it is time for one; why it could not be done."""
    try:
        with writer_lock(settings.work_dir, TURN_SECONDS, BESIDE):
            daily.step(idle=idle)
    except LakehouseError as error:
        return str(error)
    return None


def _reload(transformer: Transformer) -> str | None:
    try:
        transformer.reload()
    except LakehouseError as error:
        return str(error)
    return None


def _tell(say: TextIO, answer: dict[str, Any]) -> None:
    say.write(json.dumps(answer) + "\n")
    say.flush()


def main() -> None:
    """The process: settings from the environment, changes from standard input, answers on standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(_NICE)
    answers, sys.stdout = sys.stdout, sys.stderr  # dbt prints: nothing of it may get between the answers
    settings = load_settings()
    if settings.failpoint:
        arm_from(settings.failpoint)
    try:
        with PublishLane(settings) as publishing:
            serve(settings, sys.stdin, answers, publishing)
    except (BrokenPipeError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
