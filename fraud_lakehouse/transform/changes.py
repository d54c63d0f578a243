"""Which rows were added to a Delta table between two versions: the version is a reader's offset.

Only commits that change data count; a compaction moves rows without adding any. The log's JSON entries
are read directly, since a snapshot does not tell which commit added a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable

from fraud_lakehouse.lake.lake import table_root
from fraud_lakehouse.transform.scan import file_path


@dataclass(frozen=True)
class Added:
    """Files added in (from, to]; `append_only` is false when rows were also removed or the log is gone."""

    files: list[str]
    append_only: bool


def added_files(table: DeltaTable, after: int) -> Added:
    """Files that commits after version `after`, up to the handle's version, added with new rows."""
    root = table_root(table)
    files: list[str] = []
    for version in range(after + 1, table.version() + 1):
        entry = _log_entry(root, version)
        if entry is None:
            return Added([], append_only=False)
        for line in entry.splitlines():
            action = json.loads(line)
            if (add := action.get("add")) and add["dataChange"]:
                files.append(file_path(root, add["path"]))
            elif (remove := action.get("remove")) and remove["dataChange"]:
                return Added([], append_only=False)
    return Added(files, append_only=True)


def _log_entry(root: str, version: int) -> str | None:
    """The text of a commit, or None where log cleanup has removed it."""
    name = f"_delta_log/{version:020d}.json"
    if "://" not in root:
        path = Path(root) / name
        return path.read_text() if path.exists() else None
    from deltalake.fs import DeltaStorageHandler  # needs pyarrow; only for remote lakes

    handler = DeltaStorageHandler(root)
    try:
        with handler.open_input_file(name) as stream:
            return bytes(stream.read()).decode()
    except FileNotFoundError:
        return None
