"""Named points where a test stops, freezes or fails the process, to prove that no row is lost or doubled there.

A failpoint that is off (the default) costs one comparison. The command line arms one from `FRAUD_FAILPOINT`; nothing
else in the package changes its behaviour under test. Names are matched against `POINTS`, where `{layer}` is a layer
of the lake and `{model}` any dbt model.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass

from fraud_lakehouse.errors import SettingsError

POINTS: dict[str, str] = {
    # PostgreSQL: the log
    "postgres.before_read": "positions are known | nothing is read",
    "postgres.after_read": "messages are received | not decoded",
    "postgres.after_decode": "a piece is decoded | nothing of it is written",
    "postgres.before_position": "all tables are committed | the slot's position is not",
    "postgres.before_acknowledge": "the slot's position is durable | it is not acknowledged to the server",
    "postgres.after_acknowledge": "the position is acknowledged | the step has not returned",
    # PostgreSQL: the snapshot
    "postgres.before_snapshot": "slot and exported snapshot exist | no row is read",
    "postgres.in_snapshot": "one more chunk is staged or committed | the table has no position yet",
    "postgres.before_snapshot_position": "every table is ingested | the slot has no position yet",
    "postgres.after_snapshot_position": "the slot has its position | it is not acknowledged",
    # PostgreSQL: a resync of its tables
    "resync.after_copy": "the snapshot is in files | nothing is compared",
    "resync.before_commit": "a table's differences are staged | not committed",
    "resync.after_table": "one more table equals the source | the slot's position is not committed",
    "resync.after_position": "the slot's position is durable | it is not recorded in control/audit",
    # Kafka
    "kafka.before_read": "positions are known | nothing is fetched",
    "kafka.after_read": "records are fetched | not decoded",
    "kafka.after_decode": "the batch is decoded and in order | nothing of it is written",
    "kafka.before_group_commit": "rows and offsets are durable | the group's offsets are old",
    "kafka.after_group_commit": "the group's offsets are sent | the batch is not recorded for status",
    "quarantine.before_append": "records in quarantine are read again | the good ones are not appended",
    # every table that rows are appended to
    "{layer}.before_parquet": "rows are in memory | no file is written",
    "{layer}.after_parquet": "the data file is written and flushed | not committed",
    "{layer}.before_commit": "every data file of the batch is flushed | not committed",
    "{layer}.after_commit": "committed | not flushed",
    "{layer}.after_fsync": "committed and flushed | the caller does not know",
    # maintenance, by the writer itself or by schedule
    "compaction.before_commit": "the merged file is written | the table still consists of the small ones",
    "compaction.after_commit": "the merged file has replaced the small ones | not flushed",
    "checkpoint.before_write": "the commit is durable | its checkpoint is not begun",
    "checkpoint.after_write": "the checkpoint is written | not flushed",
    "log.before_clean": "a checkpoint is flushed | old log entries are all there",
    "log.after_clean": "old log entries are removed | the data files they removed still exist",
    "upkeep.before_vacuum": "checkpointed, log cleaned | nothing is deleted",
    "upkeep.after_vacuum": "unreferenced files are deleted | nothing is reported",
    # dbt models; alerts are recorded by the model `alerts`
    "model.{model}.before_commit": "the model's rows are computed | not committed",
    "model.{model}.after_commit": "rows and reading positions are committed | not flushed",
    "model.{model}.after_fsync": "committed and flushed | dbt does not know",
    # delivery
    "alerts.before_send": "the alert is recorded | not sent",
    "alerts.after_answer": "the destination has answered | the attempt is not recorded",
    "alerts.after_journal": "the attempt is recorded on local disk | not in the lake",
    "alerts.after_record": "the attempt is recorded | the round has not ended",
    # the validator of transfers
    "validator.before_request": "a transfer is due | it is not sent",
    "validator.after_answer": "the validator has answered | no answer of the round is recorded",
    # features to Kafka
    "publish.before_produce": "a transaction is open | it has no message",
    "publish.before_position": "its messages are produced | not its position",
    "publish.before_commit": "messages and position are in the transaction | it is not committed",
    "publish.after_commit": "the transaction is committed | nothing else records it",
}
"""Name -> what has happened | what has not happened yet."""

_PARTS = {"{layer}": "(bronze|silver|control|gold)", "{model}": "[a-z0-9_]+"}


def _kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_process() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": _kill_process,
    "stop": _stop_process,
    "enospc": _no_space,
    "fail": _fail,
}
"""What an armed failpoint does: SIGKILL, SIGSTOP (until SIGCONT), a full disk, or an I/O error at every pass."""


@dataclass
class _Armed:
    name: str | None = None
    remaining: int = 0
    action: Callable[[], None] = _kill_process


_armed = _Armed()


def arm(name: str, hits: int = 1, action: Callable[[], None] = _kill_process) -> None:
    """Run `action` (default: SIGKILL to this process) once, at the `hits`-th pass of the failpoint `name`.

    The action `fail` runs at that pass and at every later one.

    Raises:
        SettingsError: there is no such failpoint.
    """
    if pattern_of(name) is None:
        raise SettingsError(f"there is no failpoint {name!r}", f"use one of: {', '.join(POINTS)}")
    _armed.name, _armed.remaining, _armed.action = name, hits, action


def arm_from(text: str) -> None:
    """Arm from `name[:hits][:action]`, the format of the setting; `action` is a key of `ACTIONS`.

    Raises:
        SettingsError: there is no such failpoint or action, or `hits` is not a positive integer.
    """
    name, *options = text.split(":")
    hits = options.pop(0) if options and options[0] not in ACTIONS else "1"
    action = options.pop(0) if options else "kill"
    if options or action not in ACTIONS or not re.fullmatch("[1-9][0-9]*", hits):
        raise SettingsError(
            f"FRAUD_FAILPOINT is {text!r}", f"write name[:hits][:action], the action one of: {', '.join(ACTIONS)}"
        )
    arm(name, int(hits), ACTIONS[action])


def pattern_of(name: str) -> str | None:
    """The entry of `POINTS` that matches a failpoint's name, or None."""
    return next((pattern for pattern, known in _KNOWN.items() if known.fullmatch(name)), None)


def disarm() -> None:
    """Switch off the armed failpoint."""
    _armed.name = None


def failpoint(name: str) -> None:
    """Run the action if this failpoint is armed and its pass has come."""
    if _armed.name != name:
        return
    _armed.remaining -= 1
    if _armed.remaining <= 0:
        if _armed.action is not _fail:
            disarm()
        _armed.action()


def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern)
    for part, expression in _PARTS.items():
        text = text.replace(re.escape(part), expression)
    return re.compile(text)


_KNOWN = {pattern: _compiled(pattern) for pattern in POINTS}
