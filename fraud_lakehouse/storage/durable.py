"""fsync of what a Delta commit wrote: data files, log entries, checkpoints and their folders. Local lakes only.

delta-rs never calls fsync: after a power loss a commit it reported can be an empty file. A PUT to an object store is
durable when it returns, so remote lakes need nothing here.
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
    """fsync the log entry of one version whose data files are durable already. Log cleanup may have removed the entry.

    The folder is fsynced in either case.
    """
    if log_entry(root, version).exists():
        sync_file(log_entry(root, version))
    sync_folder(root / LOG)


def sync_new_folder(root: Path) -> None:
    """fsync the folder of a table that was just created and its parents, up to the parent of the lake's root."""
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
    """The lines of a JSON Lines text. `str.splitlines` would also split at U+2028, which a name may contain."""
    return [line for line in text.split("\n") if line]


def sync_versions(root: Path, first: int, last: int) -> None:
    """fsync the versions `first`..`last` and every data file they add."""
    for version in range(first, last + 1):
        entry = log_entry(root, version)
        if not entry.exists():  # cleaned by the process that has replaced this one
            continue
        for line in lines_of(entry.read_text(encoding="utf-8")):
            added = json.loads(line).get("add")
            if added:
                sync_file(root / unquote(added["path"]))
        sync_file(entry)
    sync_folder(root)
    sync_folder(root / LOG)


def mark_removed(files: Iterable[str]) -> None:
    """Touch data files that a commit removed from a table: vacuum counts their retention from now."""
    for file in files:
        with suppress(OSError):  # already vacuumed by another process, or owned by another user
            os.utime(file)


def check_not_left_behind(root: Path, version: int) -> None:
    """Raise if the entry of the version on which a commit was based is no longer in the log.

    Delta itself rejects a handle that old. But a process suspended inside the commit, after Delta had listed the log,
    would add an entry before all existing ones, where no reader sees it.

    Args:
        version: the version of the handle before the commit.

    Raises:
        ConcurrentWriterError: the commit has no effect.
    """
    if not log_entry(root, version).exists():
        raise ConcurrentWriterError(
            f"the log of {root} was cleaned beyond version {version} during a commit: other writers committed first",
            "nothing is lost: the next cycle reads the positions again and commits what is missing",
        )


def set_aside_torn_commit(root: Path) -> Path | None:
    """Move the newest log entry out of the log if a power loss left it empty or truncated.

    This is safe because a source is acknowledged only after its commit was fsynced. A torn commit was never
    acknowledged, so its rows are read from the source again.

    Returns:
        the entry's new path (kept for inspection), or None if the newest entry is complete.
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
    """Whether the last line of a log entry is a JSON object (entries are written front to back in one write)."""
    with entry.open("rb") as file:
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]  # long for a wide table
    try:
        return isinstance(json.loads(last), dict)
    except ValueError:
        return False
