"""Answers of destinations on local disk, until they are in gold/alert_deliveries: a line takes 1 ms, a commit 15 ms.

Only the holder of the lake's delivery lock uses it. If the file is lost, the alerts of the last half second are sent
again under the same `alert_id`; nothing else depends on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fraud_lakehouse.alerts.deliveries import Attempt
from fraud_lakehouse.errors import LakeError


class Journal:
    """A file of attempts, one JSON array per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Append attempts, durably.

        Raises:
            LakeError: the file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(_lines(attempts))
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from None

    def replace(self, attempts: Sequence[Attempt]) -> None:
        """Keep exactly these attempts; the others are in the lake.

        Raises:
            LakeError: the file cannot be written.
        """
        unseen = self._path.with_suffix(".new")
        try:
            if not attempts:
                self._path.unlink(missing_ok=True)
                return
            unseen.write_bytes(_lines(attempts))
            unseen.replace(self._path)
        except OSError as error:
            raise self._unwritable(error) from None

    def read(self) -> list[Attempt]:
        """Attempts of a process that died before its commit; a torn last line is an answer that was not journaled."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [_attempt(line) for line in lines]

    def _unwritable(self, error: OSError) -> LakeError:
        problem = f"the journal of deliveries {self._path} cannot be written: {error.strerror or error}"
        return LakeError(problem, "make room, or point FRAUD_WORK at a folder this user may write")


def _lines(attempts: Sequence[Attempt]) -> bytes:
    rows = (json.dumps([*one[:3], one.attempted_at.isoformat(), *one[4:]]) for one in attempts)
    return "".join(f"{row}\n" for row in rows).encode()


def _attempt(line: bytes) -> Attempt:
    alert_id, destination, attempt, attempted_at, status, error = json.loads(line)
    return Attempt(alert_id, destination, attempt, datetime.fromisoformat(attempted_at), status, error)
