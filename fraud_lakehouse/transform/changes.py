"""Which rows were added to a Delta table between two versions: the version is a reader's offset.

Only commits that change data count; a compaction moves rows without adding any. The log's JSON entries
are read directly, since a snapshot does not tell which commit added a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable

from fraud_lakehouse.lake import past_log
from fraud_lakehouse.lake.lake import table_root
from fraud_lakehouse.lake.past_log import Entry
from fraud_lakehouse.transform.scan import file_path


@dataclass(frozen=True)
class Added:
    """Files added in (from, to]; `append_only` is false when rows were also removed or the log or a file is gone.

    `renewed`: rows were removed, but only to be computed anew (RENEWED in lake/past_log.py); `files` are then those
    with rows that were not there before, as they were first computed.
    """

    files: list[str]
    append_only: bool
    renewed: bool = False


def added_files(table: DeltaTable, after: int, last: int | None = None) -> Added:
    """Files that commits after version `after`, up to `last` (default: the handle's version), added with new rows."""
    root = table_root(table)
    read = _remote_entries if "://" in root else _local_entries
    entries = read(root, after + 1, table.version() if last is None else last)
    if entries is None or not all(entry.append_only or entry.renewed for entry in entries):
        return Added([], append_only=False)
    files = [file_path(root, path) for entry in entries if not entry.renewed for path in entry.files]
    if "://" not in root and not all(os.path.exists(file) for file in files):
        return Added([], append_only=False)  # merged since, and vacuumed: the reader was away for more than a week
    renewed = any(entry.renewed for entry in entries)
    return Added(files, append_only=not renewed, renewed=renewed)


def _local_entries(root: str, first: int, last: int) -> list[Entry] | None:
    return past_log.entries(Path(root), first, last)


def _remote_entries(root: str, first: int, last: int) -> list[Entry] | None:
    """As `past_log.entries`, from an object store, where delta-rs cleans log and data after a time."""
    from deltalake.fs import DeltaStorageHandler  # needs pyarrow; only for remote lakes

    handler = DeltaStorageHandler(root)
    found: list[Entry] = []
    for version in range(first, last + 1):
        try:
            with handler.open_input_file(f"_delta_log/{version:020}.json") as stream:
                found.append(Entry.parse(version, bytes(stream.read()).decode()))
        except FileNotFoundError:
            return None
    return found
