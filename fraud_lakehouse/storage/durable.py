"""fsync of what a Delta commit wrote: data files, log entries, checkpoints and their folders. Local lakes only.

delta-rs never calls fsync: after a power loss a commit it reported can be an empty file. An object store is durable
when its PUT returns, so nothing here is called for one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from fraud_lakehouse.errors import ConcurrentWriterError

LOG = "_delta_log"


def sync_file(path: Path) -> None:
    """fsync one file."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """fsync a folder, so that names created in it survive a power loss."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_entry(root: Path, version: int) -> Path:
    """The commit file of a version."""
    return root / LOG / f"{version:020}.json"


def sync_commit(root: Path, version: int) -> None:
    """fsync the log entry of one version whose data files are durable already (log cleanup may have removed it)."""
    if log_entry(root, version).exists():
        sync_file(log_entry(root, version))
    sync_folder(root / LOG)


def sync_new_folder(root: Path) -> None:
    """fsync the folder of a table that was just created and those above it, up to the lake's root's parent."""
    for folder in (root, *list(root.parents)[:3]):
        sync_folder(folder)


def sync_checkpoint(root: Path, version: int) -> None:
    """fsync the checkpoint of a version and the pointer to it."""
    for path in (root / LOG).glob(f"{version:020}.checkpoint*"):
        sync_file(path)
    pointer = root / LOG / "_last_checkpoint"
    if pointer.exists():
        sync_file(pointer)
    sync_folder(root / LOG)


def lines_of(text: str) -> list[str]:
    """The lines of JSON lines: str.splitlines would also break them at U+2028 and the like, which a name may have."""
    return [line for line in text.split("\n") if line]


def sync_versions(root: Path, first: int, last: int) -> None:
    """fsync the versions `first`..`last` and every data file they add."""
    for version in range(first, last + 1):
        entry = log_entry(root, version)
        if not entry.exists():  # trimmed by another process, which has replaced this one meanwhile
            continue
        for line in lines_of(entry.read_text(encoding="utf-8")):
            added = json.loads(line).get("add")
            if added:
                sync_file(root / unquote(added["path"]))
        sync_file(entry)
    sync_folder(root)
    sync_folder(root / LOG)


def mark_removed(files: Iterable[str]) -> None:
    """Note by their times that a commit took data files out of a table: from now on a vacuum keeps them for a while."""
    for file in files:
        with suppress(OSError):  # vacuumed by another process, or another user's
            os.utime(file)


def check_not_left_behind(root: Path, version: int) -> None:
    """Refuse a commit that was made on a version whose entry has gone from the log meanwhile.

    Delta refuses a handle that old. But a process that was suspended within the commit itself, after Delta had listed
    the log, would add an entry before all that is there: no reader sees it.

    Args:
        version: that the handle had before the commit.

    Raises:
        ConcurrentWriterError: nothing of the commit counts.
    """
    if not log_entry(root, version).exists():
        raise ConcurrentWriterError(
            f"the log of {root} was cleaned beyond version {version} during a commit: other writers were faster",
            "nothing is lost: the positions are read again, and the commit is made anew unless it is there",
        )


def set_aside_torn_commit(root: Path) -> Path | None:
    """Move the newest log entry out of the log if a power loss left it empty or cut short.

    Safe because a source is acknowledged only after its commit was fsynced: a torn commit was never acknowledged, so
    its rows are read from the source again.

    Returns:
        where the entry went (kept for inspection), or None if the newest entry is whole.
    """
    folder = root / LOG
    if not folder.is_dir():
        return None
    newest = max((name for name in os.listdir(folder) if name.endswith(".json") and name[:20].isdigit()), default=None)
    if newest is None or newest == f"{0:020}.json" or _is_whole(folder / newest):
        return None
    aside = root / f"_torn-{newest}-{time.time_ns()}"
    os.replace(folder / newest, aside)
    sync_folder(folder)
    return aside


def _is_whole(entry: Path) -> bool:
    """Whether the last line of a log entry is a JSON object (entries are written front to back in one go)."""
    with entry.open("rb") as file:
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]  # of a wide table it may be long
    try:
        return isinstance(json.loads(last), dict)
    except ValueError:
        return False
